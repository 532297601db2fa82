"""Speech written down by Kyutai's `run_inference`, with the probabilities of the extra heads."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import torch
from moshi.models import loaders
from moshi.run_inference import InferenceState
from torch import Tensor

from recipes.common import synthetic_speech, write_json, write_tensors
from recipes.generation import Record, recording
from recipes.lm import make_lm
from recipes.lm_configs import GENERATING

_SAMPLES = 40 * 1920 + 777  # not a whole number of frames
_LEAST_GAP = 3e-4  # of the best logit before the second, as in `generation`
_LEAST_MARGIN = 2e-5  # of the nearest code before the second, as in `mimi`
_LEAST_VARIETY = 12  # different tokens
_STT: dict[str, Any] = GENERATING["stt"] | {"text_card": 400, "extra_heads_num_heads": 4}
_CHECKPOINT: dict[str, Any] = {
    "model_type": "stt",
    "lm_gen_config": {"temp": 0.0, "temp_text": 0.0, "top_k": 250, "top_k_text": 50},
    # Neither is a whole number of frames, as those of the published models.
    "stt_config": {"audio_delay_seconds": 0.5, "audio_silence_prefix_seconds": 0.3},
}


class _Printer:
    """Keeps what would be printed."""

    def __init__(self) -> None:
        self.text = ""

    def print_header(self) -> None:
        pass

    def log(self, level: str, message: str) -> None:
        pass

    def print_token(self, text: str) -> None:
        self.text += text


def _info(root: Path, folder: Path) -> loaders.CheckpointInfo:
    """The files as the peer's loaders take them."""
    return loaders.CheckpointInfo(
        moshi_weights=folder / "model.safetensors",
        mimi_weights=root / "mimi" / "model.safetensors",
        tokenizer=root / "tokenizer_spm.model",
        lm_config=copy.deepcopy(_STT),  # the peer's loader writes into what it is given
        mimi_config=json.loads((root / "mimi" / "config.json").read_text()),
        **_CHECKPOINT,
    )


def _transcribe(info: loaders.CheckpointInfo, speech: Tensor) -> tuple[dict[str, Tensor], str, float]:
    """Speech [1, 1, T] -> tokens and heads of every step, the text, and the closest call of all."""
    record, steps = Record(), list[tuple[Tensor, list[Tensor]]]()
    mimi, lm = info.get_mimi(), info.get_moshi("cpu", torch.float32)
    margins = _watch_margins(mimi)
    with recording(lm, record):
        state = InferenceState(
            info, mimi, info.get_text_tokenizer(), lm, 1, cfg_coef=1.0, device="cpu", **info.lm_gen_config
        )

        def step(codes: Tensor) -> Tensor:
            tokens, heads = state.lm_gen.step_with_extra_heads(codes)
            steps.append((tokens.clone(), heads))
            return tokens

        state.lm_gen.step = step
        state.printer = _Printer()
        state.run(speech)
    assert min(margins) > _LEAST_MARGIN, min(margins)
    tensors = {
        "tokens": torch.cat([tokens[0, 0] for tokens, _ in steps]).to(torch.int16),  # [steps]
        "heads": torch.stack([torch.cat(heads)[:, 0] for _, heads in steps]),  # [steps, heads, dim]
    }
    return tensors, state.printer.text, float(torch.stack(record.gap).min())


def _watch_margins(mimi: Any) -> list[float]:
    """By how much the nearest code leads the second, in every step to come."""
    margins: list[float] = []

    def watch(book: Any, x: Tensor) -> Tensor:
        distances = torch.cdist(x[None], book.embedding[None])[0]
        nearest = distances.topk(2, dim=-1, largest=False).values
        margins.append(float(((nearest[:, 1] - nearest[:, 0]) / nearest[:, 0]).min()))
        return distances.argmin(-1)

    for quantizer in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        for layer in quantizer.vq.layers:
            book = layer._codebook
            book._quantize = lambda x, book=book: watch(book, x)
    return margins


@torch.no_grad()
def write_all(root: Path) -> None:
    folder, speech = root / "transcription", synthetic_speech(1, _SAMPLES, 24_000, seed=9)
    for seed in range(200):
        make_lm(folder, copy.deepcopy(_STT), seed)
        tensors, text, gap = _transcribe(_info(root, folder), speech / 32768)
        if gap > _LEAST_GAP and len(tensors["tokens"].unique()) >= _LEAST_VARIETY:
            break
    else:
        raise RuntimeError("no seed without a near tie")
    write_tensors(folder / "run.safetensors", tensors | {"speech": speech[0, 0]})
    write_json(folder / "config.json", _STT | _CHECKPOINT)
    write_json(folder / "text.json", {"text": text})
    print(f"transcription: seed {seed}, {len(tensors['tokens'])} steps, least gap {gap:.1e}, {text!r}")
