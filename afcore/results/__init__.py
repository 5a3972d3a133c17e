"""What a run says of itself: report, pictures, MLflow, and what can be asked of it later."""
