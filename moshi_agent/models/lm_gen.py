"""Kyutai's way to generate: `LMGen` with its streams attached, one frame at a time."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.config import SamplingConfig
from moshi_agent.errors import InputError
from moshi_agent.models.generator import Chooser, Generator, Hook, LMGenState, StepInput
from moshi_agent.models.guidance import Guidance, split_conditions
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.captured_step import CapturedStep
from moshi_agent.nn.conditioners import ConditionTensors
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.nn.streaming import Streaming


@dataclass(frozen=True)
class _Parts:
    """A step as one graph, and as two between which hooks are called."""

    whole: CapturedStep
    temporal: CapturedStep
    audio: CapturedStep
    place: Tensor  # of the weights, which graphs know by their addresses


class LMGen(Generator, Streaming[LMGenState]):
    """Generates with a language model, for a batch of streams that need not be in step.

    Args:
        lm_model: the model, in evaluation mode.
        use_sampling: False takes the best token everywhere.
        temp, top_k, top_p: of the audio codes; a top_k or top_p of 0 keeps all.
        temp_text, top_k_text, top_p_text: of the text.
        seed: of the random numbers; None draws one.
        cuda_graphs: on CUDA, captures the steps of a stream, which are launched at once from then on; False
            launches every kernel by itself.
        cfg_coef: classifier-free guidance; 1 is none. The conditions then hold the batch twice: as
            wanted, and as unwanted.
        condition_tensors: from the model's `condition_provider`.
        on_text_hook: called with the text tokens, [B], which it may change in place.
        on_text_logits_hook: called with the text logits, [B, 1, 1, text_card_out], likewise.
        on_audio_hook: called with the audio tokens, [B, dep_q], likewise.
        cfg_is_masked_until: per row, the unwanted half sees no tokens up to this step.
        cfg_is_no_text: the unwanted half sees no text, and the text is not guided.
        check: accepted for Kyutai's users; it always holds here.
        support_out_of_sync: `step` always returns a tensor, -2 in the rows that have nothing. Rows may be out
            of step without it, too; `step` then returns None while no row can have anything.

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
        support_out_of_sync: bool = False,
        cfg_is_masked_until: list[int] | None = None,
        cfg_is_no_text: bool = False,
        *,
        top_p: float = 0.0,
        top_p_text: float = 0.0,
        seed: int | None = None,
        cuda_graphs: GraphDevice | bool = True,
    ) -> None:
        if lm_model.training:
            raise InputError("the model is in training mode; call .eval() first")
        guided = cfg_coef != 1.0
        if guided and not (cfg_is_no_text or cfg_is_masked_until or condition_tensors):
            raise InputError("guidance needs condition tensors, cfg_is_masked_until or cfg_is_no_text")
        conditions, guidance = lm_model.fuse(condition_tensors), None
        if guided:
            conditions, unwanted = split_conditions(conditions)
            # A tensor at once: a graph cannot bring it along.
            until = torch.tensor(cfg_is_masked_until, device=lm_model.device) if cfg_is_masked_until else None
            guidance = Guidance(
                coef=cfg_coef, conditions=unwanted, masked_until=until, no_text=cfg_is_no_text
            )
        super().__init__(lm_model, conditions, guidance)
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
        self.on_text_hook = on_text_hook
        self.on_text_logits_hook = on_text_logits_hook
        self.on_audio_hook = on_audio_hook
        self.support_out_of_sync = support_out_of_sync
        self.cuda_graphs = cuda_graphs
        self._parts: _Parts | None = None  # of the steps of a stream; None where nothing is captured
        self._steps = 0  # since the stream began; no row can have taken more
        self.sampling: RowSampling | None = None  # the rows' settings while streaming
        # [B, 1 + dep_q] what the model itself chose last; the text alone where audio was replaced
        self.last_sampled: Tensor | None = None

    def streaming_forever(self, batch_size: int) -> None:
        """Attaches a fresh state for `batch_size` streams."""
        super().streaming_forever(batch_size)
        self.begin(self.streaming_state)
        self.sampling = RowSampling(batch_size, self.lm_model.device, self.sampling_config)
        self._steps = 0
        self._capture_steps()

    def _capture_steps(self) -> None:
        steps = [self._captured(step) for step in (self._whole_step, self._temporal_part, self._audio_part)]
        whole, temporal, audio = steps
        if whole is not None and temporal is not None and audio is not None:
            self._parts = _Parts(whole, temporal, audio, self.lm_model.place)

    def stop_streaming(self) -> None:
        """Drops the attached state."""
        super().stop_streaming()
        self._parts = None

    def reset_streaming(self, reset_mask: Tensor | None = None) -> None:
        """Takes the rows that are True, [B] bool, back to the beginning; None is all of them."""
        super().reset_streaming(reset_mask)
        device = self.lm_model.device
        self.begin(self.streaming_state, None if reset_mask is None else reset_mask.to(device))
        if reset_mask is None:
            self._steps = 0

    @torch.no_grad()
    def step(
        self,
        input_tokens: Tensor,
        depformer_replace_tokens: Tensor | None = None,
        forced_tokens: Tensor | None = None,
        *,
        references: Tensor | None = None,
    ) -> Tensor | None:
        """Generates the next frame of every row that executes.

        Args:
            input_tokens: [B, K, 1] codes of the user, K at least `n_q - dep_q`.
            depformer_replace_tokens: [B, dep_q, 1] audio tokens to take instead of generating any.
            forced_tokens: [B, 1 + dep_q, 1] text and audio tokens to take where they are not -2.
            references: what the model is to speak about: of each row a token, [B], or a row of
                `LMModel.project_references`, [B, dim], as `LMModel.takes_references` says; None is nothing.

        Returns:
            [B, 1 + dep_q, 1], text first, of the frame `max_delay` ago; a row without one yet, or that
            did not execute, holds -2. None while no row can have one, unless `support_out_of_sync`.

        Raises:
            InputError: another shape or type, or a code out of range.
        """
        out, _ = self._step(input_tokens, depformer_replace_tokens, forced_tokens, references)
        return out

    @torch.no_grad()
    def step_with_extra_heads(
        self,
        input_tokens: Tensor,
        depformer_replace_tokens: Tensor | None = None,
        forced_tokens: Tensor | None = None,
    ) -> tuple[Tensor, list[Tensor]] | None:
        """Does as `step`, with the probabilities of each extra head, [B, 1, extra_heads_dim]."""
        out, hidden = self._step(input_tokens, depformer_replace_tokens, forced_tokens)
        if out is None:
            return None
        return out, [head(hidden).softmax(-1) for head in self.lm_model.extra_heads]

    def _step(
        self,
        user: Tensor,
        replace: Tensor | None,
        forced: Tensor | None,
        references: Tensor | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        state, exec_mask = self.streaming_state, self._exec_mask
        given = (
            self._check_input(user),
            self._check_generated(forced, 1 + self.lm_model.dep_q, "forced_tokens"),
            self._check_generated(replace, self.lm_model.dep_q, "depformer_replace_tokens"),
            references,
        )
        if self._parts is not None and self._parts.place is not self.lm_model.place:
            self._capture_steps()
        if self._parts is None or self._hooked_parts is not None:
            taken = self._whole_step(exec_mask, *given)
        else:
            taken = self._parts.whole(exec_mask, *given, kind=self._kind)
        frames, hidden, self.last_sampled = taken
        self._steps += 1
        if self.support_out_of_sync:
            return frames, hidden
        # A row cannot have a frame before this many steps, and a CPU can tell whether any has one.
        has_any = self._steps > self.ring.max_delay and (
            state.ring.offset.is_cuda or bool((state.ring.offset > self.ring.max_delay).any())
        )
        return frames if has_any else None, hidden

    @property
    def _hooked_parts(self) -> _Parts | None:
        """The parts of a step, where there are hooks to be called between them."""
        hooks = (self.on_text_hook, self.on_text_logits_hook, self.on_audio_hook)
        return None if hooks == (None, None, None) else self._parts

    @property
    def _kind(self) -> Hashable:
        assert self.sampling is not None
        return self.sampling.kind(self.lm_model.text_card, self.lm_model.card)

    def _whole_step(
        self,
        exec_mask: Tensor | None,
        user: Tensor,
        forced: Tensor | None,
        replace: Tensor | None,
        references: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The newest frames [B, 1 + dep_q, 1], hidden [B, 1, dim], and `last_sampled`."""
        assert self.sampling is not None
        state = self.streaming_state
        given = StepInput(
            user=user, exec_mask=exec_mask, forced=forced, replace=replace, references=references
        )
        output = self.advance(state, given, self.sampling)
        return self.ring.newest_frames(state.ring, exec_mask), output.hidden, output.sampled

    def _temporal(self, state: LMGenState, given: StepInput) -> tuple[Tensor, Tensor | None, Tensor]:
        parts = self._hooked_parts
        if parts is None:
            return super()._temporal(state, given)
        hidden, logits, *null = parts.temporal(given.exec_mask, given.references)
        return hidden, null[0] if null else None, logits

    def _temporal_part(self, exec_mask: Tensor, references: Tensor | None) -> tuple[Tensor, ...]:
        """Hidden, text logits, with guidance the unwanted hidden; what was given is in the ring by then."""
        state = self.streaming_state
        given = StepInput(user=state.ring.tokens[:, :0, 0], exec_mask=exec_mask, references=references)
        hidden, null, logits = super()._temporal(state, given)
        return (hidden, logits) if null is None else (hidden, logits, null)

    def _generate_audio(
        self, hidden: Tensor, hidden_null: Tensor | None, text: Tensor, chooser: Chooser
    ) -> Tensor | None:
        parts = self._hooked_parts
        if parts is None or not self.lm_model.dep_q:
            return super()._generate_audio(hidden, hidden_null, text, chooser)
        given = (hidden, hidden_null, text, chooser.forced)
        audio, sampled = parts.audio(None, *given, kind=self._kind)
        chooser.chosen += sampled.unbind(1)
        return audio

    def _audio_part(
        self,
        exec_mask: Tensor,
        hidden: Tensor,
        hidden_null: Tensor | None,
        text: Tensor,
        forced: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """The audio that is taken and that was sampled, [B, dep_q]; no row changes by it."""
        assert self.sampling is not None
        model, offset = self.lm_model, self.streaming_state.ring.offset
        chooser = Chooser(self.sampling.draws(offset, 1, model.card, 1 + model.dep_q), forced)
        chooser.chosen.append(text)
        audio = super()._generate_audio(hidden, hidden_null, text, chooser)
        assert audio is not None
        return audio, torch.stack(chooser.chosen[1:], dim=1)

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
