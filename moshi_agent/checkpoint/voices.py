"""Voices by name: in the archive that comes with a model, or in a folder.

A voice is a file of NVIDIA's (`NATF2.pt`, what a voice's recording has left in the model) or a recording. The
archive is never unpacked: nothing in it becomes a path. A name is looked up among those that were found when
the model was loaded, and in nothing else.
"""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol, Self, cast

import torch
from torch import Tensor

from moshi_agent.errors import ConfigError, InputError

_NAME = re.compile(r"[A-Za-z0-9][\w-]{0,99}")
_FILE = ".pt"
_ZIP = b"PK\x03\x04"
RECORDINGS = (".wav", ".flac", ".ogg", ".mp3")
_LARGEST_FILE = 64 << 20  # bytes; NVIDIA's have about one million
_LARGEST_HEADER = 1 << 20  # bytes: long names, and what tar knows more of a file
_MOST_MEMBERS = 10_000  # of an archive
_DAMAGED = (tarfile.TarError, OSError, EOFError, zlib.error)  # what reading a damaged archive raises


@dataclass(frozen=True)
class VoiceFile:
    """What a voice has left in the model: what its frames were to it, and the last tokens."""

    embeddings: Tensor = field(repr=False)  # [steps, dim], read by the temporal transformer
    tokens: Tensor = field(repr=False)  # [streams, slots] int64, a ring over positions


class Place(Protocol):
    """Where a voice is."""

    @property
    def name(self) -> str:
        """For people."""
        ...

    @property
    def recording(self) -> Path | None:
        """The file, where it is a recording."""
        ...

    def read(self) -> VoiceFile:
        """Reads what is in it, where it is none. Raises InputError."""
        ...


@dataclass(frozen=True)
class FilePlace:
    """A file by itself."""

    path: Path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def recording(self) -> Path | None:
        return None if self.path.suffix.lower() == _FILE else self.path

    def read(self) -> VoiceFile:
        try:
            with self.path.open("rb") as file:
                return read_voice_file(file, self.name)
        except OSError as error:
            raise InputError(f"{self.path}: cannot be read ({error.strerror})") from error


@dataclass(frozen=True)
class MemberPlace:
    """A file in an archive."""

    archive: Path
    member: str
    recording: None = None

    @property
    def name(self) -> str:
        return f"{self.member} in {self.archive}"

    def read(self) -> VoiceFile:
        for name, file in _members(self.archive):
            if name == self.member:
                try:
                    return read_voice_file(file, self.name)
                except _DAMAGED as error:
                    raise InputError(f"{self.name}: damaged ({error})") from error
        raise InputError(f"{self.name}: it is no longer there")


class Voices(Mapping[str, Place]):
    """Voices that may be asked for, by name."""

    def __init__(self, places: Mapping[str, Place] | None = None) -> None:
        self._places = dict(places or {})

    def __getitem__(self, name: str) -> Place:
        return self._places[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._places))

    def __len__(self) -> int:
        return len(self._places)


def find_voices(where: Path) -> Voices:
    """Finds the voices in a folder, or in an archive (`.tgz`).

    Raises:
        ConfigError: it is neither, or damaged.
    """
    if where.is_dir():
        files = (file for file in sorted(where.iterdir()) if file.is_file())
        accepted = (file for file in files if file.suffix.lower() in (_FILE, *RECORDINGS))
        return Voices({file.stem: FilePlace(file) for file in accepted if _NAME.fullmatch(file.stem)})
    if not where.is_file():
        raise ConfigError(f"{where}: no folder with voices, and no archive of them")
    try:
        members = [name for name, _ in _members(where)]
    except InputError as error:
        raise ConfigError(str(error)) from error
    return Voices({Path(name).stem: MemberPlace(where, name) for name in members})


class _BoundedHeader(tarfile.TarInfo):
    """Is a header of an archive; what only describes a file may not be large, for it is read into memory."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        header = super().frombuf(buf, encoding, errors)
        if not header.isreg() and header.size > _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {header.size >> 20} MB")
        return header


def _members(archive: Path) -> Iterator[tuple[str, BinaryIO]]:
    """The voice files of an archive, by the last parts of their names. All else is passed over."""
    try:
        # By `gzip`: the reader of tarfile's own stumbles over some headers in Python 3.11.2.
        with (
            gzip.open(archive) as unpacked,
            tarfile.open(fileobj=unpacked, mode="r|", tarinfo=_BoundedHeader) as tar,
        ):
            for number, member in enumerate(tar):
                if number >= _MOST_MEMBERS or member.size > _LARGEST_FILE:
                    raise InputError(f"{archive}: no archive of voices: too many files, or too large ones")
                name = member.name.rpartition("/")[2]
                file = tar.extractfile(member) if member.isreg() and _is_voice_file(name) else None
                if file is not None:
                    yield name, cast(BinaryIO, file)
    except _DAMAGED as error:
        raise InputError(f"{archive}: not a whole archive of voices ({error})") from error


def _is_voice_file(name: str) -> bool:
    return name.endswith(_FILE) and _NAME.fullmatch(name.removesuffix(_FILE)) is not None


def read_voice_file(file: BinaryIO, name: str) -> VoiceFile:
    """Reads `{"embeddings": ..., "cache": ...}`, as NVIDIA's package writes it. No code in it is run.

    Args:
        name: of the file, for people.

    Raises:
        InputError: it is something else, damaged, or holds more than tensors.
    """
    data = file.read(_LARGEST_FILE + 1)
    if len(data) > _LARGEST_FILE:
        raise InputError(f"{name}: more than {_LARGEST_FILE >> 20} MB, which no voice file has")
    if not data.startswith(_ZIP):
        raise InputError(f"{name}: no voice file; accepted: what `torch.save` writes")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
        if unpacked > _LARGEST_FILE:
            raise ValueError("its parts are larger than the file")
        loaded: object = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file makes the reader raise whatever it comes upon
        reason = str(error).partition("\n")[0]
        raise InputError(f"{name}: no voice file, or one with more than tensors in it ({reason})") from error
    parts = cast("dict[Any, Any]", loaded) if isinstance(loaded, dict) else {}
    embeddings, tokens = parts.get("embeddings"), parts.get("cache")
    if not isinstance(embeddings, Tensor) or not isinstance(tokens, Tensor):
        raise InputError(f"{name}: a voice file holds the tensors embeddings and cache; this one does not")
    return _checked(embeddings, tokens, name)


def _checked(embeddings: Tensor, tokens: Tensor, name: str) -> VoiceFile:
    """embeddings: [steps, 1, 1, dim], tokens: [1, streams, slots], as theirs are stored."""
    if any(one.layout is not torch.strided or one.device.type != "cpu" for one in (embeddings, tokens)):
        raise InputError(f"{name}: tensors that are not plain ones")
    has_steps = embeddings.dim() >= 2 and embeddings.numel() == len(embeddings) * embeddings.shape[-1]
    if not (has_steps and embeddings.numel() and embeddings.is_floating_point()):
        raise InputError(
            f"{name}: embeddings of shape {list(embeddings.shape)}; accepted: [steps, 1, 1, dim]"
        )
    if tokens.dim() != 3 or len(tokens) != 1 or tokens.dtype != torch.int64 or not tokens.numel():
        raise InputError(
            f"{name}: a cache of shape {list(tokens.shape)}; accepted: [1, streams, slots] int64"
        )
    if max(embeddings.numel(), tokens.numel()) > _LARGEST_FILE:
        raise InputError(f"{name}: tensors that are larger than their file")
    if not bool(embeddings.isfinite().all()):
        raise InputError(f"{name}: embeddings that are no finite numbers")
    return VoiceFile(embeddings.reshape(len(embeddings), -1), tokens[0])
