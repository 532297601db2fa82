"""Adapters: one module or folder per framework, each installed by the extra of the same name.

Nothing is imported here, so that an adapter costs only those who use it.
"""
