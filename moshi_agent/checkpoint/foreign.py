"""Files of other tools: told by their first bytes, by names of tensors, or by their repository's name.

Somebody has taken the wrong one of several repositories of a model: the answer says which is the right one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_PYTORCH = "take the repository with -pytorch- in its name, or another one with PyTorch's weights"
_GGUF = f"a GGUF file; {_PYTORCH}"
_MLX = f"an MLX file; {_PYTORCH}"
_CANDLE = f"a file for candle, Kyutai's programs in Rust; {_PYTORCH}"
_VIS = "a MoshiVis, which looks at an image: not supported; its speech alone is that of a Moshi"
_POINTER = "a pointer of Git LFS, and not the file itself; run `git lfs pull` in its folder"

_FIRST_BYTES = {b"version https://git-lfs": _POINTER, b"GGUF": _GGUF}

_TENSORS = {
    re.compile(r"image_prefix\."): _VIS,
    re.compile(r".*\.(scales|biases)$|depformer\.slices\.|audio_embs\."): _MLX,
    re.compile(r"depformer\.\d+\."): _CANDLE,
}

_SOURCES = {re.compile(r"\bmlx\b"): _MLX, re.compile(r"\bgguf\b"): _GGUF, re.compile(r"\bcandle\b"): _CANDLE}


def foreign_file(path: Path) -> str | None:
    """Says what a file is whose first bytes tell that it is not what it is taken for."""
    with path.open("rb") as file:
        head = file.read(max(map(len, _FIRST_BYTES)))
    return next((said for first, said in _FIRST_BYTES.items() if head.startswith(first)), None)


def foreign_tensors(names: Iterable[str]) -> str | None:
    """Says whose tensors these are, where their names tell that they are of another tool or model."""
    names = list(names)
    return next((said for pattern, said in _TENSORS.items() if any(map(pattern.match, names))), None)


def foreign_source(name: str) -> str | None:
    """Says for which tool a repository or folder of this name is."""
    last = re.split(r"[/\\]", name)[-1].lower()
    return next((said for pattern, said in _SOURCES.items() if pattern.search(last)), None)
