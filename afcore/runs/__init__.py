"""A training from commit to commit: its name, its records, its state, what each epoch reads."""
