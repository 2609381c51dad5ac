"""Settings of a run: presets, what is set on top of them, the command line."""
