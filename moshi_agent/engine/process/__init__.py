"""Runs the engine in a process of its own, behind the API of one in this process."""
