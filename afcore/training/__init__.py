"""Steps, optimizer, statistics, workers, scores of an epoch. Commits nothing."""
