"""What the codec's trainings share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.conv import CausalConv1d, CausalConvTranspose1d
from moshi_agent.training.runs.trainer import LossTrainer, Training

INITIAL_GAIN = 1.2  # makes up for what the activations take
INITIAL_LEVEL = 0.1  # about speech, where 1 would be far louder


@dataclass(frozen=True, kw_only=True)
class CropBatch:
    """Pieces of sound of one length, with what is to be heard in them."""

    heard: NDArray[np.float32]  # [batch, samples]
    clean: NDArray[np.float32]  # [batch, samples], the speech in it alone
    phones: NDArray[np.int64]  # [batch, steps], labels of the phones, several in a frame
    own: NDArray[np.bool_]  # [batch], whether it is the voice that the codec is to speak in


# sample(rng, batch, samples)
Sampler = Callable[[np.random.Generator, int, int], CropBatch]


class CodecTrainer(LossTrainer[MimiModel]):
    """Trains some of a codec's parts, on crops of what `sample` draws."""

    def __init__(
        self,
        training: Training,
        model: MimiModel,
        optimizer: torch.optim.Optimizer,
        sample: Sampler,
        **others: nn.Module,
    ) -> None:
        super().__init__(training, model, optimizer, **others)
        self.sample = sample

    def crops(self, rng: np.random.Generator) -> CropBatch:
        """What this step reads."""
        return self.sample(rng, self.training.batch, self.training.frames * self.model.frame_size)

    def restore(self, content: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(content)
        refresh_codebooks(self.model)


def init_weights(model: MimiModel) -> None:
    """Draws the convolutions so that a signal keeps its size on its way, and the output begins quietly."""
    for module in model.modules():
        if isinstance(module, CausalConv1d):
            inputs = module.in_channels * module.kernel_size
        elif isinstance(module, CausalConvTranspose1d):
            # Each output step sees this many of the kernel's steps.
            inputs = (1 if module.depthwise else module.in_channels) * module.kernel_size / module.stride
        else:
            continue
        std = INITIAL_GAIN / math.sqrt(inputs)
        nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
    last = model.decoder.model[-1]
    assert isinstance(last, CausalConv1d)
    with torch.no_grad():
        last.weight.mul_(INITIAL_LEVEL)


def refresh_codebooks(model: MimiModel) -> None:
    """Recomputes the centroids; call it after a model's buffers have been written."""
    for part in (model.quantizer.rvq_first, model.quantizer.rvq_rest):
        for index in range(len(part.codebooks)):
            part.codebook(index).refresh()


def decoder_parameters(model: MimiModel) -> Iterator[nn.Parameter]:
    """What turns codes into sound, without the codebooks themselves."""
    quantizer = model.quantizer
    parts = (quantizer.rvq_first.output_proj, quantizer.rvq_rest.output_proj)
    for part in (*parts, model.upsample, model.decoder_transformer, model.decoder):
        yield from part.parameters()
