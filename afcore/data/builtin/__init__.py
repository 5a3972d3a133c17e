"""Data sets that need no files: a module each, and a line in :mod:`afcore.data.builtin.names`."""
