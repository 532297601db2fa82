"""A format that the package has never seen is one object: loaded, checked, converted, there and back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from moshi_agent import CheckpointError, ConfigError, Conversation, load_checkpoint
from moshi_agent.checkpoint import download_checkpoint
from moshi_agent.checkpoint.codec import load_codec
from moshi_agent.checkpoint.convert import convert_checkpoint
from moshi_agent.checkpoint.format import CheckpointFiles, Origin, Reference
from moshi_agent.checkpoint.formats import FORMATS
from moshi_agent.checkpoint.kyutai.config import read_moshi_config, write_moshi_config
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config, write_mimi_config
from moshi_agent.checkpoint.sources import get
from moshi_agent.checkpoint.tensors import Stored, read_stored
from moshi_agent.checkpoint.usage import Usage
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.models.lm import REFERENCES_TABLE


@dataclass
class ToyFiles:
    """One file for both models, in which every name is written backwards."""

    weights: Path
    tokenizer: Path | None
    raw: dict[str, Any]
    lora_weights: None = None
    voices: None = None
    references: None = None

    @property
    def paths(self) -> list[Path]:
        return [self.weights, *([self.tokenizer] if self.tokenizer else [])]

    @property
    def usage(self) -> Usage:
        return Usage(lm_gen_config=self.raw["advice"])

    @property
    def num_codebooks(self) -> int:
        return self.read_lm_config().dep_q

    def read_lm_config(self) -> MoshiConfig:
        return read_moshi_config(self.raw["lm"])

    def read_mimi_config(self) -> MimiConfig:
        return read_mimi_config(self.raw["mimi"])

    def read_mimi(self, device: str = "cpu") -> Stored:
        return self._read("codec|", device)

    def read_lm(self, device: str = "cpu", only: Collection[str] | None = None) -> Stored:
        stored = self._read("lm|", device)
        kept = {name: one for name, one in stored.tensors.items() if only is None or name in only}
        return dataclasses.replace(stored, tensors=kept)

    def _read(self, prefix: str, device: str) -> Stored:
        tensors = {name[::-1]: one for name, one in read_stored(self.weights, device).tensors.items()}
        ours = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        return Stored(self.weights, ours)


class ToyFormat:
    """See `Format`."""

    name = "toy"

    def knows(self, origin: Origin) -> bool:
        return origin.config.get("toy") is True

    def locate(self, origin: Origin, lora: Reference | None = None) -> ToyFiles:
        if lora is not None:
            raise ConfigError("a toy has no low-rank updates")
        tokenizer = origin.source.find_tokenizer()
        return ToyFiles(get(origin.source, "toy.safetensors"), tokenizer, origin.config)

    def locate_codec(self, origin: Origin) -> ToyFiles:
        return self.locate(origin)

    def write(self, files: CheckpointFiles, folder: Path, max_shard_size: int | str) -> None:
        config = files.read_lm_config()
        assert config is not None and files.tokenizer is not None
        folder.mkdir()
        tensors = {f"codec|{name}"[::-1]: one for name, one in files.read_mimi().tensors.items()}
        tensors |= {f"lm|{name}"[::-1]: one for name, one in files.read_lm().tensors.items()}
        save_file({name: one.clone() for name, one in tensors.items()}, folder / "toy.safetensors")
        (folder / "tokenizer.model").write_bytes(files.tokenizer.read_bytes())
        mimi = write_mimi_config(files.read_mimi_config())
        advice = dict(files.usage.lm_gen_config)
        said = {"toy": True, "lm": write_moshi_config(config), "mimi": mimi, "advice": advice}
        (folder / "config.json").write_text(json.dumps(said))


WITH_TOY = (ToyFormat(), *FORMATS)


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model as a toy."""
    folder = tmp_path_factory.mktemp("formats") / "toy"
    convert_checkpoint("tiny", folder, "toy", formats=WITH_TOY)
    return folder


def test_it_is_loaded_and_checked(toy: Path) -> None:
    ours, theirs = load_checkpoint("tiny"), load_checkpoint(toy, formats=WITH_TOY)
    assert ours.lm is not None and theirs.lm is not None
    for one, other in ((ours.lm, theirs.lm), (ours.mimi, theirs.mimi)):
        after = other.state_dict()
        before = one.state_dict()
        before.pop(REFERENCES_TABLE, None)  # the toy has no place for it
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert theirs.advised_sampling == ours.advised_sampling
    Conversation(theirs)
    checked = download_checkpoint(toy, formats=WITH_TOY)
    assert [file.path.name for file in checked] == ["toy.safetensors", "tokenizer.model"]
    assert load_codec(toy, formats=WITH_TOY).config == ours.mimi_config


def test_what_is_damaged_is_named(toy: Path, tmp_path: Path) -> None:
    for path in toy.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    tensors = load_file(tmp_path / "toy.safetensors")
    del tensors["lm|text_emb.weight"[::-1]]
    save_file(tensors, tmp_path / "toy.safetensors")
    with pytest.raises(CheckpointError, match=r"toy\.safetensors: .*missing text_emb\.weight"):
        download_checkpoint(tmp_path, formats=WITH_TOY)


@pytest.mark.parametrize("to", ["kyutai", "transformers"])
def test_it_becomes_every_other_format_and_those_become_it(toy: Path, tmp_path: Path, to: str) -> None:
    convert_checkpoint(toy, tmp_path / to, to, formats=WITH_TOY)
    convert_checkpoint(tmp_path / to, tmp_path / "again", "toy", formats=WITH_TOY)
    before, after = (load_file(folder / "toy.safetensors") for folder in (toy, tmp_path / "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_who_does_not_give_it_does_not_know_it(toy: Path) -> None:
    with pytest.raises(ConfigError, match="unknown key"):
        load_checkpoint(toy)
    with pytest.raises(CheckpointError, match="in no format that is known; accepted: transformers"):
        load_checkpoint(toy, formats=[one for one in FORMATS if one.name == "transformers"])
    with pytest.raises(ConfigError, match="to='toy'; accepted: kyutai, transformers"):
        convert_checkpoint("tiny", toy, "toy")
