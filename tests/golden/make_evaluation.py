"""Writes `evaluation/measures.json`: what Full-Duplex-Bench's scripts compute for the tests' folders.

Run it with a checkout of the benchmark, in an environment with what its scripts import: see README.md here.

    python tests/golden/make_evaluation.py FULL-DUPLEX-BENCH/v1_v1.5/evaluation
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import soundfile as sf
import torch

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.evaluation.benchmark_folders import behavior_of, make_folders, rating_of

GOLDEN = Path(__file__).parent / "evaluation" / "measures.json"


def main(scripts: Path) -> None:
    """Makes the folders, runs every script on them, and writes what they print."""
    _load_by_soundfile()
    sys.path.insert(0, str(scripts))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_folders(root)
        shutil.copytree(scripts / "instruction", root / "instruction")
        os.chdir(root)  # the scripts read the reference of backchannels and the instruction from here
        measures = {
            "pauses": _pauses(root),
            "turns": _turns(root),
            "interruptions": _interruptions(root),
            "backchannels": _backchannels(root),
            "overlaps": _overlaps(root),
            "behavior": _behavior(root),
        }
    GOLDEN.write_text(json.dumps(measures, indent=1) + "\n")


def _load_by_soundfile() -> None:
    """torchaudio, which the scripts load audio by, needs FFmpeg; soundfile gives the same of 16-bit files."""
    import torchaudio

    def load(path: object) -> tuple[torch.Tensor, int]:
        samples, rate_hz = sf.read(str(path), dtype="float32", always_2d=True)
        return torch.from_numpy(samples.T.copy()), rate_hz

    torchaudio.load = load
    # One script takes the network from GitHub, another from the package: it is the package's here.
    import silero_vad

    torch.hub.load = lambda *_, **__: (silero_vad.load_silero_vad(), None)


def _printed(function: Any, *arguments: Any) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed, contextlib.suppress(ZeroDivisionError):
        function(*arguments)  # a mean of nothing is a division by zero in them
    return printed.getvalue()


def _after(text: str, label: str) -> list[float | None]:
    found = re.findall(rf"{label}\s*([-\d.e]+|None)", text)
    return [None if one == "None" else float(one) for one in found]


def _alone(root: Path, data_set: str, function: Any) -> dict[str, str]:
    """What is printed for each sample by itself."""
    printed: dict[str, str] = {}
    for sample in sorted((root / data_set).iterdir(), key=lambda path: int(path.name)):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(sample, Path(folder) / sample.name)
            printed[sample.name] = _printed(function, folder)
    return printed


def _pauses(root: Path) -> dict[str, Any]:
    from eval_pause_handling import eval_pause_handling

    each = _alone(root, "pauses", eval_pause_handling)
    return {
        "take_over_rate": _after(_printed(eval_pause_handling, root / "pauses"), "Average take turn:")[0],
        "samples": {name: _after(text, "Average take turn:")[0] for name, text in each.items()},
    }


def _turns(root: Path) -> dict[str, Any]:
    from eval_smooth_turn_taking import eval_smooth_turn_taking

    whole = _printed(eval_smooth_turn_taking, root / "turns")
    each = _alone(root, "turns", eval_smooth_turn_taking)
    return {
        "take_over_rate": _after(whole, "Average take turn:")[0],
        "latency": _after(whole, "Average latency:")[0],
        "samples": {
            name: {
                "takes_turn": _after(text, "the TOR is")[0],
                "latency": _after(text, "the latency is")[0],
            }
            for name, text in each.items()
        },
    }


def _interruptions(root: Path) -> dict[str, Any]:
    from eval_user_interruption import eval_user_interruption

    def create(messages: list[dict[str, str]], **_: object) -> SimpleNamespace:
        reply = messages[1]["content"].split("AI's response: ")[1].strip()
        text = f"Analysis: so it is.\nI would rate the AI's response as {rating_of(reply)}"
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])

    judge = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    whole = _printed(eval_user_interruption, root / "interruptions", judge)
    return {
        "rating": _after(whole, "Average rating:")[0],
        "take_over_rate": _after(whole, "Average take turn:")[0],
        "latency": _after(whole, "Average latency:")[0],
    }


def _backchannels(root: Path) -> dict[str, Any]:
    from eval_backchannel import eval_backchannel

    each = _alone(root, "backchannels", eval_backchannel)
    whole = _printed(eval_backchannel, root / "backchannels")
    return {
        "take_over_rate": _after(whole, "TOR - Mean:")[0],
        "frequency": _after(whole, "Frequency - Mean:")[0],
        "divergence": _after(whole, "JSD - Mean:")[0],
        "samples": {
            name: {
                "takes_turn": _after(text, "TOR - Mean:")[0],
                "frequency": _after(text, "Frequency - Mean:")[0],
                "divergence": _after(text, "JSD:")[0],
                "spans": json.loads(re.findall(r"backchannel prediction is (.*)", text)[0]),
            }
            for name, text in each.items()
        },
    }


def _overlaps(root: Path) -> dict[str, Any]:
    import get_timing

    intervals: dict[str, Any] = {}
    for sample in sorted((root / "overlaps").iterdir(), key=lambda path: int(path.name)):
        _printed(get_timing.process_folder, sample)
        intervals[sample.name] = json.loads((sample / get_timing.OUT_FILENAME).read_text())
    return intervals


def _behavior(root: Path) -> dict[str, float]:
    sys.modules.setdefault("openai", ModuleType("openai")).__dict__.setdefault("OpenAI", object)
    import eval_behavior

    def create(messages: list[dict[str, str]], **_: object) -> SimpleNamespace:
        words = len(json.loads(messages[1]["content"])["output_noisy"]["chunks"])
        text = json.dumps({"behaviour": [behavior_of(words)]})
        return SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=text))])

    judge = SimpleNamespace(chat=SimpleNamespace(completions=SimpleNamespace(create=create)))
    with contextlib.redirect_stdout(io.StringIO()):
        return eval_behavior.eval_behavior_all(str(root / "overlaps"), judge, task="behavior")["C"]


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
