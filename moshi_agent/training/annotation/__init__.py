"""Finds words with their times for stereo conversations, by a speech recogniser or from transcripts."""
