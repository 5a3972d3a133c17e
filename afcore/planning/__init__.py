"""Decisions and forecasts from measurements: pure functions, no I/O, no torch."""
