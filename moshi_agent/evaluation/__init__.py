"""Measures how a model takes turns, as Full-Duplex-Bench does (v1: arXiv 2503.04721, v1.5: arXiv 2507.23159).

samples      the folders that hold a sample each, and which task one is of
answering    all inputs through an engine, many at once
take_over    whether the model takes the turn, and how soon
backchannel  short sounds while the user goes on
timing       how long both speak at once, and how long a reply takes
behavior     what the model does after an overlap, by a judge
suites       the measures of a whole folder
small_suite  samples of our own, from the sample questions
report       the results as one page

The measures are written anew after the benchmark's own scripts, and `tests/golden/evaluation` holds what
those compute for the same outputs.
"""
