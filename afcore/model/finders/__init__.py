"""Finders of a model's blocks, a file each, in the order of the registry."""
