"""Where weights are, in which format, and how they come into our models."""
