"""Decides whose frame is stepped when, and in which row."""
