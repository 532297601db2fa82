"""One conversation of a data set: its audio, which is checked for two channels, and its words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from moshi_agent.audio.files import read_header
from moshi_agent.errors import AudioError, DataError
from moshi_agent.training.stereo.alignments import Sidecar, read_sidecar, sidecar_path
from moshi_agent.training.stereo.manifest import ManifestEntry
from moshi_agent.training.stereo.problems import Problems
from moshi_agent.training.stereo.references import Reference, read_references, references_path

DURATION_TOLERANCE_S = 0.1


@dataclass(frozen=True, slots=True)
class Recording:
    """Names a stereo file, and says how long it really is."""

    path: Path
    duration_s: float

    def words(self) -> Sidecar:
        """Reads the words. Raises DataError as `read_sidecar` does."""
        return read_sidecar(sidecar_path(self.path), self.duration_s)

    def references(self) -> tuple[Reference, ...]:
        """Reads what the model was given. Raises DataError as `read_references` does."""
        return read_references(references_path(self.path), self.duration_s)


def open_recordings(entries: Iterable[ManifestEntry], problems: Problems) -> list[Recording]:
    """Looks at each file's header and words. Files that are no good, or not as they say, go to `problems`."""
    recordings: list[Recording] = []
    for entry in entries:
        try:
            recording = _open(entry)
            sidecar = recording.words()
            recording.references()
        except (AudioError, DataError) as error:
            problems.skip(entry.path, error)
            continue
        recordings.append(recording)
        _remark(entry, recording, sidecar, problems)
    return recordings


def _open(entry: ManifestEntry) -> Recording:
    header = read_header(entry.path)
    if header.channels != 2:
        raise DataError(
            f"{entry.path} has {header.channels} channel{'s' * (header.channels > 1)}; "
            "needed are two, Moshi on the left and the user on the right"
        )
    return Recording(entry.path, header.duration_s)


def _remark(entry: ManifestEntry, recording: Recording, sidecar: Sidecar, problems: Problems) -> None:
    remarks: list[str] = []
    if entry.duration_s is not None and abs(entry.duration_s - recording.duration_s) > DURATION_TOLERANCE_S:
        remarks.append(
            f"listed with {entry.duration_s:.2f} s, used for the {recording.duration_s:.2f} s it has"
        )
    empty = sum(word.end_s <= word.start_s for word in sidecar.alignments)
    if empty:
        remarks.append(f"{empty} of its words end before they last any time, and are left out")
    if remarks:
        problems.note(entry.path, "; ".join(remarks))
