"""Kyutai's format: files, configuration, names of tensors, and how it is written."""
