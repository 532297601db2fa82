"""The streaming engine: many conversations that are not in step, on one device."""
