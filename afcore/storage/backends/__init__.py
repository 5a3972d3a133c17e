"""Where objects lie, a file for each kind of place."""
