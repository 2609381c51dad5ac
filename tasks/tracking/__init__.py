"""MLflow: runs of pipelines and trainings, registered models, data set inputs."""
