"""Checkpoints that this package writes, read by itself and by Kyutai's package."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moshi_agent import CheckpointError, OutputError
from moshi_agent.checkpoint import load_checkpoint, save_kyutai
from tests.checkpoint.peer import greedy_tokens, peer_checkpoint, peer_greedy_tokens
from tests.small_models import small_lm, small_mimi


def _states_equal(ours: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(ours.state_dict().items(), other.state_dict().items(), strict=True)
    return all(name == other_name and torch.equal(a, b) for (name, a), (other_name, b) in pairs)


def test_what_is_written_is_read_back_bit_for_bit(saved: Path, tmp_path: Path) -> None:
    first = load_checkpoint(saved)
    assert first.lm is not None
    save_kyutai(tmp_path, first.mimi, first.lm, saved / "tokenizer_spm.model", dtype=torch.float32)
    again = load_checkpoint(tmp_path)
    assert again.lm is not None
    assert again.config == first.config
    assert again.mimi_config == first.mimi_config
    assert _states_equal(again.mimi, first.mimi)
    assert _states_equal(again.lm, first.lm)


def test_what_goes_with_a_model_is_written_too(saved: Path) -> None:
    checkpoint = load_checkpoint(saved)
    assert checkpoint.tokenizer is not None
    assert checkpoint.tokenizer.decode(checkpoint.tokenizer.encode("hello there")) == "hello there"
    assert checkpoint.model_type == "moshi"
    assert checkpoint.lm_gen_config == {"temp": 0.5}
    assert checkpoint.name == str(saved)


def test_weights_are_bfloat16_by_default_but_codebooks_are_not_rounded(saved: Path, tmp_path: Path) -> None:
    save_kyutai(tmp_path, small_mimi(), small_lm(), saved / "tokenizer_spm.model")
    lm, mimi = load_file(tmp_path / "model.safetensors"), load_file(tmp_path / "mimi.safetensors")
    assert {tensor.dtype for tensor in lm.values()} == {torch.bfloat16}
    for name, tensor in mimi.items():
        assert tensor.dtype == (torch.float32 if "_codebook." in name else torch.bfloat16), name


def test_a_packed_model_is_refused_and_nothing_is_written(saved: Path, tmp_path: Path) -> None:
    mimi, lm = small_mimi(), small_lm()
    mimi.pack("float32")
    with pytest.raises(CheckpointError, match="before it is packed"):
        save_kyutai(tmp_path / "new", mimi, lm, saved / "tokenizer_spm.model")
    assert not (tmp_path / "new").exists()


def test_a_missing_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.model: no such file"):
        save_kyutai(tmp_path, small_mimi(), small_lm(), tmp_path / "none.model")


def test_a_folder_that_cannot_be_made_is_an_error(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot write"):
        save_kyutai(tmp_path / "file", small_mimi(), small_lm(), saved / "tokenizer_spm.model")


@pytest.mark.filterwarnings("ignore")  # what the other package and its libraries warn of is not ours
@torch.no_grad()
def test_kyutais_package_reads_it_and_answers_the_same(saved: Path) -> None:
    """Codes, audio and greedy tokens, over more than three times the context."""
    info = peer_checkpoint(saved)
    checkpoint = load_checkpoint(saved)
    mimi, lm, peer_mimi = checkpoint.mimi, checkpoint.lm, info.get_mimi()
    assert lm is not None
    generator = torch.Generator().manual_seed(1)
    speech = 0.3 * torch.randn(2, 1, 20 * mimi.frame_size, generator=generator)
    codes = mimi.encode(speech)
    assert torch.equal(codes, peer_mimi.encode(speech))
    torch.testing.assert_close(mimi.decode(codes), peer_mimi.decode(codes), rtol=1e-4, atol=1e-4)

    steps = 3 * (lm.config.temporal.context or 0) + 5
    user = torch.randint(lm.card, (2, lm.n_q - lm.dep_q, steps), generator=generator)
    ours, peers = greedy_tokens(lm, user), peer_greedy_tokens(info, user)
    assert ours.shape[-1] == steps - lm.config.max_delay
    assert torch.equal(ours, peers)
