"""The plugin's version, which is the package's."""

from moshi_agent import __version__

__all__ = ["__version__"]
