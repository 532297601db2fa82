"""Measures what the engine does."""
