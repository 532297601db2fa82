"""All there is to be known of a GPU in one go: tests, the frame step by conversations, its parts, callers.

    python tests/benchmarks/on_gpu.py --out figures                  # everything, in less than ten minutes
    python tests/benchmarks/on_gpu.py --out figures --only tests one # some parts of it
    python tests/benchmarks/on_gpu.py --out figures --device cpu --scale 8 --context 20 --most 2   # a trial

The model has the shape of Moshi 7B and random weights, drawn on the device; nothing is fetched or stored.
Each part runs in a process of its own with a limit of time, and one that fails stops none of the others.
What is printed goes to FOLDER/log.txt as well, and the figures to FOLDER/results.json, as soon as they are
there.

The parts, in the order in which they run:

    tests         pytest -m gpu
    one           one conversation: the step, each part's share, Kyutai's API, the slowest kernels
    int8, float   the step with so many conversations whose caches are full, with either cache
    int8-weights, int4-weights   the same with rounded weights and int8 caches
    codec         the codes and the answers of the built-in model beside those of a CPU
    attend        the attention kernel alone, cut and launched in several ways
    callers       `moshi-agent bench`: callers in real time, all of whose caches are full
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# Modules that a machine with PyTorch alone has not, and what brings them: soundfile needs cffi's.
_WHEELS = {
    "soundfile": "soundfile",
    "_cffi_backend": "cffi",
    "soxr": "soxr",
    "webrtcvad": "webrtcvad-wheels",
    "numpy": "numpy",
    "torch": "torch",
}
_GPU_TESTS = (
    "tests/engine/step/test_runners.py",
    "tests/nn/test_cache_attention.py",
    "tests/nn/test_fused.py",
    "tests/nn/test_int8_product.py",
    "tests/nn/test_int4_product.py",
    "tests/nn/test_fast_paths.py",
    "tests/models/test_captured_streams.py",
    "tests/engine/step/test_host_copies.py",
)


@dataclass(frozen=True)
class Part:
    name: str
    limit_s: float


PARTS = (
    Part("tests", 150),
    Part("one", 120),
    Part("int8", 150),
    Part("float", 120),
    Part("int8-weights", 90),
    Part("int4-weights", 90),
    Part("codec", 90),
    Part("attend", 90),
    Part("callers", 270),
)


def main() -> int:
    options = _options()
    missing = [wheel for module, wheel in _WHEELS.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(f"Bring the wheels of {', '.join(missing)}, for this Python: nothing runs without them.")
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    results: dict[str, Any] = {"arguments": sys.argv[1:]}
    ends = time.monotonic() + 60 * options.minutes
    with (options.out / "log.txt").open("w", encoding="utf-8") as log:
        for part in PARTS:
            if options.only and part.name not in options.only:
                continue
            limit_s = min(part.limit_s, ends - time.monotonic())
            results[part.name] = _run(part.name, limit_s, options, log) if limit_s > 5 else {"no time": True}
            whole = options.out / "results.json.part"
            whole.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
            whole.replace(options.out / "results.json")
    failed = [name for name, result in results.items() if name != "arguments" and result.get("exit") != 0]
    print(f"Parts that failed: {', '.join(failed) or 'none'}. Figures in {options.out / 'results.json'}")
    return len(failed)


def _run(name: str, limit_s: float, options: argparse.Namespace, log: TextIO) -> dict[str, Any]:
    """A part in a process of its own, at most so long."""
    figures = options.out / f"{name}.json"
    started = time.monotonic()
    _say(f"=== {name}, at most {limit_s:.0f} s", log)
    paths = [str(ROOT), str(ROOT / "adapters"), os.environ.get("PYTHONPATH", "")]
    with subprocess.Popen(
        _command(name, figures, options),
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:
        late = threading.Event()

        def end() -> None:
            late.set()
            os.killpg(process.pid, signal.SIGKILL)  # it and whatever it has started

        timer = threading.Timer(limit_s, end)
        timer.start()
        assert process.stdout is not None
        for line in process.stdout:
            _say(line.rstrip("\n"), log)
        status = process.wait()
        timer.cancel()
    seconds = round(time.monotonic() - started, 1)
    _say(f"=== {name}: {'out of time' if late.is_set() else f'exit {status}'} after {seconds} s", log)
    result: dict[str, Any] = {"exit": status, "out_of_time": late.is_set(), "seconds": seconds}
    if figures.exists():
        result["figures"] = json.loads(figures.read_text(encoding="utf-8"))
        figures.unlink()
    return result


def _say(line: str, log: TextIO) -> None:
    print(line, flush=True)
    print(line, file=log, flush=True)


def _command(name: str, figures: Path, options: argparse.Namespace) -> list[str]:
    if name == "tests":
        # Without the plug-ins that this Python may happen to have.
        plain = ["-p", "no:cacheprovider", "-p", "no:xdist", "-m", "gpu", "-v", "--durations", "5"]
        # A warning that a library has on this machine alone is to be read, and fails no test.
        plain += ["-W", "default::UserWarning"]
        return [sys.executable, "-m", "pytest", *plain, *_existing(_GPU_TESTS)]
    size = ["--device", options.device, "--scale", str(options.scale), "--context", str(options.context)]
    size += [
        "--most",
        str(options.most),
        "--repeats",
        str(options.repeats),
        "--seconds",
        str(options.seconds),
    ]
    script = "full_callers.py" if name == "callers" else "gpu_parts.py"
    return [sys.executable, str(HERE / script), name, "--json", str(figures.resolve()), *size]


def _existing(files: Sequence[str]) -> list[str]:
    return [file for file in files if (ROOT / file).exists()]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PARTS], help="these parts alone")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all parts together")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scale", type=int, default=1, help="divides every width")
    parser.add_argument("--context", type=int, default=3000, help="frames")
    parser.add_argument("--most", type=int, default=160, help="conversations; larger numbers are left out")
    parser.add_argument("--repeats", type=int, default=60, help="steps timed of each number of rows")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each number of callers")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
