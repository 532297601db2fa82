"""`moshi-agent doctor`, on the machine of the tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from moshi_agent.checkpoint import load_checkpoint, save_kyutai
from moshi_agent.cli import diagnosis, main
from moshi_agent.cli.diagnosis import Doctor, verdict
from moshi_agent.nn import cache_attention

TOKENIZER = Path(__file__).parents[2] / "moshi_agent" / "assets" / "tiny" / "tokenizer_spm.model"


def test_it_says_what_this_machine_is_good_for() -> None:
    """For people; and as JSON, from which the last line follows."""
    done = CliRunner().invoke(main, ["doctor", "--device", "cpu", "--most", "4"])
    assert done.exit_code == 0, done.output
    for part in ("torch", "triton", "compiler", "conversations that fit on cpu", "codes of the packed codec"):
        assert part in done.output
    last = done.output.strip().splitlines()[-1]
    assert last.startswith(("Ready for about", "This machine is too slow"))


def test_its_json_is_one_object() -> None:
    done = CliRunner().invoke(main, ["doctor", "--device", "cpu", "--most", "1", "--json"])
    found = json.loads(done.output)
    assert list(found["step_ms"]) == ["1"] and found["step_ms"]["1"] > 0
    assert found["fast_paths"][0]["agrees"] and found["machine"]["torch"] == torch.__version__
    assert found["fits"]["int8"]["weights_bytes"] < found["fits"]["float32"]["weights_bytes"]
    assert found["verdict"]


def test_it_counts_what_weights_take_on_a_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a device that says it is CUDA's: int4 is the least, and an int8 file has none of it."""
    monkeypatch.setattr(diagnosis, "free_bytes", lambda device: 8_000_000_000)
    monkeypatch.setattr(cache_attention, "serves", lambda config, device: True)
    asked = Doctor(model="tiny", lora=None, device="cuda", most=1, as_json=False)
    fits = diagnosis._fits(asked, "cuda")
    assert list(fits) == ["float32", "bfloat16", "int8", "int4"]
    taken = [fit["weights_bytes"] for fit in fits.values()]
    assert taken == sorted(set(taken), reverse=True)
    for dtype in ("bfloat16", "int8", "int4"):
        checkpoint = load_checkpoint("tiny", dtype=dtype)
        codec = sum(one.nbytes for one in checkpoint.mimi.parameters())
        lm = checkpoint.conversation_lm().named_parameters()
        assert fits[dtype]["weights_bytes"] == codec + sum(_bytes_on_a_card(*one) for one in lm)
    rows = [fit["int8_rows"] for fit in fits.values()]
    assert rows == sorted(rows) and rows[0] > 0
    rounded = load_checkpoint("tiny", dtype="int8")
    save_kyutai(tmp_path, rounded.mimi, rounded.conversation_lm(), TOKENIZER)
    assert "int4" not in diagnosis._fits(replace(asked, model=str(tmp_path)), "cuda")


def _bytes_on_a_card(name: str, weight: torch.Tensor) -> int:
    """Floats become bfloat16 there, but for scales."""
    is_kept = name.endswith((".weight_scb", ".weight_scales")) or not weight.is_floating_point()
    return weight.nbytes if is_kept else 2 * weight.numel()


def _found(**changes: object) -> dict[str, object]:
    found: dict[str, object] = {
        "fast_paths": [{"what": "gates", "agrees": True}],
        "step_ms": {1: 10.0, 4: 20.0},
        "fits": {"int8": {"int8_rows": 3}},
    }
    return found | changes


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "Ready for about 3 callers at once: moshi-agent serve --capacity 3."),
        ({"fits": {"int8": {"int8_rows": 100}}}, "Ready for about 19 callers"),
        ({"step_ms": {1: 130.0}}, "one step takes 130 of 80 ms"),
        ({"fast_paths": [{"what": "gates", "agrees": False}]}, "here gates give other numbers"),
        ({"not_tried": "the weights need 15 GB"}, "does not run here as it is: the weights need 15 GB"),
    ],
)
def test_the_last_line_is_what_to_do(changes: dict[str, object], line: str) -> None:
    assert line in verdict(_found(**changes), "cpu")


def test_a_device_that_is_not_there_is_named() -> None:
    done = CliRunner().invoke(main, ["doctor", "--device", "cuda:7"])
    assert done.exit_code == 1 and "there is no device cuda:7" in done.output
