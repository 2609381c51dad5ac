"""Configuration of model, training and child processes: pydantic only."""
