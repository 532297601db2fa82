"""Compiles the C beside this file for the processor that runs it, once a machine, and loads it."""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from ctypes import c_float, c_int, c_long, c_void_p
from functools import cache
from pathlib import Path

from moshi_agent.nn.fast_path_switch import is_on

_log = logging.getLogger("moshi_agent.nn")
_SOURCES = Path(__file__).parent
_TIMEOUT_S = 300
_FLAGS = ("-O2", "-std=gnu11", "-fPIC", "-shared", "-fvisibility=hidden", "-fno-math-errno", "-w")
_TARGETS = (("-march=native",), ("-mcpu=native",), ())  # what a compiler does not know it refuses
_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "panel_floats": (c_int, ()),
    "lane_floats": (c_int, ()),
    "product_rows": (None, (c_void_p, c_void_p, c_long, c_void_p)),
    "transformer_work": (c_long, (c_void_p, c_void_p, c_long)),
    "transformer_steps": (
        None,
        (c_void_p, c_void_p, c_void_p, c_long, c_long, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
    "depth_work": (c_long, (c_void_p, c_long)),
    "depth_codebooks": (
        None,
        (
            *(c_void_p, c_void_p, c_void_p, c_long, c_void_p),
            *(c_void_p, c_long, c_void_p, c_void_p, c_void_p),
        ),
    ),
    "convolutions_work": (c_long, (c_void_p, c_int, c_long, c_long)),
    "convolution_steps": (
        None,
        (c_void_p, c_int, c_void_p, c_long, c_long, c_void_p, c_void_p, c_void_p, c_void_p),
    ),
    "upsample_steps": (
        None,
        (
            *(c_void_p, c_void_p, c_int, c_int, c_int, c_void_p, c_long, c_long),
            *(c_void_p, c_void_p, c_void_p, c_void_p),
        ),
    ),
    "quantizer_work": (c_long, (c_void_p, c_long)),
    "quantize_steps": (
        None,
        (c_void_p, c_void_p, c_long, c_long, c_long, c_long, c_void_p, c_void_p),
    ),
    "restore_steps": (
        None,
        (c_void_p, c_void_p, *(c_long,) * 5, c_void_p, c_int, c_void_p),
    ),
}


class Library(ctypes.CDLL):
    """Is the compiled C; calling it lets other threads run."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(self, name)
            function.restype, function.argtypes = result, arguments


def load_library(kind: str) -> Library | None:
    """Returns the library that has products of float32 and of `kind`; None where there is no compiler."""
    return _load(kind) if is_on("native step") else None


@cache
def _load(kind: str) -> Library | None:
    try:
        return Library(_compiled(kind))
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:  # a home that is nowhere, too
        _log.info("steps are made of PyTorch's operators, which is slower: %s", error)
        return None


def _compiled(kind: str) -> Path:
    """Where the library lies, after it has been compiled if it was not there."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang") or shutil.which("cc")
    if compiler is None:
        raise FileNotFoundError("there is no C compiler (apt install gcc)")
    with_kind = () if kind == "float32" else (f"-DWITH_{kind.upper()}",)
    folder = _cache_folder()
    path = folder / f"step-{kind}-{_fingerprint(compiler)}.so"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    _log.info("compiling the step for this processor, which is done once (%s)", compiler)
    # Beside its place, so that whoever looks for it finds all of it or nothing.
    handle, unfinished = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    said = ""
    try:
        for target in _TARGETS:
            command = [
                compiler,
                *_FLAGS,
                *target,
                *with_kind,
                str(_SOURCES / "step.c"),
                "-o",
                unfinished,
                "-lm",
            ]
            done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S)
            if done.returncode == 0:
                os.replace(unfinished, path)
                return path
            said = (done.stderr.splitlines() or [""])[0]
        raise OSError(f"{compiler} fails: {said}")
    finally:
        Path(unfinished).unlink(missing_ok=True)


def _cache_folder() -> Path:
    """Where this user, and nobody else, may write."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "moshi_agent"


def _fingerprint(compiler: str) -> str:
    """Of all that a compiled library depends on: a home folder may serve several machines."""
    digest = hashlib.sha256(repr((compiler, platform.machine(), platform.system())).encode())
    for source in sorted(_SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    cpu = Path("/proc/cpuinfo")
    if cpu.is_file():
        lines = cpu.read_text(errors="replace").splitlines()
        digest.update(
            "".join(
                sorted({one for one in lines if one.startswith(("flags", "Features", "model name"))})
            ).encode()
        )
    return digest.hexdigest()[:16]


class Workspace(threading.local):
    """Memory for one call at a time, of each thread its own, that stays from call to call."""

    def __init__(self) -> None:
        self._buffer = (c_float * 0)()

    def floats(self, count: int) -> int:
        """Returns the address of so many floats."""
        if len(self._buffer) < count:
            self._buffer = (c_float * count)()
        return ctypes.addressof(self._buffer)
