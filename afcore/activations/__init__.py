"""Activation sets: what a frozen prefix puts out for every example, kept on Zarr."""
