"""What was wrong with the files of a data set: named once, counted, and told at the end."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path

_log = logging.getLogger("moshi_agent.training")


@dataclass
class Problems:
    """Collects files left out, and files used though something about them is not as it says."""

    skipped: dict[Path, str] = field(default_factory=dict[Path, str])  # and why
    noted: dict[Path, str] = field(default_factory=dict[Path, str])

    def skip(self, path: Path, reason: object) -> None:
        """Leaves a file out. Only the first reason counts."""
        if path not in self.skipped:
            self.skipped[path] = str(reason)
            _log.warning("left out: %s", _named(path, str(reason)))

    def note(self, path: Path, remark: str) -> None:
        """Names a file that is used although something is wrong with it."""
        if path not in self.noted:
            self.noted[path] = remark
            _log.warning("used with a remark: %s", _named(path, remark))

    def __bool__(self) -> bool:
        return bool(self.skipped or self.noted)

    def report(self, most: int = 20) -> str:
        """Counts the files of each kind, and names up to `most` with the reason; "" if all is well."""
        return "\n".join(
            _listed("left out", self.skipped, most) + _listed("used with a remark", self.noted, most)
        )


def _listed(heading: str, reasons: dict[Path, str], most: int) -> list[str]:
    if not reasons:
        return []
    lines = [f"{len(reasons)} files {heading}:" if len(reasons) > 1 else f"1 file {heading}:"]
    lines += [f"  {_named(path, reason)}" for path, reason in list(reasons.items())[:most]]
    if len(reasons) > most:
        lines.append(f"  and {len(reasons) - most} more")
    return lines


def _named(path: Path, reason: str) -> str:
    return reason if str(path) in reason else f"{path}: {reason}"
