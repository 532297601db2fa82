"""The configuration of a fine-tuning, as moshi-finetune's users write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from moshi_agent.errors import ConfigError
from moshi_agent.training.finetune.config import FineTuneConfig, LoraSettings
from moshi_agent.training.finetune.config_file import read_finetune_config

EXAMPLE = Path(__file__).parents[3] / "examples" / "finetune.yaml"

# The keys and values of moshi-finetune's example, its paths filled in.
THEIRS = """
data:
  eval_data: ''
  shuffle: true
  train_data: 'calls/train.jsonl'
moshi_paths:
  hf_repo_id: "kyutai/moshiko-pytorch-bf16"
full_finetuning: false
lora: {enable: true, rank: 128, scaling: 2., ft_embed: false}
first_codebook_weight_multiplier: 100.
text_padding_weight: .5
duration_sec: 100
batch_size: 16
max_steps: 2000
gradient_checkpointing: true
optim: {lr: 2e-6, weight_decay: 0.1, pct_start: 0.05}
seed: 0
log_freq: 1
eval_freq: 100
do_eval: false
do_ckpt: true
ckpt_freq: 100
save_adapters: true
run_dir: "runs/one"
"""


def _read(tmp_path: Path, text: str, name: str = "config.yaml") -> FineTuneConfig:
    path = tmp_path / name
    path.write_text(text)
    return read_finetune_config(path)


def test_a_file_of_moshi_finetune_is_read_as_it_is(tmp_path: Path) -> None:
    """Its numbers, too, of which some are texts in YAML 1.1."""
    config = _read(tmp_path, THEIRS)
    assert config.optim.lr == 2e-6
    assert config.lora == LoraSettings(enable=True, rank=128, scaling=2.0)
    assert config.data.train_data == Path("calls/train.jsonl")
    assert config.data.eval_data is None
    assert (config.duration_sec, config.batch_size, config.max_steps) == (100.0, 16, 2000)
    assert (config.first_codebook_weight_multiplier, config.text_padding_weight) == (100.0, 0.5)


def test_the_example_has_the_settings_of_moshi_finetunes(tmp_path: Path) -> None:
    """But for what it adds."""
    theirs, ours = _read(tmp_path, THEIRS), read_finetune_config(EXAMPLE)
    same = ("optim", "lora", "moshi_paths", "duration_sec", "batch_size", "max_steps", "text_padding_weight")
    assert [getattr(theirs, name) for name in same] == [getattr(ours, name) for name in same]


def test_toml_has_the_same_keys(tmp_path: Path) -> None:
    text = 'run_dir = "runs/one"\n[lora]\nenable = true\n[optim]\nlr = 2e-6\nbetas = [0.9, 0.98]\n'
    config = _read(tmp_path, text, "config.toml")
    assert (config.run_dir, config.optim.lr, config.optim.betas) == (Path("runs/one"), 2e-6, (0.9, 0.98))


def test_null_keeps_every_checkpoint(tmp_path: Path) -> None:
    """As there; elsewhere a null is what nobody filled in."""
    config = _read(tmp_path, THEIRS + "num_ckpt_keep: null\nmax_norm: null\n")
    assert (config.num_ckpt_keep, config.max_norm) == (0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("btach_size: 3", "unknown key 'btach_size'; accepted: .*batch_size"),
        ("lora: {enable: true, alpha: 3}", "unknown key 'alpha'"),
        ("wandb: {project: x}", "wandb is not used: .*TensorBoard"),
        ("overwrite_run_dir: true", "a run goes on in its run_dir"),
        ("data: {shuffle: false}", "data.shuffle"),
        ("max_steps: 0", "max_steps=0; accepted: 1 or more"),
        ("max_steps: many", "max_steps='many'; accepted: a whole number"),
        ("optim: {lr: fast}", "lr='fast'; accepted: a number"),
        ("optim: {pct_start: 1.0}", "pct_start=1.0"),
        ("noise: {user: 2}", "noise.user=2"),
        ("depth_share: 0", "depth_share=0"),
        ("depth_share: .nan", "depth_share=nan"),
        ("param_dtype: float16", "param_dtype='float16'; accepted: 'auto', 'bfloat16', 'float32'"),
        ("full_finetuning: true", "full_finetuning=True and lora.enable=True"),
        ("run_dir: ''", "lacks run_dir"),
        ("lora: [1, 2", "no YAML"),
    ],
)
def test_what_is_wrong_is_named_with_its_file(tmp_path: Path, text: str, message: str) -> None:
    key = text.partition(":")[0]
    others = [line for line in THEIRS.splitlines() if line and not line.startswith((f"{key}:", " "))]
    lines = [line for line in others if not line.endswith(":")]
    with pytest.raises(ConfigError, match=rf"config\.yaml: .*{message}"):
        _read(tmp_path, "\n".join([*lines, text]))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("config.toml", "run_dir =", "no TOML"),
        ("config.json", "{}", "names? ends in .yaml, .yml or .toml"),
        ("config.yaml", "- 1", "it holds a list"),
        ("config.yaml", "", "it holds a NoneType"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, text, name)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.yaml: it cannot be read: No such file"):
        read_finetune_config(tmp_path / "none.yaml")
