"""Trains and fine-tunes the Mimi codec, of any size: `moshi-agent train mimi`."""
