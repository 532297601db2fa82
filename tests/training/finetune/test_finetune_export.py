"""What a fine-tuning gives is loaded by this package and by Kyutai's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile as sf
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from torch import Tensor

from moshi_agent import Engine
from moshi_agent.checkpoint import load_checkpoint
from moshi_agent.cli import main
from moshi_agent.errors import ConfigError
from moshi_agent.models.lm import LMModel
from moshi_agent.training.finetune.base import load_base
from moshi_agent.training.finetune.config import FineTuneConfig, LoraSettings
from moshi_agent.training.finetune.export import write_lora, write_model
from moshi_agent.training.finetune.finetuner import FineTuner
from moshi_agent.training.finetune.losses import Objective, ObjectiveConfig
from tests.checkpoint.peer import greedy_tokens, peer_checkpoint, peer_greedy_tokens
from tests.training.finetune.finetune_material import Echoes, configuration

LORA = LoraSettings(enable=True, rank=4, scaling=1.5, ft_embed=True)


def _trained(config: FineTuneConfig) -> tuple[LMModel, Any]:
    """A model after a few steps, and its checkpoint's files."""
    base = load_base(config, torch.float32)
    tuner = FineTuner(Objective(base.lm, ObjectiveConfig()), config, Echoes())
    for _ in range(3):
        tuner.train_step()
    return base.lm.eval(), base.files


def _weights(lm: LMModel) -> dict[str, Tensor]:
    return {name: weight.detach() for name, weight in lm.named_parameters() if weight.requires_grad}


@pytest.fixture(scope="module")
def tuned(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[LMModel, Path]:
    """A model with low-rank updates, and the folder that they were written to."""
    folder = tmp_path_factory.mktemp("tuned")
    lm, files = _trained(configuration(checkpoint, Path("unused"), lora=LORA))
    write_lora(folder, files, _weights(lm), LORA, torch.float32)
    return lm, folder


def _user(lm: LMModel) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(lm.card, (2, lm.n_q - lm.dep_q, 30), generator=generator)


def _logits(lm: LMModel) -> Tensor:
    with torch.no_grad():
        out = lm(Echoes().batch(77, 2).codes)
    return torch.cat([out.text_logits.flatten(), out.logits.nan_to_num().flatten()])


@pytest.mark.parametrize("options", [{}, {"fuse_lora": False}, {"pack": "float32"}], ids=str)
def test_the_updates_load_with_the_checkpoint_they_are_for(
    checkpoint: Path, tuned: tuple[LMModel, Path], options: dict[str, Any]
) -> None:
    lm, folder = tuned
    loaded = load_checkpoint(checkpoint, lora=folder / "lora.safetensors", **options).lm
    plain = load_checkpoint(checkpoint).lm
    assert loaded is not None and plain is not None
    torch.testing.assert_close(_logits(loaded), _logits(lm), rtol=1e-4, atol=1e-4)
    assert (_logits(plain) - _logits(lm)).abs().max() > 0.1


def test_an_engine_takes_the_updates(checkpoint: Path, tuned: tuple[LMModel, Path]) -> None:
    lora = tuned[1] / "lora.safetensors"
    with Engine.load(str(checkpoint), shared=False, capacity=1, lora=lora) as engine:
        assert engine.capacity().rows == 1


def test_the_files_are_those_of_moshi_finetune(checkpoint: Path, tuned: tuple[LMModel, Path]) -> None:
    """Their names, the keys of `config.json`, and one pair of tensors for each linear layer."""
    lm, folder = tuned
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "lora.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    assert {key: config[key] for key in ("lora", "lora_rank", "lora_scaling")} == {
        "lora": True,
        "lora_rank": 4,
        "lora_scaling": 1.5,
    }
    base = json.loads((checkpoint / "config.json").read_text())
    assert {key: config[key] for key in base} == base
    tensors = load_file(folder / "lora.safetensors")
    assert tensors.keys() == _weights(lm).keys()
    assert tensors["transformer.layers.1.self_attn.in_projs.0.lora_A.weight"].shape == (4, 16)
    assert tensors["depformer.layers.0.gating.1.linear_out.lora_B.weight"].shape == (16, 4)
    assert "text_emb.weight" in tensors


def test_updates_in_bfloat16_are_half_as_large(
    tuned: tuple[LMModel, Path], checkpoint: Path, tmp_path: Path
) -> None:
    lm, _ = tuned
    files = load_base(configuration(checkpoint, Path("unused")), torch.float32).files
    write_lora(tmp_path, files, _weights(lm), LORA, torch.bfloat16)
    loaded = load_checkpoint(checkpoint, lora=tmp_path / "lora.safetensors").lm
    assert loaded is not None
    assert {tensor.dtype for tensor in load_file(tmp_path / "lora.safetensors").values()} == {torch.bfloat16}
    torch.testing.assert_close(_logits(loaded), _logits(lm), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("full", [True, False], ids=["full", "updates added"])
def test_a_whole_model_is_a_checkpoint_of_its_own(checkpoint: Path, tmp_path: Path, full: bool) -> None:
    """With the codec and the tokenizer that it came from, bit for bit."""
    lora = LoraSettings() if full else LORA
    lm, files = _trained(configuration(checkpoint, Path("unused"), lora=lora, full_finetuning=full))
    write_model(tmp_path, files, dict(lm.named_parameters()), lora.scaling, torch.float32)
    original, loaded = load_checkpoint(checkpoint), load_checkpoint(tmp_path)
    assert loaded.lm is not None
    torch.testing.assert_close(_logits(loaded.lm), _logits(lm), rtol=1e-4, atol=1e-4)
    for (name, ours), theirs in zip(
        loaded.mimi.state_dict().items(), original.mimi.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
    assert loaded.config == original.config
    assert loaded.tokenizer is not None


@pytest.mark.filterwarnings("ignore")  # what the other package and its libraries warn of is not ours
def test_kyutais_package_loads_the_updates(checkpoint: Path, tuned: tuple[LMModel, Path]) -> None:
    """Greedy tokens are the same over several times the context, with its layers fused or not."""
    loaders = pytest.importorskip("moshi.models.loaders", reason="Kyutai's package `moshi` is not installed")
    lm, folder = tuned
    info = loaders.CheckpointInfo.from_hf_repo(
        "none",
        config_path=folder / "config.json",
        lora_weights=str(folder / "lora.safetensors"),
        moshi_weights=checkpoint / "model.safetensors",
        mimi_weights=checkpoint / "mimi.safetensors",
        mimi_config_path=checkpoint / "mimi_config.json",
        tokenizer=checkpoint / "tokenizer_spm.model",
    )
    ours = greedy_tokens(lm, _user(lm))
    assert torch.equal(ours, peer_greedy_tokens(info, _user(lm)))
    apart = info.get_moshi(dtype=torch.float32, fuse_lora=False)
    assert any(".lora_A." in name for name, _ in apart.named_parameters())


@pytest.mark.filterwarnings("ignore")
def test_kyutais_package_loads_a_whole_model(checkpoint: Path, tmp_path: Path) -> None:
    lora = LoraSettings()
    config = configuration(checkpoint, Path("unused"), lora=lora, full_finetuning=True)
    lm, files = _trained(config)
    write_model(tmp_path, files, dict(lm.named_parameters()), 1.0, torch.float32)
    info = peer_checkpoint(tmp_path)
    assert torch.equal(greedy_tokens(lm, _user(lm)), peer_greedy_tokens(info, _user(lm)))


@pytest.mark.filterwarnings("ignore")
def test_updates_made_with_kyutais_package_are_ours_too(checkpoint: Path, tmp_path: Path) -> None:
    """As moshi-finetune makes and saves them: its own layers, and `config.json` beside."""
    loaders = pytest.importorskip("moshi.models.loaders", reason="Kyutai's package `moshi` is not installed")
    config = json.loads((checkpoint / "config.json").read_text())
    names = {"lora": True, "lora_rank": 3, "lora_scaling": 1.5}
    (tmp_path / "config.json").write_text(json.dumps(config | names))
    lm_config = peer_checkpoint(checkpoint).lm_config
    peer = loaders.get_moshi_lm(
        checkpoint / "model.safetensors", lm_kwargs=lm_config | names, dtype=torch.float32, fuse_lora=False
    )
    generator = torch.Generator().manual_seed(3)
    tensors = {
        name: weight.data.normal_(generator=generator).mul_(0.2).clone()
        for name, weight in peer.named_parameters()
        if "lora" in name
    }
    save_file(tensors, tmp_path / "lora.safetensors")
    ours = load_checkpoint(checkpoint, lora=tmp_path / "lora.safetensors").lm
    assert ours is not None
    codes = Echoes().batch(77, 2).codes
    with torch.no_grad():
        expected, given = peer(codes), ours(codes)
    mask = expected.mask
    torch.testing.assert_close(given.logits[mask], expected.logits[mask], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(given.text_logits, expected.text_logits, rtol=1e-4, atol=1e-4)


def test_updates_on_a_checkpoint_with_updates_are_refused(
    checkpoint: Path, tuned: tuple[LMModel, Path], tmp_path: Path
) -> None:
    config = json.loads((tuned[1] / "config.json").read_text())
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "lora.safetensors").write_bytes((tuned[1] / "lora.safetensors").read_bytes())
    (tmp_path / "config.json").write_text(json.dumps(config | {"lora_name": "lora.safetensors"}))
    with pytest.raises(ConfigError, match="has low-rank updates already"):
        load_base(configuration(tmp_path, Path("unused")), torch.float32)


def test_the_command_line_speaks_with_the_updates(
    checkpoint: Path, tuned: tuple[LMModel, Path], tmp_path: Path
) -> None:
    """Another answer than without them, and a folder in place of the file is named as such."""
    audio: list[bytes] = []
    speech = tmp_path / "speech.wav"
    sf.write(speech, np.random.default_rng(0).uniform(-0.3, 0.3, 24_000), 24_000)
    for number, lora in enumerate(([], ["--lora", str(tuned[1] / "lora.safetensors")])):
        out = tmp_path / f"{number}.wav"
        options = ["--model", str(checkpoint), "--greedy", "--tail", "1", "--out", str(out), *lora]
        result = CliRunner().invoke(main, ["run", str(speech), *options])
        assert result.exit_code == 0, result.output
        audio.append(out.read_bytes())
    assert audio[0] != audio[1]
    result = CliRunner().invoke(main, ["run", "--model", str(checkpoint), "--lora", str(tuned[1])])
    assert result.exit_code == 1 and "is a folder; accepted: a file in it" in result.output


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("what", ["lm", "mimi"])
def test_a_device_that_is_not_there_is_named(what: str, tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    keys = {
        "lm": 'run_dir = "run"\nmoshi_paths = {hf_repo_id = "tiny"}\nlora = {enable = true}\n'
        'data = {train_data = "nowhere.jsonl"}\n',
        "mimi": 'from = "tiny"\nfolder = "run"\ndata = {train = "nowhere"}\n',
    }
    config.write_text(keys[what], encoding="utf-8")
    result = CliRunner().invoke(main, ["train", what, "--config", str(config), "--device", "cuda"])
    assert result.exit_code == 1
    assert "there is no device cuda that PyTorch can use here" in result.output
