"""Objects under one root URI, and the right to work on them."""
