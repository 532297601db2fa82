"""Damaged checkpoints: each error names the file and what is wrong in it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from moshi_agent import CheckpointError, ConfigError
from moshi_agent.checkpoint import download_checkpoint, load_checkpoint
from moshi_agent.models import loaders

EditJson = Callable[[Path, Mapping[str, Any]], None]
EditTensors = Callable[[Path, Callable[[dict[str, Tensor]], object]], None]


@pytest.fixture(params=[load_checkpoint, download_checkpoint], ids=["load", "check"])
def read(request: pytest.FixtureRequest) -> Callable[[Path], object]:
    """Whatever refuses to load is refused by the check as well."""
    return request.param


def _reason(read: Callable[[Path], object], folder: Path, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as error:
        read(folder)
    return str(error.value)


@pytest.mark.parametrize(
    "name", ["model.safetensors", "mimi.safetensors", "tokenizer_spm.model", "mimi_config.json"]
)
def test_a_missing_file(read: Callable[[Path], object], folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert _reason(read, folder) == f"{folder}: there is no file {name} in it"


def test_an_empty_folder(read: Callable[[Path], object], tmp_path: Path) -> None:
    assert "there is no file model.safetensors in it" in _reason(read, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "mimi.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 200, -1])
def test_a_truncated_file(read: Callable[[Path], object], folder: Path, name: str, keep: int) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[:keep])
    assert _reason(read, folder).startswith(f"{folder / name}: not a whole safetensors file")


def test_a_file_of_another_kind(read: Callable[[Path], object], folder: Path) -> None:
    torch.save({"model": {}}, folder / "model.safetensors")
    assert _reason(read, folder).startswith(f"{folder / 'model.safetensors'}: not a whole safetensors file")


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("model.safetensors", "depformer.layers.1.gating.2.linear_out.weight"),
        ("mimi.safetensors", "decoder.model.2.convtr.convtr.bias"),
    ],
)
def test_a_missing_tensor(
    read: Callable[[Path], object], folder: Path, edit_tensors: EditTensors, name: str, tensor: str
) -> None:
    edit_tensors(folder / name, lambda tensors: tensors.pop(tensor))
    assert _reason(read, folder) == (
        f"{folder / name}: tensors do not match the configuration: missing {tensor}"
    )


def test_an_unexpected_tensor(
    read: Callable[[Path], object], folder: Path, edit_tensors: EditTensors
) -> None:
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update(extra=torch.ones(1)))
    assert _reason(read, folder).endswith("unexpected extra")


def test_a_wrong_shape(read: Callable[[Path], object], folder: Path, edit_tensors: EditTensors) -> None:
    name = "transformer.layers.0.gating.linear_in.weight"
    edit_tensors(folder / "model.safetensors", lambda tensors: tensors.update({name: torch.ones(3, 32)}))
    reason = _reason(read, folder)
    assert reason.startswith(
        f"{folder / 'model.safetensors'}: {name} has shape [3, 32]; the configuration asks for"
    )


def test_many_missing_tensors_are_counted_not_listed(
    read: Callable[[Path], object], folder: Path, edit_json: EditJson
) -> None:
    edit_json(folder / "config.json", {"num_layers": 4})
    reason = _reason(read, folder)
    assert "missing transformer.layers.2.gating.linear_in.weight, " in reason
    assert reason.endswith("and 8 more")


@pytest.mark.parametrize("content", ["", "{", "[1]", "\x00\xff"])
@pytest.mark.parametrize("name", ["config.json", "mimi_config.json"])
def test_a_configuration_that_is_no_json(
    read: Callable[[Path], object], folder: Path, name: str, content: str
) -> None:
    (folder / name).write_text(content, encoding="latin-1")
    assert _reason(read, folder).startswith(f"{folder / name}: ")


def test_an_unknown_key(read: Callable[[Path], object], folder: Path, edit_json: EditJson) -> None:
    edit_json(folder / "config.json", {"depformer_dimension": 3})
    reason = _reason(read, folder, ConfigError)
    assert reason.startswith(f"{folder / 'config.json'}: ")
    assert "unknown key 'depformer_dimension'" in reason


def test_an_unknown_key_of_the_codec(
    read: Callable[[Path], object], folder: Path, edit_json: EditJson
) -> None:
    edit_json(folder / "mimi_config.json", {"rate": 3})
    reason = _reason(read, folder, ConfigError)
    assert reason.startswith(f"{folder / 'mimi_config.json'}: ")
    assert "unknown key 'rate'" in reason


@pytest.mark.parametrize(
    "changes",
    [
        {"dim": "wide"},
        {"delays": 3},
        {"conditioners": {"x": {}}},
        {"n_q": None},
        {"num_heads": 0},
        {"dim": 10**9},
        {"hidden_scale": 1e308},
        {"num_layers": 10**6},
        {"delays": [10**9] * 9},
        {"text_card": 10**12},
        {"depformer_num_layers": 10**6},
        {"context": -1},
    ],
)
def test_a_value_of_the_wrong_kind(
    read: Callable[[Path], object], folder: Path, changes: dict[str, Any]
) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    assert _reason(read, folder, ConfigError).startswith(f"{path}: ")


def test_a_tokenizer_that_is_none(read: Callable[[Path], object], folder: Path) -> None:
    (folder / "tokenizer_spm.model").write_bytes(b"no tokenizer")
    assert _reason(read, folder).startswith(f"{folder / 'tokenizer_spm.model'}: not a sentencepiece model")


def test_a_tokenizer_whose_pieces_are_no_text(read: Callable[[Path], object], folder: Path) -> None:
    path = folder / "tokenizer_spm.model"
    data = path.read_bytes()
    start = "\u2581".encode()
    path.write_bytes(
        data[: data.index(start)] + b"\xff" * len(start) + data[data.index(start) + len(start) :]
    )
    assert re.match(rf"{re.escape(str(path))}: damaged: its piece \d+ is no text", _reason(read, folder))


def test_an_unknown_format(read: Callable[[Path], object], folder: Path, edit_json: EditJson) -> None:
    edit_json(folder / "config.json", {"architectures": ["LlamaForCausalLM"], "model_type": "llama"})
    assert _reason(read, folder).endswith(
        "a Transformers checkpoint of model_type 'llama'; accepted: mimi, moshi"
    )


def test_a_missing_shard(read: Callable[[Path], object], hf_folder: Path) -> None:
    (hf_folder / "model-00002-of-00003.safetensors").unlink()
    assert _reason(read, hf_folder).endswith("there is no file model-00002-of-00003.safetensors in it")


def test_a_truncated_shard(read: Callable[[Path], object], hf_folder: Path) -> None:
    shard = hf_folder / "model-00002-of-00003.safetensors"
    shard.write_bytes(shard.read_bytes()[:-8])
    assert _reason(read, hf_folder).startswith(f"{shard}: not a whole safetensors file")


def test_a_tensor_that_is_missing_from_its_shard(
    read: Callable[[Path], object], hf_folder: Path, edit_tensors: EditTensors
) -> None:
    index = json.loads((hf_folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = hf_folder / index["embed_tokens.0.weight"]
    edit_tensors(shard, lambda tensors: tensors.pop("embed_tokens.0.weight"))
    assert _reason(read, hf_folder).startswith(f"{shard}: missing embed_tokens.0.weight")


def test_a_wrong_shape_in_a_shard(
    read: Callable[[Path], object], hf_folder: Path, edit_tensors: EditTensors
) -> None:
    name = "depth_decoder.layers.0.self_attn.q_proj.linear.weight"
    index = json.loads((hf_folder / "model.safetensors.index.json").read_text())["weight_map"]
    shard = hf_folder / index[name]
    edit_tensors(shard, lambda tensors: tensors.update({name: torch.ones(2, 2)}))
    assert _reason(read, hf_folder) == (
        f"{shard}: {name} has shape [2, 2]; the configuration asks for [4, 16, 16]"
    )


@pytest.mark.parametrize(
    "changes", [{"num_attention_heads": 0}, {"hidden_size": "wide"}, {"num_hidden_layers": 10**6}]
)
def test_a_value_of_the_wrong_kind_in_a_transformers_configuration(
    read: Callable[[Path], object], hf_folder: Path, edit_json: EditJson, changes: dict[str, Any]
) -> None:
    edit_json(hf_folder / "config.json", changes)
    assert _reason(read, hf_folder, ConfigError).startswith(f"{hf_folder / 'config.json'}: ")


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', "?"])
def test_an_index_that_is_none(read: Callable[[Path], object], hf_folder: Path, content: str) -> None:
    index = hf_folder / "model.safetensors.index.json"
    index.write_text(content)
    assert _reason(read, hf_folder).startswith(f"{index}: ")


def test_a_transformers_configuration_that_asks_for_another_model(
    read: Callable[[Path], object], hf_folder: Path, edit_json: EditJson
) -> None:
    edit_json(hf_folder / "config.json", {"rms_norm_eps": 1e-6})
    reason = _reason(read, hf_folder, ConfigError)
    assert reason == (
        f"{hf_folder / 'config.json'}: moshi config: rms_norm_eps=1e-06 is not supported; accepted: 1e-08"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("text_linear.lora_B.weight"), "missing text_linear.lora_B.weight, the other half"),
        (
            lambda t: t.update({"text_linear.lora_A.weight": torch.ones(4, 31)}),
            r"shape \[4, 31\].* \[4, 32\]",
        ),
        (lambda t: t.update({"other.lora_A.weight": torch.ones(4, 32)}), "missing other.lora_B"),
        (lambda t: t.update({"other.weight": torch.ones(1)}), "unexpected other.weight"),
        (
            lambda t: t.update({"text_emb.weight": torch.ones(1)}),
            r"text_emb.weight has shape \[1\]; in .* \[49, 32\]",
        ),
        (lambda t: t.update({"text_linear.lora_A.weight": torch.ones(())}), r"shape \[\]"),
        (lambda t: t.clear(), "no tensors in it"),
    ],
)
def test_low_rank_updates_that_do_not_fit(
    golden: Path,
    tmp_path: Path,
    edit_tensors: EditTensors,
    change: Callable[[dict[str, Tensor]], object],
    message: str,
) -> None:
    path = tmp_path / "lora.safetensors"
    path.write_bytes((golden / "lora" / "lora.safetensors").read_bytes())
    edit_tensors(path, change)
    config = json.loads((golden / "lora" / "config.json").read_text())
    with pytest.raises(CheckpointError, match=f"lora.safetensors: .*{message}"):
        loaders.get_moshi_lm(golden / "lm" / "moshi" / "model.safetensors", config, lora_weights=path)


def test_updates_and_configuration_go_together(golden: Path) -> None:
    base = golden / "lm" / "moshi"
    plain, tuned = (json.loads((golden / name / "config.json").read_text()) for name in ("lm/moshi", "lora"))
    with pytest.raises(ConfigError, match="no file of the low-rank updates"):
        loaders.get_moshi_lm(base / "model.safetensors", tuned)
    with pytest.raises(ConfigError, match="for a configuration without them"):
        loaders.get_moshi_lm(
            base / "model.safetensors", plain, lora_weights=golden / "lora" / "lora.safetensors"
        )
