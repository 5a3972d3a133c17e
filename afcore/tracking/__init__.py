"""The only room that knows MLflow: a run per training, experiments, models, the registry."""
