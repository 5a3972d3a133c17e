"""An epoch: its steps, its workers, the statistics of its gradients. Commits nothing."""
