"""Searches: many trainings that differ in a few settings, each an ordinary run in one store."""
