"""Text options that may be repeated, whose environment variable holds one value."""

from __future__ import annotations

from collections.abc import Sequence

from click.types import StringParamType


class WholeText(StringParamType):
    """Takes an environment variable as it is: click would split it at every space."""

    def split_envvar_value(self, rv: str) -> Sequence[str]:
        """Returns the one value."""
        return [rv]
