"""Core: errors, base of configs, artifacts, store, files, processes. No torch."""
