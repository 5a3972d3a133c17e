"""Hugging Face's own ``Trainer`` as a run, to compare with."""
