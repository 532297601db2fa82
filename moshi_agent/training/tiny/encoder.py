"""The codec's first training: encoder and codebooks, against what probes read from the codes.

What they are to read is the clean speech: noise costs the codes nothing that they need for words. Later the
decoder learns as well, and when it can speak, the codes are also for what it makes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from moshi_agent.config import MimiConfig
from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.mimi.codebooks import CodebookConfig, CodebookTrainer
from moshi_agent.training.mimi.codec import CodecTrainer, CropBatch, Sampler, init_weights
from moshi_agent.training.mimi.codec_losses import CodecLoss, CodecLossConfig
from moshi_agent.training.runs.precision import faster_in_bfloat16
from moshi_agent.training.runs.trainer import Training
from moshi_agent.training.tiny.probe import PhoneProbe, Probe, ProbeConfig, Spectrum


@dataclass(frozen=True, kw_only=True)
class EncoderTraining(Training):
    """How encoder and codebooks are trained."""

    name: ClassVar[str] = "encoder"
    steps: int = 8000
    batch: int = 6
    frames: int = 16
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.8, 0.99)
    continuous_steps: int = 300  # before the codebooks are set and used
    pool_steps: int = 30  # steps whose latents set the codebooks
    commitment_weight: float = 0.1
    semantic_weight: float = 0.25  # of the spectrum that the first codebook alone tells
    phones_weight: float = 0.05  # of the phones that all codebooks tell
    semantic_phones_weight: float = 0.1  # of the phones that the first codebook alone tells
    decoded_from: int = 4000  # the step from which the decoder learns too, of the answer voice alone
    shared_from: int = 4800  # the step from which the encoder learns from it
    decoded_weight: float = 0.15
    bfloat16: bool | None = None  # convolutions in bfloat16; None where this processor is faster at them
    seed: int = 5
    codebooks: CodebookConfig = field(default_factory=lambda: CodebookConfig(decay=0.995, dropout=0.1))
    probe: ProbeConfig = field(default_factory=ProbeConfig)
    losses: CodecLossConfig = field(default_factory=CodecLossConfig)


class EncoderTrainer(CodecTrainer):
    """Trains a new codec's encoder and codebooks, and later its decoder."""

    def __init__(self, model: MimiConfig, config: EncoderTraining, sample: Sampler) -> None:
        torch.manual_seed(config.seed)
        codec = MimiModel(model)
        init_weights(codec)
        width = model.seanet.dimension
        probes = nn.ModuleList(Probe(width, config.probe) for _ in range(2))
        phone_probes = nn.ModuleList(PhoneProbe(width, config.probe) for _ in range(2))
        encoding = (codec.encoder, codec.encoder_transformer, codec.downsample, codec.quantizer)
        decoding = (codec.upsample, codec.decoder_transformer, codec.decoder)
        groups = [
            {"params": [one for module in modules for one in module.parameters()]}
            for modules in ((*encoding, probes, phone_probes), decoding)
        ]
        optimizer = torch.optim.Adam(groups, lr=config.learning_rate, betas=config.betas)
        super().__init__(config, codec, optimizer, sample, probes=probes, phone_probes=phone_probes)
        self.config = config
        self.bfloat16 = faster_in_bfloat16() if config.bfloat16 is None else config.bfloat16
        self.probes = probes
        self.phone_probes = phone_probes
        self.codebooks = CodebookTrainer(codec.quantizer, config.codebooks)
        self.spectrum = Spectrum(config.probe)
        self.decoded = CodecLoss(config.losses)
        self.pool: list[Tensor] = []  # latents [B * T, C] of the last continuous steps

    def losses(self, rng: np.random.Generator, generator: torch.Generator) -> dict[str, Tensor]:
        """See `Trainer.losses`."""
        crops = self.crops(rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            latent = self.model.encode_latent(torch.from_numpy(crops.heard)[:, None], None, None)
        semantic, acoustic, commitment = self._quantized(latent.float(), generator)
        everything = semantic + acoustic
        terms = self._probed(semantic, everything, crops)
        terms["commitment"] = self.config.commitment_weight * commitment
        if self.step >= self.config.decoded_from and crops.own.any():
            terms["decoded"] = self.config.decoded_weight * self._decoded(everything, crops)
        else:
            terms["decoded"] = latent.new_zeros(())
        return terms

    def _quantized(self, latent: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """latent: [B, T, C] -> its semantic and its acoustic part, [B, T, C] each, and the commitment."""
        config, quantizer = self.config, self.model.quantizer
        if self.step < config.continuous_steps:
            if self.step >= config.continuous_steps - config.pool_steps:
                self.pool.append(latent.detach().flatten(0, 1))
            parts = (quantizer.rvq_first, quantizer.rvq_rest)
            semantic, acoustic = (part.output_proj(part.input_proj(latent)) for part in parts)
            return semantic, acoustic, latent.new_zeros(())
        if self.step == config.continuous_steps:
            pool = torch.cat(self.pool) if self.pool else latent.detach().flatten(0, 1)
            self.codebooks.initialise(pool, generator)
            self.pool.clear()
        return self.codebooks.quantize(latent, self.step, generator)

    def _probed(self, semantic: Tensor, everything: Tensor, crops: CropBatch) -> dict[str, Tensor]:
        """What the probes read wrongly from quantized latents, [B, T, C] each."""
        config = self.config
        spectrum, phones = self.spectrum(torch.from_numpy(crops.clean)), torch.from_numpy(crops.phones)
        return {
            "all": self.probes[0](everything, spectrum),
            "semantic": config.semantic_weight * self.probes[1](semantic, spectrum),
            "phones": config.phones_weight * self.phone_probes[0](everything, phones),
            "semantic_phones": config.semantic_phones_weight * self.phone_probes[1](semantic, phones),
        }

    def _decoded(self, latent: Tensor, crops: CropBatch) -> Tensor:
        """How the answer voice differs from what the decoder makes of quantized latents, [B, T, C]."""
        own = torch.from_numpy(crops.own)
        latent = latent[own] if self.step >= self.config.shared_from else latent[own].detach()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bfloat16):
            output = self.model.decode_quantized(latent, None, None)
        step = self.step - self.config.decoded_from
        losses = self.decoded(output[:, 0].float(), torch.from_numpy(crops.clean)[own], step)
        return torch.stack(list(losses.values())).sum()

    def content(self) -> dict[str, Any]:
        """See `Trainer.content`."""
        return {**super().content(), "pool": self.pool}

    def restore(self, content: dict[str, Any]) -> None:
        """See `Trainer.restore`."""
        super().restore(content)
        self.pool = list(content["pool"])
