"""Freeze policies as pure functions: statistics + state -> state."""
