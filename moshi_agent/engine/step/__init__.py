"""One frame of all conversations at once, on the device."""
