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
from moshi_agent.nn.captured_step import CapturedStep, Step
from moshi_agent.nn.cuda_graphs import GraphDevice, choose_graph_device
from moshi_agent.nn.sampling import RowSampling

_LEAST_CAPTURED = 16  # steps; a capture costs as much as three and the graph's own making


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


def choose_graphs(wanted: GraphDevice | bool, lm: LMModel, steps: int) -> GraphDevice | None:
    """Chooses what captures so many steps, as `choose_graph_device` does; None where they are too few."""
    return choose_graph_device(wanted, lm.device) if steps >= _LEAST_CAPTURED else None


def generate_text(
    lm: LMModel,
    tokens: Tensor,
    attention_mask: Tensor | None,
    settings: GenerationConfig,
    cuda_graphs: GraphDevice | bool = True,
) -> GenerateDecoderOnlyOutput:
    """tokens: [B, T], attention_mask: [B, T] -> sequences [B * num_return_sequences, T + new].

    On CUDA the steps are captured, all but the first, which reads the tokens; unless they are fewer than pay
    for it.
    """
    copies, steps = settings.num_return_sequences, settings.new_tokens(tokens.shape[1])
    tokens = tokens.repeat_interleave(copies, dim=0)
    mask = None if attention_mask is None else attention_mask.repeat_interleave(copies, dim=0)
    # Room for all at once: what a graph writes to has to stay where it is.
    sampling, cache = row_sampling(lm, len(tokens), settings), MoshiCache(reserve=tokens.shape[1] + steps)

    def choose(hidden: Tensor, counter: Tensor) -> tuple[Tensor, Tensor]:
        """hidden: [B, T, dim], counter: [B] -> logits after the last of them, [B, card], and tokens, [B]."""
        logits = lm.text_linear(hidden[:, -1])
        draws = sampling.draws(counter, logits.shape[-1], audio_card=0, streams=1)
        return logits, draws.sample(logits, 0)

    def take(exec_mask: Tensor | None, before: Tensor, counter: Tensor) -> tuple[Tensor, Tensor]:
        x = lm.transformer(lm.text_emb(before[:, None]), cache.state, exec_mask)
        return choose(lm.out_norm(x), counter)

    graphs = choose_graphs(cuda_graphs, lm, steps)
    take_next: Step = take if graphs is None else CapturedStep(take, len(tokens), lm.device, graphs)
    ends = _ends(settings, tokens.device)
    ended = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
    taken, logits = list[Tensor](), list[Tensor]()
    for step in range(steps):
        counter = torch.full_like(sampling.seed, step)
        if step:
            text_logits, chosen = take_next(None, taken[-1], counter)
        else:
            wanted = Wanted(cache=cache, attention_mask=mask)
            text_logits, chosen = choose(decode(lm, lm.text_emb(tokens), wanted).last_hidden_state, counter)
        logits.append(text_logits)
        if len(ends):
            chosen = torch.where(ended, _padding(settings, ends), chosen)
            ended |= torch.isin(chosen, ends)
        taken.append(chosen)
        if len(ends) and bool(ended.all()):
            break
    sequences = torch.cat([tokens, torch.stack(taken, dim=1)], dim=1)
    return GenerateDecoderOnlyOutput(sequences, tuple(logits) if settings.output_logits else None)


def _ends(settings: GenerationConfig, device: torch.device) -> Tensor:
    """The tokens that end a row, [N]."""
    ends = settings.eos_token_id
    return torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).reshape(-1)


def _padding(settings: GenerationConfig, ends: Tensor) -> Tensor:
    """What stands behind the end of a row, []."""
    return ends[0] if settings.pad_token_id is None else torch.full_like(ends[0], settings.pad_token_id)
