"""One step of generation on an explicit state: what the model reads, and which tokens it then chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.models.guidance import Guidance
from moshi_agent.models.lm import Conditions, LMModel
from moshi_agent.models.token_ring import TokenRing, TokenRingState
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.native.depth import NativeDepth
from moshi_agent.nn.sampling import MOST_CANDIDATES, Draws, RowSampling
from moshi_agent.nn.state import State
from moshi_agent.nn.transformer import TransformerState

Hook = Callable[[Tensor], None]

ANY_TEXT = -1


@dataclass
class LMGenState(State):
    ring: TokenRingState
    temporal: TransformerState
    temporal_null: TransformerState | None  # the same without conditions, for guidance


@dataclass(frozen=True, kw_only=True)
class StepInput:
    """Holds what one step is given."""

    user: Tensor  # [B, n_q - dep_q] codes of the user
    exec_mask: Tensor | None = None  # [B] bool, the rows that take the step; None is all
    forced: Tensor | None = None  # [B, 1 + dep_q] tokens to take where they are not -2
    replace: Tensor | None = None  # [B, dep_q] audio tokens to take instead of generating any
    next_piece: Tensor | None = None  # [B] the one piece of text that may come now; ANY_TEXT leaves it free
    length: int | None = None  # positions of the cache to read, as in `Transformer.forward`
    references: Tensor | None = None  # [B] tokens or [B, dim] rows of this step, as in `LMModel.temporal`


@dataclass(frozen=True)
class StepOutput:
    """Holds what one step has computed."""

    hidden: Tensor  # [B, 1, dim]
    text_logits: Tensor  # [B, text_card_out]
    sampled: Tensor  # [B, 1 + dep_q] what the model itself chose; the text alone where audio was replaced
    generated: Tensor  # [B, 1 + dep_q] what was taken: the same where nothing was forced


class Generator:
    """Generates with a language model. It holds no stream: the state comes with every call.

    Args:
        history: steps whose tokens are kept, so that `recall` can read them again.
    """

    on_text_hook: Hook | None = None
    on_text_logits_hook: Hook | None = None
    on_audio_hook: Hook | None = None

    def __init__(
        self,
        lm_model: LMModel,
        conditions: Conditions | None = None,
        guidance: Guidance | None = None,
        history: int = 0,
    ) -> None:
        self.lm_model = lm_model
        self.conditions = conditions or Conditions()
        self.guidance = guidance
        streams = 1 + lm_model.dep_q
        self.ring = TokenRing(lm_model.config.delays, lm_model.initial_tokens(), streams, history)

    def init_state(self, rows: int, kv_int8: bool = False) -> LMGenState:
        """Makes the state of `rows` streams, still to `begin`; `kv_int8` as in `LMModel.init_state`."""
        model = self.lm_model
        null = None if self.guidance is None else model.init_state(rows, kv_int8)
        return LMGenState(self.ring.init_state(rows), model.init_state(rows, kv_int8), null)

    @torch.no_grad()
    def begin(self, state: LMGenState, rows: Tensor | None = None) -> None:
        """Begins rows whose state is fresh, True in `rows`, [B] bool: reads what comes before all steps."""
        self.lm_model.begin(state.temporal, self.conditions, rows)

    def advance(self, state: LMGenState, given: StepInput, sampling: RowSampling) -> StepOutput:
        """Takes one step of the rows that execute; `ring.newest_frame` then has what came out."""
        self.ring.write_given(state.ring, given.user, given.exec_mask)
        hidden, hidden_null, text_logits = self._temporal(state, given)
        streams = 1 if given.replace is not None else 1 + self.lm_model.dep_q
        draws = sampling.draws(state.ring.offset, text_logits.shape[-1], self.lm_model.card, streams)
        chooser = Chooser(draws, given.forced)
        generated = self._generate(hidden, hidden_null, text_logits, given, chooser)
        self.ring.write_generated(state.ring, generated, given.exec_mask)
        return StepOutput(hidden, text_logits, torch.stack(chooser.chosen, dim=1), generated)

    def _temporal(self, state: LMGenState, given: StepInput) -> tuple[Tensor, Tensor | None, Tensor]:
        """Hidden [B, 1, dim], the same of the unwanted half or None, and text logits [B, text_card_out]."""
        model, exec_mask, guidance = self.lm_model, given.exec_mask, self.guidance
        tokens, is_initial = self.ring.read(state.ring, exec_mask)
        references = None if given.references is None else given.references[:, None]
        hidden, logits = model.temporal(
            tokens[:, :, None], state.temporal, exec_mask, self.conditions, given.length, references
        )
        if guidance is None:
            return hidden, None, logits[:, 0]
        tokens = guidance.unwanted_tokens(tokens, is_initial, state.ring.offset, self.ring.delays)
        hidden_null, logits_null = model.temporal(
            tokens[:, :, None], state.temporal_null, exec_mask, guidance.conditions, given.length, references
        )
        if not guidance.no_text:
            logits = guidance.guide(logits, logits_null)
        return hidden, hidden_null, logits[:, 0]

    def _generate(
        self,
        hidden: Tensor,
        hidden_null: Tensor | None,
        text_logits: Tensor,
        given: StepInput,
        chooser: Chooser,
    ) -> Tensor:
        """The step's own tokens, [B, 1 + dep_q]."""
        if given.next_piece is not None:
            text_logits = self._allow(text_logits, given.next_piece)
        if self.on_text_logits_hook is not None:
            self.on_text_logits_hook(text_logits[:, None, None])
        text = chooser.choose(text_logits).clone()  # a hook may write to it
        if self.on_text_hook is not None:
            self.on_text_hook(text)
        if given.replace is not None:
            audio = given.replace
        else:
            audio = self._generate_audio(hidden, hidden_null, text, chooser)
        if self.on_audio_hook is not None and audio is not None:
            self.on_audio_hook(audio)
        return text[:, None] if audio is None else torch.cat([text[:, None], audio], dim=1)

    def _generate_audio(
        self, hidden: Tensor, hidden_null: Tensor | None, text: Tensor, chooser: Chooser
    ) -> Tensor | None:
        """One codebook after the other, each knowing what was taken before it. -> [B, dep_q]."""
        model, batch = self.lm_model, hidden.shape[0]
        if not model.dep_q:
            return None
        if model.native_depth is not None and self.guidance is None and chooser.can_choose_natively:
            return chooser.choose_codebooks(model.native_depth, hidden, text)
        rows = hidden if hidden_null is None else torch.cat([hidden, hidden_null])
        if len(rows) < model.least_rows:
            rows = rows.expand(model.least_rows, -1, -1)
        copies, cache = len(rows) // batch, model.new_depth_cache(len(rows))
        given_rows = model.depth_given(rows)
        taken = [text]
        for index in range(model.dep_q):
            previous = taken[-1] if copies == 1 else taken[-1].repeat(copies)
            logits = model.depth_step(given_rows, previous, index, cache)
            if self.guidance is not None:
                logits = self.guidance.guide(logits[:batch], logits[batch:])
            taken.append(chooser.choose(logits[:batch]))
        return torch.stack(taken[1:], dim=1)

    def _allow(self, text_logits: Tensor, next_piece: Tensor) -> Tensor:
        """Leaves padding, end of padding and one piece. [B, text_card_out], [B] -> [B, text_card_out].

        The piece has the probability of all pieces together: that is when the model would speak, whatever it
        would say.
        """
        model = self.lm_model
        tokens = torch.arange(text_logits.shape[-1], device=text_logits.device)
        is_padding = (tokens == model.text_padding_token_id) | (tokens == model.end_of_text_padding_id)
        pieces = text_logits.masked_fill(is_padding, -torch.inf).logsumexp(-1, keepdim=True)
        restricted = text_logits.masked_fill(~is_padding, -torch.inf)
        restricted = torch.where(tokens == next_piece[:, None], pieces, restricted)
        return torch.where((next_piece == ANY_TEXT)[:, None], text_logits, restricted)


class Chooser:
    """Chooses the tokens of one step, one stream after the other."""

    def __init__(self, draws: Draws, forced: Tensor | None) -> None:
        self._draws = draws
        self.forced = forced  # [B, 1 + dep_q] or None
        self.chosen: list[Tensor] = []  # [B] each, before any force

    def choose(self, logits: Tensor) -> Tensor:
        """The next stream's tokens. [B, card] -> [B]."""
        stream = len(self.chosen)
        self.chosen.append(self._draws.sample(logits, stream))
        if self.forced is None:
            return self.chosen[-1]
        forced = self.forced[:, stream]
        return torch.where(forced == UNGENERATED_TOKEN, self.chosen[-1], forced)

    @property
    def can_choose_natively(self) -> bool:
        """Whether few enough candidates are looked at."""
        return self._draws.audio is None or self._draws.audio.candidates <= MOST_CANDIDATES

    def choose_codebooks(self, depth: NativeDepth, hidden: Tensor, text: Tensor) -> Tensor:
        """All codebooks at once. [B, 1, dim], [B] -> [B, dep_q]."""
        forced = None if self.forced is None else self.forced[:, 1:]
        sampled, taken = depth.codebooks_of(hidden, text, self._draws.audio, forced)
        self.chosen += sampled.unbind(1)
        return taken
