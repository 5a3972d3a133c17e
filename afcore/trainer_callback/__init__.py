"""Freezing in somebody else's loop: a callback for Hugging Face's ``Trainer``."""
