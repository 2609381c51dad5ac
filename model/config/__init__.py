"""Configuration of the model, its training and its child processes: pydantic only."""
