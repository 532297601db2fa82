"""Speech translated by Kyutai's `run_inference`, from its file to its end-of-text token."""

from __future__ import annotations

import copy
import io
import json
from pathlib import Path
from typing import Any

import torch
from moshi.client_utils import RawPrinter
from moshi.models import loaders
from moshi.run_inference import InferenceState
from torch import Tensor

from recipes.common import synthetic_speech, write_json, write_tensors
from recipes.generation import Record, recording
from recipes.lm import make_lm
from recipes.lm_configs import translation_config

_FRAMES = 20
_LONGEST_TAIL = 30  # frames
_LEAST_GAP = 3e-4  # of the best logit before the second, as in `generation`
_LEAST_MARGIN = 2e-5  # of the nearest code before the second, as in `mimi`
_END_OF_TEXT = 2
_COEFFICIENTS = {"plain": 1.0, "guided": 3.0}


class _TooLong(Exception):
    """A model that does not come to its end."""


def _lm_keys(config: dict[str, Any]) -> dict[str, Any]:
    """A copy: the peer's loader writes into what it is given."""
    kept = {key: value for key, value in config.items() if key not in ("model_type", "lm_gen_config")}
    return copy.deepcopy(kept)


def _checkpoint(root: Path, folder: Path, config: dict[str, Any]) -> loaders.CheckpointInfo:
    """The files as the peer's loaders take them."""
    return loaders.CheckpointInfo(
        moshi_weights=folder / "model.safetensors",
        mimi_weights=root / "mimi" / "model.safetensors",
        tokenizer=root / "tokenizer_spm.model",
        lm_config=_lm_keys(config),
        mimi_config=json.loads((root / "mimi" / "config.json").read_text()),
        model_type=config["model_type"],
        lm_gen_config=config["lm_gen_config"],
    )


def _translate(info: loaders.CheckpointInfo, speech: Tensor, coef: float) -> dict[str, Tensor]:
    """Speech [1, 1, T] -> the text tokens and the sound that came out, with the closest call of all."""
    said: list[Tensor] = []

    def stop(tokens: Tensor) -> None:
        said.append(tokens)
        if len(said) > _FRAMES + _LONGEST_TAIL:
            raise _TooLong

    # A model in use stays in use: each run has its own.
    record, mimi, lm = Record(), info.get_mimi(), info.get_moshi("cpu", torch.float32)
    with recording(lm, record):
        state = InferenceState(
            info,
            mimi,
            info.get_text_tokenizer(),
            lm,
            batch_size=1,
            cfg_coef=coef,
            device="cpu",
            on_text_hook=stop,
            **info.lm_gen_config,
        )
        state.printer = RawPrinter(io.StringIO(), io.StringIO())
        ((text, sound),) = state.run(speech)
    return {
        "text": text.to(torch.int16),
        "sound": (32768 * sound[0]).round().clamp(-32768, 32767).to(torch.int16),
        "gap": torch.stack(record.gap).min(),
    }


def _least_margin(info: loaders.CheckpointInfo, speech: Tensor) -> float:
    """The closest call between two codes."""
    mimi, margins = info.get_mimi(), list[float]()

    def watch(book: Any, x: Tensor) -> Tensor:
        distances = torch.cdist(x[None], book.embedding[None])[0]
        nearest = distances.topk(2, dim=-1, largest=False).values
        margins.append(float(((nearest[:, 1] - nearest[:, 0]) / nearest[:, 0]).min()))
        return distances.argmin(-1)

    for quantizer in (mimi.quantizer.rvq_first, mimi.quantizer.rvq_rest):
        for layer in quantizer.vq.layers:
            book = layer._codebook
            book._quantize = lambda x, book=book: watch(book, x)
    silence = torch.zeros(1, 1, _LONGEST_TAIL * 1920)
    with mimi.streaming(1):
        for frame in torch.cat([speech, silence], dim=2).split(1920, dim=2):
            mimi.encode(frame)
    return min(margins)


def _is_telling(texts: list[Tensor]) -> bool:
    """Whether some translation says the end too early, and none stops as soon as it may."""
    ends = [(text == _END_OF_TEXT).nonzero().flatten() for text in texts]
    return any(len(end) > 1 for end in ends) and all(len(text) > _FRAMES + 3 for text in texts)


@torch.no_grad()
def write_all(root: Path) -> None:
    folder, config = root / "translation", translation_config()
    for seed in range(400):
        make_lm(folder, _lm_keys(config), seed)
        speech = synthetic_speech(1, _FRAMES * 1920, 24_000, seed=8)
        info = _checkpoint(root, folder, config)
        try:
            out = {name: _translate(info, speech / 32768, coef) for name, coef in _COEFFICIENTS.items()}
        except _TooLong:
            continue
        gap = min(float(one["gap"]) for one in out.values())
        if gap > _LEAST_GAP and _is_telling([one["text"] for one in out.values()]):
            break
    else:
        raise RuntimeError("no seed without a near tie")
    margin = _least_margin(info, speech / 32768)
    assert margin > _LEAST_MARGIN, margin
    tensors = {f"{name}.{key}": one[key] for name, one in out.items() for key in ("text", "sound")}
    write_tensors(folder / "run.safetensors", tensors | {"speech": speech[0, 0]})
    write_json(folder / "config.json", config)
    lengths = [len(one["text"]) for one in out.values()]
    print(f"translation: seed {seed}, least gap {gap:.1e}, least margin {margin:.1e}, {lengths} frames")
