"""Audio on its way to and from the model: files, resampling, frames. Nothing here knows torch."""
