"""The codes of whole recordings: encoded once, then read from disk or kept in memory."""

from __future__ import annotations

import hashlib
import logging
import os
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from moshi_agent.errors import AudioError, DataError, OutputError
from moshi_agent.models.mimi import MimiModel
from moshi_agent.outputs import whole_file
from moshi_agent.training.stereo.codec_digest import codec_digest
from moshi_agent.training.stereo.encode import Encoding, encode, read_stereo
from moshi_agent.training.stereo.recording import Recording

_log = logging.getLogger("moshi_agent.training")
_GROUP_FILES = 16  # that are encoded side by side: four times as fast as one after the other
_GROUP_S = 1200.0  # of their audio, which is all in memory at once


class CodeStore:
    """Keeps the codes [2, codebooks, frames] int16 of stereo files: left, right.

    Args:
        encoding: `whole` gives a signal to the codec at once; `live` frame by frame, with the very codes that
            a call would have (see `MimiModel`), which takes longer.
        folder: keeps the codes of each file, by its path, size, time of change and the codec; None keeps what
            fits into `memory_bytes` only.
    """

    def __init__(
        self,
        mimi: MimiModel,
        *,
        encoding: Encoding = "whole",
        folder: Path | None = None,
        memory_bytes: int = 1 << 29,
    ) -> None:
        self.mimi = mimi
        self.encoding: Encoding = encoding
        self.folder = folder
        self._digest = codec_digest(mimi)
        self._memory_bytes = memory_bytes
        self._kept: OrderedDict[Path, Tensor] = OrderedDict()
        self._kept_bytes = 0

    def codes(self, path: Path) -> Tensor:
        """Returns the codes of a file.

        Raises:
            AudioError: the file cannot be read to its end.
            DataError: it has not two channels.
        """
        if path in self._kept:
            self._kept.move_to_end(path)
            return self._kept[path]
        codes = self._from_disk(path)
        if codes is None:
            [codes] = encode(self.mimi, [read_stereo(path, self.mimi)], self.encoding)
            self._to_disk(path, codes)
        self._keep(path, codes)
        return codes

    def prepare(self, recordings: Sequence[Recording]) -> Iterator[tuple[Path, Exception | None]]:
        """Encodes the files that have no codes yet, and tells of each whether it could be read.

        Files are encoded in groups. A group of which something is missing is encoded again as a whole, so
        that its codes are the same when this is interrupted and called again.
        """
        for group in _groups(recordings, 1 if self.encoding == "whole" else _GROUP_FILES):
            if all(self._has(recording.path) for recording in group):
                yield from ((recording.path, None) for recording in group)
            else:
                yield from self._encode_group([recording.path for recording in group])

    def _encode_group(self, paths: Sequence[Path]) -> Iterator[tuple[Path, Exception | None]]:
        audio: dict[Path, Tensor] = {}
        for path in paths:
            try:
                audio[path] = read_stereo(path, self.mimi)
            except (AudioError, DataError) as error:
                yield path, error
        if not audio:
            return
        for path, codes in zip(audio, encode(self.mimi, [*audio.values()], self.encoding), strict=True):
            self._to_disk(path, codes)
            self._keep(path, codes)
            yield path, None

    def _has(self, path: Path) -> bool:
        place = self._place(path)
        return path in self._kept or (place is not None and place.is_file())

    def _keep(self, path: Path, codes: Tensor) -> None:
        replaced = self._kept.pop(path, None)
        self._kept[path] = codes
        self._kept_bytes += codes.nbytes - (0 if replaced is None else replaced.nbytes)
        while self._kept_bytes > self._memory_bytes and len(self._kept) > 1:
            self._kept_bytes -= self._kept.popitem(last=False)[1].nbytes

    def _place(self, path: Path) -> Path | None:
        if self.folder is None:
            return None
        try:
            stat = path.stat()
        except OSError:
            return None  # what reads the audio says it better
        key = f"{path.resolve()}\n{stat.st_size}\n{stat.st_mtime_ns}\n{self._digest}\n{self.encoding}"
        name = hashlib.blake2b(os.fsencode(key), digest_size=12).hexdigest()
        return self.folder / f"{path.stem[:40]}-{name}.safetensors"

    def _from_disk(self, path: Path) -> Tensor | None:
        place = self._place(path)
        if place is None or not place.is_file():
            return None
        try:
            return load_file(place)["codes"]
        except (SafetensorError, OSError, KeyError) as error:
            _log.warning("%s is damaged, and made anew: %s", place, error)
            return None

    def _to_disk(self, path: Path, codes: Tensor) -> None:
        """A disk that is full costs time, since codes are made again, and no training."""
        place = self._place(path)
        if place is None:
            return
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(place) as temporary:
                save_file({"codes": codes}, temporary)
        except (OutputError, OSError, SafetensorError) as error:
            _log.warning("the codes of %s are not kept: %s", path, error)


def _groups(recordings: Sequence[Recording], most: int) -> Iterator[list[Recording]]:
    """Neighbours, no more than `most`, and not too long together when all are as long as the longest."""
    group: list[Recording] = []
    for recording in recordings:
        longest_s = max(one.duration_s for one in [*group, recording])
        if group and (len(group) == most or (len(group) + 1) * longest_s > _GROUP_S):
            yield group
            group = []
        group.append(recording)
    if group:
        yield group
