"""The program in Kyutai's README, with `moshi` replaced by `moshi_agent`.

What differs from it: the weights are random and made here, the language model is a small one, and
everything stays on the CPU.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from moshi_agent.checkpoint.kyutai.config import write_moshi_config
from moshi_agent.checkpoint.kyutai.names import mimi_to_kyutai
from moshi_agent.config import MimiConfig
from moshi_agent.models import LMGen, MimiModel, loaders
from moshi_agent.nn.conv import CausalConvTranspose1d
from tests.small_models import small_lm


@pytest.fixture(scope="module")
def mimi_weight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The full-size codec with random weights, in Kyutai's format."""
    torch.manual_seed(0)
    model = MimiModel(MimiConfig())
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in model.state_dict().items():
        owner = model.get_submodule(name.rpartition(".")[0])
        theirs, value = mimi_to_kyutai(name, tensor, isinstance(owner, CausalConvTranspose1d))
        tensors[theirs] = torch.randn_like(value) if name.endswith("embedding_sum") else value.contiguous()
    path = tmp_path_factory.mktemp("hub") / loaders.MIMI_NAME
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def moshi_weight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model over eight codebooks of the user and eight of its own."""
    model = loaders.get_moshi_lm(None, _lm_kwargs(), dtype=torch.float32)
    path = tmp_path_factory.mktemp("hub") / loaders.MOSHI_NAME
    save_file(model.state_dict(), path)
    return path


def _lm_kwargs() -> dict[str, object]:
    return write_moshi_config(small_lm().config) | {
        "n_q": 16,
        "dep_q": 8,
        "card": 2048,
        "delays": [0, 0, 1, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 1],
    }


def test_the_loaders_are_there_without_an_import_of_their_own() -> None:
    """In a process that has imported nothing else before."""
    program = "import moshi_agent.models as models; print(models.loaders.DEFAULT_REPO, models.LMGen.__name__)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [loaders.DEFAULT_REPO, "LMGen"]


@torch.no_grad()
def test_out_of_sync_streams_have_a_tensor_from_the_first_step_on(moshi_weight: Path) -> None:
    """-2 in the rows that have nothing: at first in all of them, then in those that wait."""
    moshi = loaders.get_moshi_lm(moshi_weight, lm_kwargs=_lm_kwargs(), dtype=torch.float32)
    lm_gen = LMGen(moshi, support_out_of_sync=True)
    codes = torch.zeros(2, 8, 1, dtype=torch.long)
    with lm_gen.streaming(2):
        first = lm_gen.step(codes)
        assert first is not None and first.shape == (2, 1 + 8, 1) and (first == -2).all()
        assert (lm_gen.step(codes) >= 0).all()  # pyright: ignore[reportOptionalOperand]
        lm_gen.set_exec_mask(torch.tensor([True, False]))
        third = lm_gen.step(codes)
        assert third is not None and (third[0] >= 0).all() and (third[1] == -2).all()


@pytest.mark.slow
def test_the_program_of_the_readme_runs(mimi_weight: Path, moshi_weight: Path) -> None:
    """Encode, decode, stream frame by frame, and generate: as written there."""
    mimi = loaders.get_mimi(mimi_weight, device="cpu")
    mimi.set_num_codebooks(8)
    wav = 0.1 * torch.randn(1, 1, 24000 * 2)
    with torch.no_grad():
        codes = mimi.encode(wav)
        decoded = mimi.decode(codes)
        assert codes.shape == (1, 8, 25) and decoded.shape == wav.shape
        frame_size = mimi.frame_size
        all_codes = []
        with mimi.streaming(batch_size=1):
            for offset in range(0, wav.shape[-1], frame_size):
                frame = wav[:, :, offset : offset + frame_size]
                frame_codes = mimi.encode(frame)
                assert frame_codes.shape[-1] == 1, frame_codes.shape
                all_codes.append(frame_codes)
    assert (torch.cat(all_codes, dim=-1) == codes).float().mean() > 0.99

    moshi = loaders.get_moshi_lm(moshi_weight, lm_kwargs=_lm_kwargs(), device="cpu", dtype=torch.float32)
    lm_gen = LMGen(moshi, temp=0.8, temp_text=0.7)
    out_wav_chunks = []
    with torch.no_grad(), lm_gen.streaming(1), mimi.streaming(1):
        for code in all_codes:
            tokens_out = lm_gen.step(code)
            if tokens_out is not None:
                assert tokens_out.shape == (1, 1 + 8, 1)
                wav_chunk = mimi.decode(tokens_out[:, 1:])
                out_wav_chunks.append(wav_chunk)
    out_wav = torch.cat(out_wav_chunks, dim=-1)
    assert out_wav.shape[-1] == 24 * frame_size and out_wav.isfinite().all()


@torch.no_grad()
def test_the_exec_mask_of_the_readme_holds(mimi_weight: Path) -> None:
    """Rows that are masked out go on as if nothing had happened."""
    mimi = loaders.get_mimi(mimi_weight, device="cpu")
    frames = 0.1 * torch.randn(2, 4, 1, mimi.frame_size)
    mask = torch.tensor([False, True, False, True])
    with mimi.streaming(4):
        mimi.set_exec_mask(mask)
        mimi.encode(torch.randn(4, 1, mimi.frame_size))
        mimi.reset_streaming(mask)
        mimi.set_exec_mask(torch.ones(4, dtype=torch.bool))
        masked = mimi.encode(frames[0])
    with mimi.streaming(4):
        fresh = mimi.encode(frames[0])
    assert torch.equal(masked, fresh)
