"""The recipe of the built-in model, from synthetic speech to the shipped files: `moshi-agent train tiny`."""
