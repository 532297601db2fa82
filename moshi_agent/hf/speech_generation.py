"""What `MoshiForConditionalGeneration.generate` does with inputs that have been checked.

The history goes through the temporal transformer at once; from its last step on, `Generator` takes one step
for each frame, and is given the caller's next frame with each.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.hf.cache import MoshiCache
from moshi_agent.hf.decoding import Wanted, decode
from moshi_agent.hf.generation_config import GenerationConfig
from moshi_agent.hf.text_generation import choose_graphs, row_sampling
from moshi_agent.models.generator import Generator, LMGenState, StepInput
from moshi_agent.models.lm import LMModel
from moshi_agent.models.token_ring import TokenRingState
from moshi_agent.nn.captured_step import CapturedStep
from moshi_agent.nn.cuda_graphs import GraphDevice
from moshi_agent.nn.embedding import UNGENERATED_TOKEN, ZERO_TOKEN


@dataclass(frozen=True, kw_only=True)
class History:
    """What was said before, frame by frame, and what the caller goes on to say."""

    text: Tensor | None  # [B, T]; None where `embeds` stands for all streams
    moshi: Tensor  # [B, K, T]
    user: Tensor  # [B, K, T or more] the frames behind T come while the model speaks
    blank: Tensor  # [B, K] a frame of silence, which the caller says when nothing else is given
    begins: bool  # whether a step of initial tokens stands before it
    embeds: Tensor | None = None  # [B, T, dim]

    @property
    def steps(self) -> int:
        return self.moshi.shape[2]

    def repeated(self, times: int) -> History:
        """Each row so many times, one after the other."""
        if times == 1:
            return self
        values = {name: one for name, one in vars(self).items() if isinstance(one, Tensor)}
        return dataclasses.replace(
            self, **{name: one.repeat_interleave(times, dim=0) for name, one in values.items()}
        )

    def user_frame(self, step: int, initial: int) -> Tensor:
        """The caller's codes that come with a step, [B, K]: frame t is read at step t + 1."""
        if step == 0:
            return torch.full_like(self.blank, initial)
        return self.user[:, :, step - 1] if step <= self.user.shape[2] else self.blank


@dataclass(frozen=True)
class Spoken:
    """What came out, the history included."""

    text: Tensor  # [B, T + new]
    codes: Tensor  # [B, K, T + new - 1] frames that are whole
    logits: list[Tensor]  # of the text, [B, card] for each new token


def generate_speech(
    lm: LMModel,
    history: History,
    steps: int,
    settings: GenerationConfig,
    cuda_graphs: GraphDevice | bool = True,
) -> Spoken:
    """So many steps behind the history.

    On CUDA they are captured, all but the first, which reads the history, and those in which some of it is
    still to be forced; unless they are fewer than pay for it.
    """
    history = history.repeated(settings.num_return_sequences)
    rows, past = len(history.moshi), history.steps
    delays = lm.config.delays[1 : 1 + lm.dep_q]
    known = _delayed(history.moshi, delays, lm.card)  # [B, K, T + longest delay]
    generator = _HistoryGenerator(lm)
    state = generator.begin_after(history, known, steps)
    sampling = row_sampling(lm, rows, settings)

    def take(exec_mask: Tensor | None, user: Tensor, forced: Tensor | None) -> tuple[Tensor, Tensor]:
        given = StepInput(user=user, exec_mask=exec_mask, forced=forced)
        output = generator.advance(state, given, sampling)
        return output.generated, output.text_logits

    graphs = choose_graphs(cuda_graphs, lm, steps)
    captured = None if graphs is None else CapturedStep(take, rows, lm.device, graphs)
    taken: list[Tensor] = []
    logits: list[Tensor] = []
    for step in range(past, past + steps):
        forced = _forced(known, step)
        # The first step reads more than its own frame, and a few at most have something forced.
        is_like_most = step > past and forced is None
        call = take if captured is None or not is_like_most else captured
        generated, text_logits = call(None, history.user_frame(step, lm.card), forced)
        taken.append(generated)
        logits.append(text_logits)
    return _collect(history, torch.stack(taken, dim=2), delays, logits)


def _delayed(codes: Tensor, delays: tuple[int, ...], initial: int) -> Tensor:
    """Each codebook behind by its delay, [B, K, T] -> [B, K, T + longest]: initial before it, -2 after it."""
    batch, books, steps = codes.shape
    out = torch.full((batch, books, steps + max(delays)), UNGENERATED_TOKEN, device=codes.device)
    for book, delay in enumerate(delays):
        out[:, book, :delay] = initial
        out[:, book, delay : delay + steps] = codes[:, book]
    return out


def _forced(known: Tensor, step: int) -> Tensor | None:
    """Codes of the history that are due only now, [B, 1 + K]; the text is free."""
    if step >= known.shape[2]:
        return None
    free = torch.full_like(known[:, :1, 0], UNGENERATED_TOKEN)
    return torch.cat([free, known[:, :, step]], dim=1)


def _collect(history: History, taken: Tensor, delays: tuple[int, ...], logits: list[Tensor]) -> Spoken:
    """taken: [B, 1 + K, new] as generated, each codebook behind by its delay."""
    text = [] if history.text is None else [history.text]
    frames = taken.shape[2] - max(delays)
    books = [taken[:, 1 + book, delay : delay + frames] for book, delay in enumerate(delays)]
    codes = torch.cat([history.moshi, torch.stack(books, dim=1)], dim=2)
    return Spoken(torch.cat([*text, taken[:, 0]], dim=1), codes, logits)


class _HistoryGenerator(Generator):
    """A generator whose first step reads the whole history."""

    _before: Tensor | None = None  # [B, P, dim] embeddings of the steps before the first
    _is_whole = False  # whether those are the first step's as well
    _positions = 0  # that will be read in all

    def begin_after(self, history: History, known: Tensor, steps: int) -> LMGenState:
        """The state with the history's tokens in its ring, and nothing read of them yet."""
        self._positions = history.steps + steps + 1
        ring = self.ring.init_state(len(history.moshi))
        tokens = [self._write(ring, history, known, step) for step in range(history.steps)]
        if history.embeds is not None:
            self._before, self._is_whole = history.embeds, True
        else:
            given = (
                torch.stack(tokens, dim=2)
                if tokens
                else known.new_zeros(len(known), len(self.ring.initial), 0)
            )
            self._before = self.lm_model.embed(given if history.begins else given[:, :, 1:])
        return LMGenState(ring, self.lm_model.init_state(0), None)  # the first step brings its own

    def _write(self, ring: TokenRingState, history: History, known: Tensor, step: int) -> Tensor:
        """Puts one step of the history into the ring. -> what the model reads at that step, [B, streams]."""
        self.ring.write_given(ring, history.user_frame(step, self.lm_model.card), None)
        tokens, _ = self.ring.read(ring, None)
        text = (
            known.new_full((len(known), 1), ZERO_TOKEN)
            if history.text is None
            else history.text[:, step, None]
        )
        self.ring.write_generated(ring, torch.cat([text, known[:, :, step]], dim=1), None)
        return tokens

    def _temporal(self, state: LMGenState, given: StepInput) -> tuple[Tensor, Tensor | None, Tensor]:
        if self._before is None:
            return super()._temporal(state, given)
        lm, embeds, self._before = self.lm_model, self._before, None
        if not self._is_whole:
            tokens, _ = self.ring.read(state.ring, None)
            embeds = torch.cat([embeds, lm.embed(tokens[:, :, None])], dim=1)
        cache = MoshiCache(reserve=self._positions)
        hidden = decode(lm, embeds, Wanted(cache=cache)).last_hidden_state[:, -1:]
        assert cache.state is not None
        state.temporal = cache.state
        return hidden, None, lm.text_linear(hidden)[:, 0]
