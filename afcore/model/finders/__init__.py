"""Finders of a model's blocks, a file each, asked in the order of :mod:`.find_stack`."""
