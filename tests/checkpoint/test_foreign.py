"""Files of other tools and models: refused by their name, in one line."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moshi_agent import CheckpointError, load_checkpoint
from moshi_agent.checkpoint.foreign import foreign_source


def _reason(folder: Path) -> str:
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(folder)
    reason = str(error.value)
    assert "\n" not in reason
    return reason


@pytest.mark.parametrize("name", ["model.safetensors", "mimi.safetensors", "tokenizer_spm.model"])
def test_a_pointer_of_git_lfs(folder: Path, name: str) -> None:
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{0:064d}\nsize 15550624\n"
    (folder / name).write_text(pointer)
    assert _reason(folder) == (
        f"{folder / name}: a pointer of Git LFS, and not the file itself; run `git lfs pull` in its folder"
    )


def test_a_gguf_file(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(64))
    assert _reason(folder).startswith(f"{folder / 'model.safetensors'}: a GGUF file; take the repository")


# Names as those programs write them: moshi_mlx, moshi-core for candle, moshivis.
@pytest.mark.parametrize(
    ("name", "tool"),
    [
        ("transformer.layers.0.self_attn.in_proj.scales", "an MLX file"),
        ("text_linear.biases", "an MLX file"),
        ("depformer.slices.0.linear_in.weight", "an MLX file"),
        ("depformer.0.linear_in.weight", "a file for candle"),
        ("image_prefix.proj_extra.weight", "a MoshiVis"),
    ],
)
def test_tensors_of_another_tool(folder: Path, name: str, tool: str) -> None:
    save_file({name: torch.ones(2, 2)}, folder / "model.safetensors")
    assert _reason(folder).startswith(f"{folder / 'model.safetensors'}: {tool}")


def test_a_repository_says_by_its_name_for_what_it_is(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "moshika-mlx-q4"))
    (folder / "model.safetensors").rename(folder / "model.q4.safetensors")
    assert "no file model.safetensors in it; by its name it holds an MLX file; take" in _reason(folder)
    assert foreign_source("kyutai/moshika-candle-q8") is not None
    assert foreign_source("kyutai/moshiko-pytorch-bf16") is None
