"""Configuration of the stages: pydantic only."""
