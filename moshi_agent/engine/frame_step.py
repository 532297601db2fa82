"""The frame step: one frame of every conversation that has one, in one pass of the model.

Mimi encode -> temporal transformer -> depth transformer -> Mimi decode, on the first rows of a state
that holds as many conversations as there is room for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import SamplingConfig
from moshi_agent.errors import ConfigError
from moshi_agent.models.generator import ANY_TEXT, Generator, LMGenState, StepInput
from moshi_agent.models.mimi import MimiModel, MimiState
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.nn.state import State

Frame = NDArray[np.float32]  # [samples of one frame], 24 kHz mono, -1 to 1
Tokens = NDArray[np.int64]  # [streams], text first


@dataclass(frozen=True, kw_only=True)
class RowInput:
    """What one row is given in a step."""

    row: int
    pcm: Frame | None  # None: the language model takes a step without the codec hearing anything
    forced: Tokens | None = None  # [streams] tokens of every stream to take where they are not -2
    next_piece: int = ANY_TEXT  # the one piece of text that may come now, beside padding


@dataclass(frozen=True, kw_only=True)
class RowOutput:
    """What one row has given in a step."""

    audio: Frame | None  # [1920]; None before the model's first whole frame
    text: int  # the token that goes with `audio`; -2 without one
    next_text: int  # the token taken in this step, `max_delay` frames ahead of `text`
    healthy: bool  # False: some number in this row is no number any more


@dataclass
class EngineState(State):
    mimi: MimiState
    lm: LMGenState


@dataclass(frozen=True, kw_only=True)
class StepTensors:
    """The input of a step on the device, for its first n rows. A mask of None is all of them."""

    pcm: Tensor  # [n, 1, 1920]
    hears: Tensor | None  # [n] bool, rows whose codec hears `pcm`
    steps: Tensor | None  # [n] bool, rows whose language model takes a step
    forced: Tensor | None  # [n, streams] int64
    next_piece: Tensor | None  # [n] int64


@dataclass(frozen=True, kw_only=True)
class ResultTensors:
    """The output of a step on the device."""

    audio: Tensor  # [n, 1920]
    text: Tensor  # [n] int64, -2 in rows without output
    next_text: Tensor  # [n] int64, taken in this step
    speaks: Tensor  # [n] bool, rows with audio
    healthy: Tensor  # [n] bool


class FrameStep:
    """A checkpoint and the state of `rows` conversations with it.

    Everything a conversation has is a row of a tensor: nothing here branches on which one it is.
    Not thread-safe: one thread owns it.
    """

    def __init__(self, checkpoint: Checkpoint, rows: int) -> None:
        if checkpoint.lm is None:
            raise ConfigError(f"{checkpoint.name} holds a codec alone; conversations need a language model")
        self.rows = rows
        self.mimi: MimiModel = checkpoint.mimi
        self.generator = Generator(checkpoint.lm)
        self.num_streams = checkpoint.lm.num_codebooks
        self.max_delay = checkpoint.lm.config.max_delay
        self.context = checkpoint.lm.config.temporal.context
        self.device = checkpoint.lm.device
        self.state = self._new_state()
        self.sampling = RowSampling(rows, self.device, SamplingConfig(greedy=True))
        self._steps = [0] * rows  # what each row has taken, so that nobody has to ask the device

    def _new_state(self) -> EngineState:
        return EngineState(self.mimi.init_state(self.rows), self.generator.init_state(self.rows))

    def rebuild(self) -> None:
        """A fresh state for all rows, after a step that failed half-way."""
        self.state = self._new_state()
        self._steps = [0] * self.rows

    @torch.inference_mode()
    def run(self, inputs: Sequence[RowInput]) -> list[RowOutput]:
        """One step of the rows named, at most one input each. Returns their outputs in the same order."""
        count = 1 + max(given.row for given in inputs)
        result = self.compute(count, self._to_device(count, inputs))
        for given in inputs:
            self._steps[given.row] += 1
        return _to_host(result, [given.row for given in inputs])

    def compute(self, count: int, given: StepTensors, length: int | None = None) -> ResultTensors:
        """The step of the first `count` rows. `length` as in `Transformer.forward`."""
        state, sampling = self.state.first_rows(count), self.sampling.first_rows(count)
        lm, generator = self.generator.lm_model, self.generator
        latent = self.mimi.encode_latent(given.pcm, state.mimi, given.hears)
        user = self.mimi.quantizer.encode(latent)[:, : lm.config.num_user_codebooks, 0]
        forced = given.forced
        if forced is not None:
            given_user = forced[:, 1 + lm.dep_q :]
            user = torch.where(given_user == UNGENERATED_TOKEN, user, given_user)
            forced = forced[:, : 1 + lm.dep_q]
        step = StepInput(
            user=user, exec_mask=given.steps, forced=forced, next_piece=given.next_piece, length=length
        )
        output = generator.advance(state.lm, step, sampling)
        tokens = generator.ring.newest_frame(state.lm.ring, given.steps)
        audio, speaks, text = self._speak(tokens, state.mimi, count)
        healthy = output.text_logits.isfinite().all(-1) & latent.isfinite().flatten(1).all(-1)
        healthy &= audio.isfinite().all(-1)
        return ResultTensors(
            audio=audio,
            text=text,
            next_text=output.generated[:, 0],
            speaks=speaks,
            healthy=healthy if given.steps is None else healthy | ~given.steps,
        )

    def _speak(self, tokens: Tensor | None, state: MimiState, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [n, 1 + dep_q, 1] or None -> audio [n, 1920], which rows have any [n], their text [n]."""
        if tokens is None or not self.generator.lm_model.dep_q:
            text = torch.full((count,), UNGENERATED_TOKEN, device=self.device)
            text = text if tokens is None else tokens[:, 0, 0]
            audio = torch.zeros(count, self.mimi.frame_size, device=self.device)
            return audio, torch.zeros(count, dtype=torch.bool, device=self.device), text
        codes = tokens[:, 1 : 1 + self.mimi.num_codebooks]
        # Special tokens have no sound; a row that holds one is silent and its decoder waits.
        speaks = ((codes >= 0) & (codes < self.mimi.cardinality)).flatten(1).all(-1)
        mask = None if not speaks.is_cuda and bool(speaks.all()) else speaks
        audio = self.mimi.decode_codes(codes.clamp(0, self.mimi.cardinality - 1), state, mask)[:, 0]
        return torch.where(speaks[:, None], audio, 0), speaks, tokens[:, 0, 0]

    def _to_device(self, count: int, inputs: Sequence[RowInput]) -> StepTensors:
        pcm = np.zeros((count, 1, self.mimi.frame_size), np.float32)
        hears, steps = np.zeros((2, count), np.bool_)
        forced = np.full((count, self.num_streams), UNGENERATED_TOKEN)
        next_piece = np.full(count, ANY_TEXT)
        for given in inputs:
            steps[given.row] = True
            next_piece[given.row] = given.next_piece
            if given.pcm is not None:
                hears[given.row], pcm[given.row, 0] = True, given.pcm
            if given.forced is not None:
                forced[given.row] = given.forced
        return StepTensors(
            pcm=self._tensor(pcm),
            hears=None if hears.all() else self._tensor(hears),
            steps=None if steps.all() else self._tensor(steps),
            forced=None if (forced == UNGENERATED_TOKEN).all() else self._tensor(forced),
            next_piece=None if (next_piece == ANY_TEXT).all() else self._tensor(next_piece),
        )

    def _tensor(self, array: NDArray[np.generic]) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def steps_taken(self, row: int) -> int:
        """Steps of the language model since the row began."""
        return self._steps[row]

    @torch.inference_mode()
    def begin_row(self, row: int, sampling: SamplingConfig) -> None:
        """Makes the row a conversation that has not begun."""
        for tensor in self.state.tensors():
            tensor[row].zero_()
        self._steps[row] = 0
        self.sampling.set_row(row, sampling)

    def set_sampling(self, row: int, sampling: SamplingConfig) -> None:
        """Changes how the row is sampled from the next step on."""
        self.sampling.set_row(row, sampling)

    @torch.inference_mode()
    def move_row(self, source: int, target: int) -> None:
        """Copies a conversation to another row."""
        self.state.copy_row(source, target)
        self._steps[target] = self._steps[source]
        self.sampling.set_row(target, self.sampling.row(source))

    @torch.inference_mode()
    def save_row(self, row: int) -> list[Tensor]:
        """A copy of the row's state in host memory, to be given to `load_row`."""
        return [tensor.cpu() for tensor in self.state.save_row(row)]

    @torch.inference_mode()
    def load_row(self, row: int, saved: list[Tensor], steps: int) -> None:
        """Takes what `save_row` gave after so many steps."""
        self.state.load_row(row, saved)
        self._steps[row] = steps

    @property
    def row_bytes(self) -> int:
        """Of state, for one conversation."""
        return sum(tensor[0].numel() * tensor.element_size() for tensor in self.state.tensors())

    def measure(self, counts: Sequence[int], repeats: int) -> dict[int, list[float]]:
        """Milliseconds of steps with so many rows, all of whose caches are full. Begins every row anew."""
        hearing = np.zeros(self.mimi.frame_size, np.float32)
        times: dict[int, list[float]] = {}
        for count in counts:
            self._fill_caches()
            inputs = [RowInput(row=row, pcm=hearing) for row in range(count)]
            self.run(inputs)
            times[count] = [_milliseconds(lambda: self.run(inputs)) for _ in range(repeats)]  # noqa: B023
        self.rebuild()
        return times

    @torch.inference_mode()
    def _fill_caches(self) -> None:
        """Makes every row one that has gone on for longer than the context."""
        for transformer in (
            self.state.mimi.encoder_transformer,
            self.state.mimi.decoder_transformer,
            self.state.lm.temporal,
        ):
            transformer.offset.fill_(2 * transformer.kv.shape[4])
        self.state.lm.ring.offset.fill_(self.max_delay + 1)


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def _to_host(result: ResultTensors, rows: Sequence[int]) -> list[RowOutput]:
    audio = result.audio.cpu().numpy()
    text, next_text = result.text.tolist(), result.next_text.tolist()
    speaks, healthy = result.speaks.tolist(), result.healthy.tolist()
    return [
        RowOutput(
            audio=audio[row] if speaks[row] else None,
            text=text[row],
            next_text=next_text[row],
            healthy=healthy[row],
        )
        for row in rows
    ]
