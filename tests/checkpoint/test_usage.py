"""What a checkpoint says about its use: read once, refused by key, and told apart by what is in it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moshi_agent import ConfigError, Conversation, Engine, load_checkpoint
from moshi_agent.checkpoint import save_kyutai
from moshi_agent.checkpoint.kyutai.files import locate_kyutai
from moshi_agent.checkpoint.sources import Folder
from moshi_agent.checkpoint.usage import Usage, read_lm_gen_config
from moshi_agent.config import MoshiConfig, SamplingConfig
from tests.checkpoint.conftest import TOKENIZER
from tests.personaplex import voice_file, whole_lm, write_archive
from tests.small_models import small_lm_config, small_mimi

EditJson = Callable[[Path, Mapping[str, Any]], None]


def test_advice_is_typed() -> None:
    usage = Usage(
        lm_gen_config={"temp": 0.5, "top_k_text": 9, "use_sampling": False, "cfg_coef": 3},
        stt_config={"audio_delay_seconds": 2, "audio_silence_prefix_seconds": 1.0},
    )
    assert usage.advised_sampling == SamplingConfig(greedy=True, temp=0.5, top_k_text=9)
    assert (usage.advised_cfg_coef, usage.text_delay_s, usage.silence_prefix_s) == (3.0, 2.0, 1.0)
    assert Usage().advised_sampling == SamplingConfig()


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"lm_gen_config": {"temp": "0.8"}}, "lm_gen_config: temp='0.8'; accepted: a number, 0 or more"),
        ({"lm_gen_config": {"temp": -1}}, "temp=-1; accepted: a number, 0 or more"),
        ({"lm_gen_config": {"temp": float("nan")}}, "temp=nan"),
        ({"lm_gen_config": {"top_k": 2.5}}, "top_k=2.5; accepted: a whole number"),
        ({"lm_gen_config": {"top_k": -2}}, "lm_gen_config: top_k=-2"),
        ({"lm_gen_config": {"top_p": 1.5}}, "lm_gen_config: top_p=1.5"),
        ({"lm_gen_config": {"use_sampling": "no"}}, "use_sampling='no'; accepted: true or false"),
        ({"lm_gen_config": {"cfg_coef": 1000}}, "cfg_coef=1000; accepted: 0 to 100"),
        ({"lm_gen_config": {"temp_txt": 0.8}}, "unknown key 'temp_txt', is 'temp_text' meant"),
        ({"lm_gen_config": [1]}, r"lm_gen_config=\[1\]; accepted: an object"),
        ({"stt_config": {"audio_delay_seconds": "2"}}, "audio_delay_seconds='2'; accepted: 0 to 60 seconds"),
        ({"model_type": 7}, "model_type=7"),
    ],
)
def test_what_no_model_can_use_is_refused_by_key_before_any_weights_are_read(
    folder: Path, edit_json: EditJson, said: dict[str, Any], message: str
) -> None:
    edit_json(folder / "config.json", said)
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(ConfigError, match=message) as error:
        load_checkpoint(folder)
    assert str(error.value).startswith(f"{folder / 'config.json'}: ")


def test_keys_of_other_tools_are_passed_over_aloud(
    folder: Path, edit_json: EditJson, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        edit_json(
            folder / "config.json",
            {"lm_gen_config": {"temp": 0.6, "their_key": 1}, "license": "mit", "_commit": "0123"},
        )
        checkpoint = load_checkpoint(folder)
    assert checkpoint.lm_gen_config == {"temp": 0.6}
    assert [record.getMessage() for record in caplog.records] == [
        "lm_gen_config: their_key has no effect here",
        "config.json: _commit, license has no effect here",
    ]


def test_a_section_that_is_null_says_nothing(folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"lm_gen_config": None, "stt_config": None}))
    assert load_checkpoint(folder).advised_sampling == SamplingConfig()


def test_the_text_temperature_has_two_names() -> None:
    assert read_lm_gen_config({"temp": 0.6, "text_temp": 0.5}) == {"temp": 0.6, "temp_text": 0.5}


def _config(**changes: Any) -> MoshiConfig:
    return replace(small_lm_config(), **changes)


def test_kinds_are_told_by_what_a_model_can_do() -> None:
    both = small_lm_config()
    mute = _config(dep_q=0, depth=None)
    assert Usage().kind_of(None) == "codec"
    assert Usage().kind_of(both) == Usage(model_type="personaplex").kind_of(both) == "dialogue"
    assert Usage(model_type="hibiki").kind_of(both) == "translator"
    assert Usage().kind_of(mute) == Usage(model_type="stt").kind_of(mute) == "recogniser"
    assert Usage(model_type="tts").kind_of(both) == "synthesiser"
    assert Usage(tts_config={"audio_delay": 1.28}).kind_of(both) == "synthesiser"
    assert Usage().kind_of(_config(n_q=2, delays=(0, 0, 0))) == "synthesiser", "it hears nobody"


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"model_type": "tts"}, "a synthesiser, which reads a text aloud and hears nobody"),
        ({"dep_q": 0, "model_type": "stt"}, "a recogniser, which writes down what it hears"),
    ],
)
def test_what_holds_no_conversation_is_refused_in_one_sentence(
    folder: Path, edit_json: EditJson, changes: dict[str, Any], what: str
) -> None:
    edit_json(folder / "config.json", changes)
    if changes.get("dep_q") == 0:
        _without_depth(folder / "model.safetensors")
    checkpoint = load_checkpoint(folder)
    with pytest.raises(
        ConfigError, match=f"{folder} is {what}.*: it holds no conversation; accepted: "
    ) as one:
        Conversation(checkpoint)
    with pytest.raises(ConfigError) as other:
        Engine.load(str(folder), shared=False)
    assert str(one.value) == str(other.value)


def _without_depth(path: Path) -> None:

    kept = {
        name: one for name, one in load_file(path).items() if not name.startswith(("depformer", "linears"))
    }
    save_file(kept, path)


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A model with depth steps for the user's codebooks too, which its `config.json` says to speak."""
    folder = tmp_path / "whole"
    save_kyutai(folder, small_mimi(), whole_lm(), TOKENIZER, dtype=torch.float32)
    assert json.loads((folder / "config.json").read_text())["dep_q"] == 4
    return folder


def test_a_model_of_dialogue_always_hears(whole: Path) -> None:
    checkpoint = load_checkpoint(whole)
    assert checkpoint.config is not None
    assert (checkpoint.config.n_q, checkpoint.config.dep_q, checkpoint.config.num_user_codebooks) == (4, 2, 2)
    assert (checkpoint.kind, checkpoint.takes_personas) == ("dialogue", False)


def test_a_personaplex_is_known_by_its_voices_and_depth_steps(whole: Path) -> None:
    write_archive(whole / "voices.tgz", {"voices/NATF0.pt": voice_file(0)})
    checkpoint = load_checkpoint(whole)
    assert (checkpoint.model_type, checkpoint.takes_personas, list(checkpoint.voices)) == (
        "personaplex",
        True,
        ["NATF0"],
    )


def test_voices_beside_another_model_make_it_no_personaplex(folder: Path) -> None:
    (folder / "voices").mkdir()
    assert locate_kyutai(Folder(folder, "moshi")).model_type == "moshi"


def test_a_synthesiser_keeps_all_its_depth_steps(whole: Path, edit_json: EditJson) -> None:
    edit_json(whole / "config.json", {"model_type": "tts"})
    config = load_checkpoint(whole).config
    assert config is not None and config.dep_q == 4
