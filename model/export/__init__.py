"""Export to the formats of other runtimes: ``python -m model.export``; and the registry client."""
