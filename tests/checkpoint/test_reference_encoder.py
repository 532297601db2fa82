"""MoshiRAG's checkpoint: its configuration, its weights, and what makes rows of a text."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from moshi_agent import Engine, Referral, SessionConfig
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.checkpoint.kyutai.config import MOSHI_7B, read_moshi_config, write_moshi_config
from moshi_agent.checkpoint.reference_encoder import TextEncoder, encoder_config, load_reference_encoder
from moshi_agent.config import MoshiConfig, ReferenceEncoderConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.models.reference_encoder import ReferenceEncoder
from moshi_agent.named_object import names_object

WORDS = ["the", "order", "is", "on", "its", "way", "and", "comes", "tomorrow"]
NAME = "condition_provider.conditioners.reference_with_time."


@pytest.fixture
def moshirag(golden: Path) -> dict[str, Any]:
    return json.loads((golden / "lm" / "moshirag" / "config.json").read_text())


@pytest.fixture
def moshirag_folder(folder: Path, golden: Path, moshirag: dict[str, Any]) -> Path:
    """A checkpoint as MoshiRAG's: it says nothing of its type."""
    names = json.loads((folder / "config.json").read_text())
    kept = {key: value for key, value in names.items() if key.endswith("_name")}
    (folder / "config.json").write_text(json.dumps(moshirag | kept))
    shutil.copy(golden / "lm" / "moshirag" / "model.safetensors", folder)
    return folder


def published(moshirag: dict[str, Any]) -> MoshiConfig:
    """Of the sizes of `kyutai/moshika-rag-pytorch-bf16`."""
    values = moshirag["conditioners"]["reference_with_time"]["multi_arc_encoder"]
    values["bridge_module"] = {"in_dim": 3072, "out_dim": 4096, "hidden_dim": 2048}
    said = {key: moshirag[key] for key in ("conditioners", "fuser", "rag_token_id", "cross_attention")}
    return read_moshi_config(MOSHI_7B | said)


def test_the_published_configuration_gives_the_published_shapes(moshirag: dict[str, Any]) -> None:
    config = published(moshirag)
    with torch.device("meta"):
        shapes = {name: list(one.shape) for name, one in LMModel(config).state_dict().items()}
        encoder = ReferenceEncoder(encoder_config(config)).state_dict()
    told = {name: shape for name, shape in shapes.items() if name.startswith("condition_provider.")}
    speaker = "condition_provider.conditioners.first_speaker."
    assert told == {
        speaker + "learnt_padding": [1, 1, 4096],
        speaker + "embed.weight": [3, 16],
        speaker + "output_proj.weight": [4096, 16],
        NAME + "learnt_padding": [1, 1, 4096],
        NAME + "output_proj.weight": [4096, 4096],
    }
    assert sum(one.numel() for one in encoder.values()) == 3_026_087_936
    assert list(encoder["bridge_module.layer1.weight"].shape) == [2048, 3072]


def test_the_configuration_is_written_as_it_was_read(moshirag: dict[str, Any]) -> None:
    config = read_moshi_config({key: one for key, one in moshirag.items() if key != "model_id"})
    assert read_moshi_config(write_moshi_config(config)) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"embedder_params": {"compress_rates": [-4, -8]}}, r"compress_rates=\[-4, -8\]"),
        ({"embedder_params": {"compress_rates": [4]}}, r"compress_rates=\[4\]; accepted"),
        ({"bridge_module": {"in_dim": 8, "out_dim": 8, "depth": 3}}, "bridge_module: unknown key 'depth'"),
        ({"reference_dropout": 0.1}, "'reference_with_time': unknown key 'reference_dropout'"),
    ],
)
def test_an_encoder_that_is_not_known_is_refused(
    moshirag: dict[str, Any], change: dict[str, Any], message: str
) -> None:
    moshirag["conditioners"]["reference_with_time"]["multi_arc_encoder"] |= change
    with pytest.raises(ConfigError, match=message):
        read_moshi_config({key: one for key, one in moshirag.items() if key != "model_id"})


def test_rows_go_where_rows_are_read(moshirag: dict[str, Any]) -> None:
    """Neither is a table added frame by frame, nor an encoder asked before the conversation."""
    moshirag["fuser"] |= {"streaming_sum": ["first_speaker"], "prepend": []}
    with pytest.raises(ConfigError, match="streaming_sum takes multi_arc_encoder"):
        read_moshi_config({key: one for key, one in moshirag.items() if key != "model_id"})


def test_a_checkpoint_is_loaded_and_says_how_it_takes_references(moshirag_folder: Path) -> None:
    loaded = load_checkpoint(moshirag_folder)
    assert loaded.lm is not None
    assert (loaded.kind, loaded.lm.takes_references, loaded.reference_token_id) == ("dialogue", "rows", 4)


def test_an_encoder_among_the_weights_is_left_there(moshirag_folder: Path) -> None:
    """As MoshiRAG's own loader does: it comes from a repository of its own."""
    path = moshirag_folder / "model.safetensors"
    more = {NAME + "embedder.layers.0.ffn_norm.weight": torch.ones(3)}
    save_file(load_file(path) | more | {NAME + "bridge_module.layer1.weight": torch.ones(2, 3)}, path)
    assert load_checkpoint(moshirag_folder).lm is not None


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Words, each of which is a token."""
    vocabulary = {word: number for number, word in enumerate([*WORDS, "?"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


@pytest.fixture
def small(golden: Path, moshirag: dict[str, Any]) -> MoshiConfig:
    """A model whose encoder is that of the golden files."""
    config = read_moshi_config({key: one for key, one in moshirag.items() if key != "model_id"})
    described = json.loads((golden / "reference_encoder" / "config.json").read_text())
    speaker, rows = config.conditioners
    encoder = ReferenceEncoderConfig(**described, source=str(golden / "reference_encoder"))
    return replace(config, conditioners=(speaker, replace(rows, encoder=encoder)))


def test_a_text_becomes_rows(small: MoshiConfig, tokenizer: Path, moshirag_folder: Path) -> None:
    """A row for about four words; the language model makes of each what it reads in a frame."""
    encode: TextEncoder = load_reference_encoder(small, tokenizer=tokenizer)
    rows = encode("the order is on its way and comes tomorrow")
    assert rows.shape == (3, 24) and rows.isfinite().all()
    assert not torch.allclose(rows, encode("the order comes on its way and is tomorrow"))
    assert encode("").shape == (0, 24)
    lm = load_checkpoint(moshirag_folder).lm
    assert lm is not None and lm.project_references(rows).shape == (3, 32)


def test_what_is_missing_is_named(
    small: MoshiConfig, tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speaker, _ = small.conditioners
    with pytest.raises(ConfigError, match="no encoder goes with it"):
        load_reference_encoder(replace(small, conditioners=(speaker,), fuser=None), tokenizer=tokenizer)
    with pytest.raises(CheckpointError, match=r"there is no file model\.safetensors"):
        load_reference_encoder(small, source=str(tmp_path), tokenizer=tokenizer)
    save_file({"embedder.norm.weight": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"missing bridge_module\.layer1\.weight"):
        load_reference_encoder(small, source=str(tmp_path), tokenizer=tokenizer)
    tokenizer.write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json: not the file of a tokenizer"):
        load_reference_encoder(small, tokenizer=tokenizer)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match=r"pip install .moshi-agent\[references\]"):
        load_reference_encoder(small, tokenizer=tokenizer)


OWN = """import torch


def encode(text):
    return torch.ones(len(text.split()), 24)
"""


def test_the_tokenizer_may_lie_beside_the_weights(
    small: MoshiConfig, golden: Path, tokenizer: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "encoder"
    shutil.copytree(golden / "reference_encoder", folder)
    shutil.copy(tokenizer, folder)
    encode = load_reference_encoder(small, source=str(folder))
    assert torch.equal(encode("the order"), load_reference_encoder(small, tokenizer=tokenizer)("the order"))


def test_an_engine_takes_the_encoder_that_a_file_names(moshirag_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "own_encoder.py"
    file.write_text(OWN)
    options: dict[str, Any] = {"device": "cpu", "capacity": 1, "admit_by_time": False}
    engine = Engine.load(str(moshirag_folder), shared=False, reference_encoder=f"{file}:encode", **options)
    with engine, engine.session(SessionConfig(live=False)) as session:
        session.push(torch.zeros(2 * 1920).numpy())
        assert session.refer("the order is on its way").result(20) == Referral("taken")


def test_an_engine_whose_model_takes_no_rows_refuses_an_encoder() -> None:
    with pytest.raises(ConfigError, match="no encoder goes with it"):
        Engine.load("tiny", device="cpu", shared=False, reference_encoder="auto")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("auto", False),
        ("owner/encoder", False),
        ("hf://owner/encoder", False),
        ("shop/encoder.py:encode", True),
        ("shop.encoder:encode", True),
    ],
)
def test_a_name_is_of_an_object_or_of_a_source(name: str, expected: bool) -> None:
    assert names_object(name) == expected
