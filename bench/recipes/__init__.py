"""Data sets of the benches: each a recipe, from what a machine has, and a digest."""
