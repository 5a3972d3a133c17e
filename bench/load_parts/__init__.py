"""Pieces of ``bench/load.py``."""
