"""Generation, one frame at a time: sampling, forced tokens, guidance, hooks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.errors import InputError
from moshi_agent.models.guidance import Guidance, split_conditions
from moshi_agent.models.lm import LMModel
from moshi_agent.models.token_ring import TokenRing, TokenRingState
from moshi_agent.nn.conditioners import ConditionTensors
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.sampling import Choice, RowSampling, sample
from moshi_agent.nn.state import State
from moshi_agent.nn.streaming import Streaming
from moshi_agent.nn.transformer import TransformerState

Hook = Callable[[Tensor], None]


@dataclass
class LMGenState(State):
    ring: TokenRingState
    temporal: TransformerState
    temporal_null: TransformerState | None  # the same without conditions, for guidance


class LMGen(Streaming[LMGenState]):
    """Generates with a language model, for a batch of streams that need not be in step.

    Args:
        lm_model: the model, in evaluation mode.
        use_sampling: False takes the best token everywhere.
        temp, top_k, top_p: of the audio codes; a top_k or top_p of 0 keeps all.
        temp_text, top_k_text, top_p_text: of the text.
        seed: of the random numbers; None draws one.
        cfg_coef: classifier-free guidance; 1 is none. The conditions then hold the batch twice: as
            wanted, and as unwanted.
        condition_tensors: from the model's `condition_provider`.
        on_text_hook: called with the text tokens, [B], which it may change in place.
        on_text_logits_hook: called with the text logits, [B, 1, 1, text_card_out], likewise.
        on_audio_hook: called with the audio tokens, [B, dep_q], likewise.
        cfg_is_masked_until: per row, the unwanted half sees no tokens up to this step.
        cfg_is_no_text: the unwanted half sees no text, and the text is not guided.
        check, support_out_of_sync: accepted for Kyutai's users; both always hold here.

    Raises:
        InputError: a model in training mode, or guidance without what it needs.
    """

    def __init__(
        self,
        lm_model: LMModel,
        use_sampling: bool = True,
        temp: float = 0.8,
        temp_text: float = 0.7,
        top_k: int = 250,
        top_k_text: int = 25,
        cfg_coef: float = 1.0,
        check: bool = False,
        condition_tensors: ConditionTensors | None = None,
        on_text_hook: Hook | None = None,
        on_text_logits_hook: Hook | None = None,
        on_audio_hook: Hook | None = None,
        support_out_of_sync: bool = True,
        cfg_is_masked_until: list[int] | None = None,
        cfg_is_no_text: bool = False,
        *,
        top_p: float = 0.0,
        top_p_text: float = 0.0,
        seed: int | None = None,
    ) -> None:
        if lm_model.training:
            raise InputError("the model is in training mode; call .eval() first")
        guided = cfg_coef != 1.0
        if guided and not (cfg_is_no_text or cfg_is_masked_until or condition_tensors):
            raise InputError("guidance needs condition tensors, cfg_is_masked_until or cfg_is_no_text")
        self.lm_model = lm_model
        self.sampling_config = SamplingConfig(
            greedy=not use_sampling,
            temp=temp,
            temp_text=temp_text,
            top_k=top_k,
            top_k_text=top_k_text,
            top_p=top_p,
            top_p_text=top_p_text,
            seed=int(torch.randint(2**62, ())) if seed is None else seed,
        )
        self.conditions = lm_model.fuse(condition_tensors)
        self.guidance: Guidance | None = None
        if guided:
            self.conditions, unwanted = split_conditions(self.conditions)
            self.guidance = Guidance(
                coef=cfg_coef, conditions=unwanted, masked_until=cfg_is_masked_until, no_text=cfg_is_no_text
            )
        self.on_text_hook = on_text_hook
        self.on_text_logits_hook = on_text_logits_hook
        self.on_audio_hook = on_audio_hook
        self.ring = TokenRing(lm_model.config.delays, lm_model.initial_tokens(), 1 + lm_model.dep_q)
        self._steps = 0  # since the stream began; no row can have taken more
        self.sampling: RowSampling | None = None  # the rows' settings while streaming
        # [B, 1 + dep_q] what the model itself chose last; the text alone where audio was replaced
        self.last_sampled: Tensor | None = None

    def init_state(self, rows: int) -> LMGenState:
        """The state of `rows` streams."""
        model = self.lm_model
        null = None if self.guidance is None else model.init_state(rows)
        return LMGenState(self.ring.init_state(rows), model.init_state(rows), null)

    def streaming_forever(self, batch_size: int) -> None:
        """Attaches a fresh state for `batch_size` streams."""
        super().streaming_forever(batch_size)
        self.sampling = RowSampling(batch_size, self.lm_model.device, self.sampling_config)
        self._steps = 0

    def reset_streaming(self, reset_mask: Tensor | None = None) -> None:
        """Takes the rows that are True, [B] bool, back to the beginning; None is all of them."""
        super().reset_streaming(reset_mask)
        if reset_mask is None:
            self._steps = 0

    @torch.no_grad()
    def step(
        self,
        input_tokens: Tensor,
        depformer_replace_tokens: Tensor | None = None,
        forced_tokens: Tensor | None = None,
    ) -> Tensor | None:
        """The next frame of every row that executes.

        Args:
            input_tokens: [B, K, 1] codes of the user, K at least `n_q - dep_q`.
            depformer_replace_tokens: [B, dep_q, 1] audio tokens to take instead of generating any.
            forced_tokens: [B, 1 + dep_q, 1] text and audio tokens to take where they are not -2.

        Returns:
            [B, 1 + dep_q, 1], text first, of the frame `max_delay` ago; a row without one yet, or that
            did not execute, holds -2. None while no row can have one.

        Raises:
            InputError: another shape or type, or a code out of range.
        """
        out, _ = self._step(input_tokens, depformer_replace_tokens, forced_tokens)
        return out

    @torch.no_grad()
    def step_with_extra_heads(
        self,
        input_tokens: Tensor,
        depformer_replace_tokens: Tensor | None = None,
        forced_tokens: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """As `step`, with the probabilities of each extra head, [B, 1, extra_heads_dim]."""
        out, hidden = self._step(input_tokens, depformer_replace_tokens, forced_tokens)
        if out is None:
            return None
        return out, [head(hidden).softmax(-1) for head in self.lm_model.extra_heads]

    def _step(
        self, user: Tensor, replace: Tensor | None, forced: Tensor | None
    ) -> tuple[Tensor | None, Tensor]:
        state, exec_mask = self.streaming_state, self._exec_mask
        user = self._check_input(user)
        forced = self._check_generated(forced, 1 + self.lm_model.dep_q, "forced_tokens")
        replace = self._check_generated(replace, self.lm_model.dep_q, "depformer_replace_tokens")
        self.ring.write_given(state.ring, user, exec_mask)
        hidden, hidden_null, text_logits = self._temporal(state)
        generated = self._generate(hidden, hidden_null, text_logits, state.ring.offset, replace, forced)
        self.ring.write_generated(state.ring, generated, exec_mask)
        self._steps += 1
        # A row cannot have a frame before this many steps: there is no need to look.
        out = self.ring.newest_frame(state.ring, exec_mask) if self._steps > self.ring.max_delay else None
        return out, hidden

    def _temporal(self, state: LMGenState) -> tuple[Tensor, Tensor | None, Tensor]:
        """Hidden [B, 1, dim], the same of the unwanted half or None, and text logits [B, text_card_out]."""
        model, exec_mask, guidance = self.lm_model, self._exec_mask, self.guidance
        tokens, is_initial = self.ring.read(state.ring, exec_mask)
        hidden, logits = model.temporal(tokens[:, :, None], state.temporal, exec_mask, self.conditions)
        if guidance is None:
            return hidden, None, logits[:, 0]
        tokens = guidance.unwanted_tokens(tokens, is_initial, state.ring.offset, self.ring.delays)
        hidden_null, logits_null = model.temporal(
            tokens[:, :, None], state.temporal_null, exec_mask, guidance.conditions
        )
        if not guidance.no_text:
            logits = guidance.guide(logits, logits_null)
        return hidden, hidden_null, logits[:, 0]

    def _generate(
        self,
        hidden: Tensor,
        hidden_null: Tensor | None,
        text_logits: Tensor,
        offset: Tensor,
        replace: Tensor | None,
        forced: Tensor | None,
    ) -> Tensor:
        """The step's own tokens, [B, 1 + dep_q]; `last_sampled` keeps what was chosen before any force."""
        assert self.sampling is not None
        if self.on_text_logits_hook is not None:
            self.on_text_logits_hook(text_logits[:, None, None])
        chosen = [self._choose(text_logits, self.sampling.text, offset, 0)]
        text = _force(chosen[0], forced, 0).clone()  # a hook may write to it
        if self.on_text_hook is not None:
            self.on_text_hook(text)
        taken = [text]
        if replace is not None:
            audio = replace
        else:
            audio = self._generate_audio(hidden, hidden_null, offset, forced, chosen, taken)
        if self.on_audio_hook is not None and audio is not None:
            self.on_audio_hook(audio)
        self.last_sampled = torch.stack(chosen, dim=1)
        return text[:, None] if audio is None else torch.cat([text[:, None], audio], dim=1)

    def _generate_audio(
        self,
        hidden: Tensor,
        hidden_null: Tensor | None,
        offset: Tensor,
        forced: Tensor | None,
        chosen: list[Tensor],
        taken: list[Tensor],
    ) -> Tensor | None:
        """One codebook after the other, each knowing what was taken before it. -> [B, dep_q]."""
        model, batch = self.lm_model, hidden.shape[0]
        if not model.dep_q:
            return None
        assert self.sampling is not None
        rows = hidden if hidden_null is None else torch.cat([hidden, hidden_null])
        if len(rows) < model.least_rows:
            rows = rows.expand(model.least_rows, -1, -1)
        copies, cache = len(rows) // batch, model.new_depth_cache(len(rows))
        for index in range(model.dep_q):
            previous = taken[-1] if copies == 1 else taken[-1].repeat(copies)
            logits = model.depth_step(rows, previous, index, cache)
            if self.guidance is not None:
                logits = self.guidance.guide(logits[:batch], logits[batch:])
            logits = logits[:batch]
            chosen.append(self._choose(logits, self.sampling.audio, offset, 1 + index))
            taken.append(_force(chosen[-1], forced, 1 + index))
        return torch.stack(taken[1:], dim=1)

    def _choose(self, logits: Tensor, choice: Choice, offset: Tensor, draw: int) -> Tensor:
        """[B, card] -> [B]."""
        assert self.sampling is not None
        if self.sampling.all_greedy:
            return logits.argmax(-1)
        candidates = self.sampling.widest(text=draw == 0, card=logits.shape[-1])
        return sample(logits, choice, self.sampling.seed, offset, draw, candidates)

    def _check_input(self, tokens: Tensor) -> Tensor:
        """[B, K, 1] -> the [B, n_q - dep_q] that the model reads."""
        needed, card = self.lm_model.config.num_user_codebooks, self.lm_model.card
        shape = list(tokens.shape)
        if len(shape) != 3 or shape[0] != self._batch_size or shape[1] < needed or shape[2] != 1:
            raise InputError(
                f"input_tokens of shape {shape}; accepted: [{self._batch_size}, {needed} or more, 1]"
            )
        tokens = tokens[:, :needed, 0]
        # The initial token, `card`, is what tells some models that the input has ended.
        if (
            not tokens.is_cuda
            and tokens.numel()
            and not (int(tokens.min()) >= -2 and int(tokens.max()) <= card)
        ):
            raise InputError(
                f"codes from {int(tokens.min())} to {int(tokens.max())}; accepted: 0 to {card - 1}"
            )
        return tokens

    def _check_generated(self, tokens: Tensor | None, count: int, name: str) -> Tensor | None:
        """[B, count, 1] -> [B, count]."""
        if tokens is not None and tokens.shape != (self._batch_size, count, 1):
            raise InputError(
                f"{name} of shape {list(tokens.shape)}; accepted: [{self._batch_size}, {count}, 1]"
            )
        return None if tokens is None else tokens[:, :, 0]


def _force(chosen: Tensor, forced: Tensor | None, stream: int) -> Tensor:
    """chosen: [B], forced: [B, streams] or None -> [B]."""
    if forced is None:
        return chosen
    return torch.where(forced[:, stream] == UNGENERATED_TOKEN, chosen, forced[:, stream])
