"""Exchanges of one's own for the built-in model: from a text file to conversations to train on, and a score.

`examples/finetune_tiny.py` puts the parts together.
"""
