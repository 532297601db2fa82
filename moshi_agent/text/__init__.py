"""Text as the models write it: pieces, words with their times, and what is made of them.

pieces.py        tokens as text, text as tokens
word_tracker.py  pieces as words, each with its place in the audio
timed_reader.py  a recogniser's tokens as pieces, words and pauses
"""
