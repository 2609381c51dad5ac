"""One module per box of the DAG: a stage, or a task that makes no artifact."""
