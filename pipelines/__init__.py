"""Prefect flows over :mod:`afcore`, and the command line."""
