"""Whatever is done to the files of a checkpoint, it is refused by name or loads; nothing else happens."""

from __future__ import annotations

import json
import random
import re
import resource
import shutil
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from moshi_agent import CheckpointError, ConfigError, Conversation, MoshiAgentError
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.checkpoint.voices import find_voices
from moshi_agent.models import loaders
from moshi_agent.text.pieces import pieces_of, text_of
from tests.checkpoint.mutations import mutated
from tests.personaplex import voice_file, write_archive

EditJson = Callable[[Path, Mapping[str, Any]], None]
EditTensors = Callable[[Path, Callable[[dict[str, Tensor]], object]], None]

MOST_S = 30.0  # of processor time, for what takes a tenth of a second where nothing is wrong
MOST_MB = 1000
COUNTS = [pytest.param(40, id="some"), pytest.param(600, id="many", marks=pytest.mark.slow)]


@contextmanager
def nothing_but_an_error_that_names(*paths: Path) -> Generator[None]:
    """Lets pass no error, or one of the project's that names one of these; in bounded time and memory."""
    began_s, before_kb = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        yield
    except MoshiAgentError as error:
        assert any(str(path) in str(error) for path in paths), error
    assert time.process_time() - began_s < MOST_S
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < MOST_MB * 1024


@pytest.fixture
def int8(folder: Path, golden: Path) -> Path:
    """A checkpoint with weights of int8 and their scales."""
    shutil.copy(golden / "q8" / "model.safetensors", folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantize": True}))
    return folder


def _use(folder: Path) -> None:
    """Loads, listens to a frame, and tokenizes a text; what is no number by then is told, but not by file."""
    checkpoint = load_checkpoint(folder)
    with suppress(MoshiAgentError):
        if checkpoint.lm is not None:
            frame = np.zeros(checkpoint.mimi.frame_size, np.float32)
            Conversation(checkpoint).step(frame)
        if checkpoint.tokenizer is not None:
            text_of(checkpoint.tokenizer, pieces_of(checkpoint.tokenizer, "Hello there, 5 %."))


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("kind", ["folder", "int8", "hf_folder"])
def test_a_checkpoint_that_was_tampered_with_is_refused_by_name_or_loads(
    request: pytest.FixtureRequest, kind: str, count: int
) -> None:
    folder: Path = request.getfixturevalue(kind)
    _use(folder)
    files = [file for file in sorted(folder.iterdir()) if file.suffix in (".json", ".safetensors", ".model")]
    draw, refused = random.Random(count), 0
    for number in range(count):
        file = files[number % len(files)]
        data = file.read_bytes()
        file.write_bytes(mutated(file.name, data, draw))
        refused += 1
        with nothing_but_an_error_that_names(folder):
            _use(folder)
            refused -= 1
        file.write_bytes(data)
    assert count / 3 < refused < count  # else what was drawn would say nothing


@pytest.mark.parametrize("count", COUNTS)
def test_low_rank_updates_that_were_tampered_with_are_refused_by_name_or_fit(
    golden: Path, tmp_path: Path, count: int
) -> None:
    base, path = golden / "lm" / "moshi" / "model.safetensors", tmp_path / "lora.safetensors"
    config = json.loads((golden / "lora" / "config.json").read_text())
    data, draw = (golden / "lora" / "lora.safetensors").read_bytes(), random.Random(count)
    for _ in range(count):
        path.write_bytes(mutated(path.name, data, draw))
        with nothing_but_an_error_that_names(path):
            loaders.get_moshi_lm(base, config, lora_weights=path)


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("name", ["calm.pt", "voices.tgz"])
def test_voices_that_were_tampered_with_are_refused_by_name_or_read(
    tmp_path: Path, name: str, count: int
) -> None:
    path, draw = tmp_path / name, random.Random(count)
    if name == "voices.tgz":
        write_archive(path, {"calm.pt": voice_file(0)})
    else:
        path.write_bytes(voice_file(0))
    data = path.read_bytes()
    for _ in range(count):
        path.write_bytes(mutated(name, data, draw))
        with nothing_but_an_error_that_names(path):
            for place in find_voices(path if name == "voices.tgz" else tmp_path).values():
                place.read()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_a_scale_that_is_no_magnitude_is_refused(int8: Path, edit_tensors: EditTensors, value: float) -> None:
    name = "text_linear.weight_scb"

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name][3] = value

    edit_tensors(int8 / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: {name} is damaged: a scale"):
        load_checkpoint(int8)


def test_a_tensor_of_whole_numbers_where_floats_belong_is_refused(
    folder: Path, edit_tensors: EditTensors
) -> None:
    name = "text_linear.weight"

    def change(tensors: dict[str, Tensor]) -> None:
        tensors[name] = tensors[name].int()

    edit_tensors(folder / "model.safetensors", change)
    with pytest.raises(CheckpointError, match=r"text_linear\.weight is stored as torch\.int32"):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": True},
        {"layer_scale": "x"},
        {"layer_scale": float("nan")},
        {"max_period": -1},
        {"demux_second_stream": "no"},
        {"depformer_norm": [0]},
        {"depformer_weights_per_step": False},
        {"n_q": 2**31, "delays": None},
        {"moshi_name": 300 * "x"},
        {"moshi_name": "/etc/passwd"},
        {"tokenizer_name": "../checkpoint/tokenizer_spm.model"},
    ],
)
def test_a_value_that_would_only_show_later_is_refused(
    folder: Path, edit_json: EditJson, changes: dict[str, Any]
) -> None:
    edit_json(folder / "config.json", changes)
    with pytest.raises((ConfigError, CheckpointError), match=re.escape(str(folder))):
        load_checkpoint(folder)


def test_an_index_opens_no_file_elsewhere(hf_folder: Path, edit_json: EditJson) -> None:
    index = hf_folder / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    for place in ("/etc/passwd", "../hf/model-00001-of-00003.safetensors"):
        edit_json(index, {"weight_map": dict.fromkeys(names, place)})
        with pytest.raises(CheckpointError, match=f"{re.escape(str(index))}: '{place}' is outside"):
            load_checkpoint(hf_folder)
