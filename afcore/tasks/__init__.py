"""One module per task: collation, loss, metrics."""
