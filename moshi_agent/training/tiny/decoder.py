"""The codec's second training: the decoder alone, while the codes stay what they are.

Once the language model's data is encoded the codes may not change any more; how they sound still may.
What is heard is the answer voice, so this training hears mostly that.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.codec import CodecTrainer, Sampler, decoder_parameters
from moshi_agent.training.mimi.codec_losses import CodecLoss, CodecLossConfig
from moshi_agent.training.runs.precision import faster_in_bfloat16
from moshi_agent.training.runs.trainer import Training


@dataclass(frozen=True, kw_only=True)
class DecoderTraining(Training):
    """How the decoder is trained on."""

    name: ClassVar[str] = "decoder"
    steps: int = 3000
    batch: int = 5
    frames: int = 16
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.7, 0.99)
    average_decay: float = 0.997
    bfloat16: bool | None = None  # convolutions in bfloat16; None where this processor is faster at them
    seed: int = 7
    losses: CodecLossConfig = field(default_factory=CodecLossConfig)


class DecoderTrainer(CodecTrainer):
    """`model` comes with everything trained; what makes its codes is not touched."""

    def __init__(self, model: MimiModel, config: DecoderTraining, sample: Sampler) -> None:
        parameters = list(decoder_parameters(model))
        optimizer = torch.optim.Adam(parameters, lr=config.learning_rate, betas=config.betas)
        super().__init__(config, model, optimizer, sample)
        self.bfloat16 = faster_in_bfloat16() if config.bfloat16 is None else config.bfloat16
        self.loss = CodecLoss(config.losses)

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Trainer.losses`."""
        crops = self.crops(rng)
        heard, target = torch.from_numpy(crops.heard), torch.from_numpy(crops.clean)
        with torch.no_grad():
            codes = self.model.quantizer.encode(self.model.encode_latent(heard[:, None], None, None))
        latent = self.model.quantizer.decode(codes)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            output = self.model.decode_quantized(latent, None, None)
        return self.loss(output[:, 0].float(), target, self.step)
