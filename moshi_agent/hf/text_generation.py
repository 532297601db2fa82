"""Text that goes on, token by token, from the text stream alone."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.hf.cache import MoshiCache
from moshi_agent.hf.decoding import Wanted, decode
from moshi_agent.hf.generation_config import GenerationConfig
from moshi_agent.hf.outputs import GenerateDecoderOnlyOutput
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.sampling import RowSampling


def row_sampling(lm: LMModel, rows: int, settings: GenerationConfig) -> RowSampling:
    """How every row chooses. The seed comes from PyTorch's generator: `torch.manual_seed` repeats a call."""
    depth, seed = settings.depth(), int(torch.randint(2**62, ()))
    config = SamplingConfig(
        greedy=not settings.do_sample and not depth.do_sample,
        temp_text=settings.temperature if settings.do_sample else 0.0,
        top_k_text=settings.top_k,
        top_p_text=settings.top_p % 1,  # all is 1 there, and 0 here
        temp=depth.temperature if depth.do_sample else 0.0,
        top_k=depth.top_k,
        top_p=depth.top_p % 1,
        seed=seed,
    )
    sampling = RowSampling(rows, lm.device, config)
    for row in range(rows):  # the same history may go on in several ways
        sampling.set_row(row, dataclasses.replace(config, seed=seed + row))
    return sampling


def generate_text(
    lm: LMModel, tokens: Tensor, attention_mask: Tensor | None, settings: GenerationConfig
) -> GenerateDecoderOnlyOutput:
    """tokens: [B, T], attention_mask: [B, T] -> sequences [B * num_return_sequences, T + new]."""
    copies = settings.num_return_sequences
    tokens = tokens.repeat_interleave(copies, dim=0)
    mask = None if attention_mask is None else attention_mask.repeat_interleave(copies, dim=0)
    sampling, cache = row_sampling(lm, len(tokens), settings), MoshiCache()
    ends = _ends(settings, tokens.device)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    logits: list[Tensor] = []
    fed = tokens
    for step in range(settings.new_tokens(tokens.shape[1])):
        wanted = Wanted(cache=cache, attention_mask=mask if step == 0 else None)
        hidden = decode(lm, lm.text_emb(fed), wanted).last_hidden_state
        logits.append(lm.text_linear(hidden[:, -1]))
        chosen = _choose(logits[-1], sampling, step)
        if len(ends):
            chosen = torch.where(ended, _padding(settings, ends), chosen)
            ended |= torch.isin(chosen, ends)
        fed = chosen[:, None]
        tokens = torch.cat([tokens, fed], dim=1)
        if len(ends) and bool(ended.all()):
            break
    return GenerateDecoderOnlyOutput(tokens, tuple(logits) if settings.output_logits else None)


def _choose(logits: Tensor, sampling: RowSampling, step: int) -> Tensor:
    """[B, card] -> [B]."""
    counter = torch.full_like(sampling.seed, step)
    return sampling.draws(counter, logits.shape[-1], audio_card=0, streams=1).sample(logits, 0)


def _ends(settings: GenerationConfig, device: torch.device) -> Tensor:
    """The tokens that end a row, [N]."""
    ends = settings.eos_token_id
    return torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).reshape(-1)


def _padding(settings: GenerationConfig, ends: Tensor) -> Tensor:
    """What stands behind the end of a row, []."""
    return ends[0] if settings.pad_token_id is None else torch.full_like(ends[0], settings.pad_token_id)
