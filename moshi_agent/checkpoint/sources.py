"""Where the files of a checkpoint are: in the package, in a folder, or in a repository of the hub.

A source is given as one string (or path). It is, in this order,

1. `tiny`: the built-in checkpoint;
2. `hf://owner/name`: a repository, whatever folders there are;
3. a folder that exists;
4. `owner/name`: a repository, unless it is written like a path (`./x`, `../x`, `/x`, `~/x`).
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Protocol

from huggingface_hub import hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from moshi_agent.checkpoint.foreign import foreign_source
from moshi_agent.errors import CheckpointError

BUILT_IN = "tiny"

_HUB = "hf://"
_FILE = "file://"
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TOKENIZERS = ("tokenizer.model", "tokenizer_spm_32k_3.model", "spiece.model")


class Source(Protocol):
    """A place with files, by their names."""

    @property
    def name(self) -> str: ...

    def find(self, file: str) -> Path | None:
        """Finds the file, or None where there is none of this name.

        Raises CheckpointError if it cannot tell.
        """
        ...

    def find_tokenizer(self) -> Path | None:
        """Finds a sentencepiece model, where there is one."""
        ...


def get(source: Source, file: str) -> Path:
    """Finds the file. Raises CheckpointError where the source has none of this name."""
    path = source.find(file)
    if path is None:
        foreign = foreign_source(source.name)
        hint = "" if foreign is None else f"; by its name it holds {foreign}"
        raise CheckpointError(f"{source.name}: there is no file {file} in it{hint}")
    return path


def resolve(reference: str | os.PathLike[str], source: Source, token: str | None = None) -> Path:
    """Finds what a configuration names: a file of the source, `hf://owner/name/file`, or `file://path`.

    Raises:
        CheckpointError: there is no such file.
    """
    if not isinstance(reference, str):
        return _existing(Path(reference))
    if reference.startswith(_FILE):
        return _existing(Path(reference.removeprefix(_FILE)))
    if reference.startswith(_HUB):
        owner, name, file = (*reference.removeprefix(_HUB).split("/", 2), "", "")[:3]
        if not file:
            raise CheckpointError(f"{reference}: a file of a repository is written hf://owner/name/file")
        # A revision is one of the repository it was given for; this is another.
        return get(Repository(f"{owner}/{name}", None, token), file)
    return get(source, reference)


def _existing(path: Path) -> Path:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; accepted: a file in it")
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    return path


def open_source(
    source: str | os.PathLike[str], revision: str | None = None, token: str | None = None
) -> Source:
    """Says what `source` is; the rule stands at the top of this file.

    Raises:
        CheckpointError: it is none of these.
    """
    opened = _open(source, revision, token)
    if revision is not None and isinstance(opened, Folder):
        raise CheckpointError(f"{opened.name}: a folder, which has no revision {revision}")
    return opened


def _open(source: str | os.PathLike[str], revision: str | None, token: str | None) -> Folder | Repository:
    if not isinstance(source, str):
        return _open_folder(Path(source))
    if source == BUILT_IN:
        return Folder(Path(str(resources.files("moshi_agent") / "assets" / BUILT_IN)), BUILT_IN)
    if source.startswith(_HUB):
        source = source.removeprefix(_HUB)
    elif source.startswith((".", "/", "~")) or "\\" in source or (source and Path(source).exists()):
        return _open_folder(Path(source))
    if _REPOSITORY.fullmatch(source):
        return Repository(source, revision, token)
    raise CheckpointError(
        f"{source!r}: no folder of this name, and no repository; "
        f"accepted: {BUILT_IN}, a folder, owner/name of a repository"
    )


@dataclass(frozen=True)
class OnDemand:
    """Opens a source when a file of it is wanted: who gives every file may choose any name."""

    name: str
    revision: str | None = None
    token: str | None = None

    def find(self, file: str) -> Path | None:
        return open_source(self.name, self.revision, self.token).find(file)

    def find_tokenizer(self) -> Path | None:
        return open_source(self.name, self.revision, self.token).find_tokenizer()


def _open_folder(path: Path) -> Folder:
    path = path.expanduser()
    if path.is_file():
        raise CheckpointError(f"{path}: a file, and the folder of a checkpoint is needed")
    if not path.is_dir():
        raise CheckpointError(f"{path}: no such folder")
    return Folder(path, str(path))


@dataclass(frozen=True)
class Folder:
    """A folder on this machine."""

    path: Path
    name: str

    def find(self, file: str) -> Path | None:
        path = self.path / file
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise CheckpointError(
                f"{self.path}: {file[:100]!r} is outside of it; accepted: a file in it, or file://PATH"
            )
        try:
            return path if path.is_file() else None
        except OSError as error:  # of a configuration that names something else than a file
            raise CheckpointError(
                f"{self.path}: {file[:40]!r} is no file in it ({error.strerror})"
            ) from error

    def find_tokenizer(self) -> Path | None:
        named = [path for file in _TOKENIZERS if (path := self.find(file))]
        return next(iter(named or sorted(self.path.glob("*.model"))), None)


@dataclass(frozen=True)
class Repository:
    """A repository of the Hugging Face hub, fetched file by file into its cache."""

    name: str
    revision: str | None
    token: str | None

    def find(self, file: str) -> Path | None:
        try:
            return Path(hf_hub_download(self.name, file, revision=self.revision, token=self.token))
        except LocalEntryNotFoundError as error:
            if self._known_missing(file):
                return None
            raise self._failed(file, f"not in the cache, and the hub cannot be asked ({error})") from error
        except GatedRepoError as error:
            raise self._failed(
                file, "accept the terms of this repository on the hub, then give a token"
            ) from error
        except RepositoryNotFoundError as error:
            raise self._failed(file, "no such repository, or a private one and no fitting token") from error
        except RevisionNotFoundError as error:
            raise self._failed(file, "no such revision") from error
        except EntryNotFoundError:
            return None
        except Exception as error:  # a failed transfer raises what the network library of the day raises
            raise self._failed(file, f"{type(error).__name__}: {error}") from error

    def find_tokenizer(self) -> Path | None:
        for file in _TOKENIZERS:
            try:
                path = self.find(file)
            except CheckpointError:
                path = None  # it may be missing, and offline that cannot be told
            if path is not None:
                return path
        return None

    def _known_missing(self, file: str) -> bool:
        """Whether the hub said so when it was last asked, which its cache remembers."""
        cached = try_to_load_from_cache(self.name, file, revision=self.revision)
        return cached is not None and not isinstance(cached, str)

    def _failed(self, file: str, reason: str) -> CheckpointError:
        where = self.name if self.revision is None else f"{self.name} at {self.revision}"
        return CheckpointError(f"{where}: cannot fetch {file}: {' '.join(reason.split())}")
