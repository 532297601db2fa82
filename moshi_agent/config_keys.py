"""Dictionaries from outside: no key is passed over in silence."""

from __future__ import annotations

from collections.abc import Iterable

from moshi_agent.errors import ConfigError


def refuse_unknown_keys(given: Iterable[str], accepted: Iterable[str], where: str) -> None:
    """Raises ConfigError naming every key of `given` that is not in `accepted`."""
    accepted = sorted(accepted)
    unknown = sorted(set(given) - set(accepted))
    if unknown:
        raise ConfigError(
            f"{where}: unknown key {', '.join(map(repr, unknown))}; accepted: {', '.join(accepted)}"
        )
