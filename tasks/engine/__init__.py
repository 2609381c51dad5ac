"""What runs stages: the pipeline, task runners, child processes, launchers."""
