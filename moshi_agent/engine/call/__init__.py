"""One conversation on the host: its frames in, its events out."""
