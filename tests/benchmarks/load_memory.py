"""How much memory loading takes, over what is kept: peak and final resident size of a process that loads.

    python tests/benchmarks/load_memory.py              # widths divided by 4: 1 GB on disk
    python tests/benchmarks/load_memory.py --scale 1    # those of Moshi 7B: 15 GB on disk, as much in memory

The checkpoint is generated, with random weights in bfloat16; each way of loading has a process of its own.
Pages of the mapped file count while they are resident, although the system may take them back.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from random_checkpoint import SCALES, generate

from moshi_agent.checkpoint import load_checkpoint

_WAYS = ("bfloat16", "float32", "pack=bfloat16", "pack=int8", "pack=float32")
_LIMIT = 1.1


def _load(folder: Path, way: str) -> None:
    """Loads in this process, and prints resident bytes: before, at most, and kept."""
    before = _resident()
    if way.startswith("pack="):
        checkpoint = load_checkpoint(folder, pack=way.removeprefix("pack="))
    else:
        checkpoint = load_checkpoint(folder, dtype=getattr(torch, way))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([before, max(peak, _resident()), _resident()]))
    del checkpoint


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=int, default=4, choices=SCALES)
    parser.add_argument("--ways", nargs="+", default=list(_WAYS), choices=_WAYS)
    parser.add_argument(
        "--folder", type=Path, help="where to generate the checkpoint; a temporary folder without it"
    )
    parser.add_argument("--load", metavar="WAY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        _load(arguments.folder, arguments.load)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        size = generate(Path(name), arguments.scale)
        print(f"{size / 1e9:.2f} GB on disk\n{'way':>14}  {'peak':>8}  {'kept':>8}  peak / kept")
        for way in arguments.ways:
            command = [sys.executable, __file__, "--folder", name, "--load", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            before, peak, kept = (value / 1e9 for value in json.loads(done.stdout.splitlines()[-1]))
            verdict = "" if peak <= _LIMIT * kept else f"  above {_LIMIT}"
            print(f"{way:>14}  {peak:5.2f} GB  {kept:5.2f} GB  {peak / kept:.3f}{verdict}", end="")
            print(f"  (before: {before:.2f} GB)", flush=True)


if __name__ == "__main__":
    main()
