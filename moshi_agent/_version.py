"""The version of the package: read here by the build, and by `moshi-agent --version`."""

__version__ = "0.1.0"
