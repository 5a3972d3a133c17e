"""Pieces of ``bench/search.py``."""
