"""What a model can do here: split, cached, frozen, or none of it, and why."""
