"""Training and fine-tuning of the Mimi codec, of any size: `moshi-agent train mimi`."""
