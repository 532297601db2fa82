"""The cases of `make_golden.py`, one module per kind of model. Needs the peers' packages."""
