"""The frame step: one frame of every conversation that has one, in one pass of the model.

Mimi encode -> temporal transformer -> depth transformer -> Mimi decode, on the first rows of a state
that holds as many conversations as there is room for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.audio.framing import Frame
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import KVCache, MoshiConfig, ReferenceKind, SamplingConfig
from moshi_agent.engine.step.host_copies import HostCopies
from moshi_agent.engine.step.memory import choose_kv_int8, row_bytes
from moshi_agent.engine.step.row_invariance import rows_are_invariant
from moshi_agent.engine.step.runners import EagerRunner, GraphRunner, StepRunner, choose_lengths
from moshi_agent.engine.step.step_tensors import (
    NO_REFERENCE,
    ResultTensors,
    RowInput,
    RowOutput,
    StepShape,
    StepTensors,
    Tokens,
)
from moshi_agent.errors import ConfigError, InputError
from moshi_agent.models.conditioning import Condition, conditioned_generator
from moshi_agent.models.generator import LMGenState, StepInput
from moshi_agent.models.mimi import MimiModel, MimiState
from moshi_agent.models.prefill import prefill
from moshi_agent.nn import cache_attention
from moshi_agent.nn.attention import steady_attention
from moshi_agent.nn.cuda_graphs import GraphDevice, choose_graph_device
from moshi_agent.nn.device_errors import memory_for
from moshi_agent.nn.embedding import UNGENERATED_TOKEN, ZERO_TOKEN
from moshi_agent.nn.own_precision import own_precision
from moshi_agent.nn.sampling import RowSampling
from moshi_agent.nn.state import State
from moshi_agent.plural import counted

_MOST_STEPS = 2**40  # of one row: two thousand years

__all__ = ["EngineState", "Frame", "FrameStep", "RowInput", "RowOutput", "Tokens"]


@dataclass
class EngineState(State):
    mimi: MimiState
    lm: LMGenState


class FrameStep:
    """A checkpoint and the state of `rows` conversations with it.

    Everything a conversation has is a row of a tensor: nothing here branches on which one it is.
    Not thread-safe: one thread owns it.

    Args:
        conditions: of all rows, by name, where they are not those that the model was released with.
        cfg_coef: classifier-free guidance, 1 being none; None is as the checkpoint advises.
        kv_cache: how the temporal transformer's cache is stored, as in `EngineConfig`.
        graphs: what captures the steps; by default CUDA graphs on a CUDA device, and nothing elsewhere.
            False runs them as they are anywhere.

    Raises:
        ConfigError: the checkpoint has no language model.
        InputError: conditions that are missing or do not fit; guidance of a model without any.
        DeviceFull: so many conversations have no room on the device.
    """

    @own_precision()
    def __init__(
        self,
        checkpoint: Checkpoint,
        rows: int,
        *,
        conditions: Mapping[str, Condition] | None = None,
        cfg_coef: float | None = None,
        kv_cache: KVCache = "auto",
        graphs: GraphDevice | bool = True,
    ) -> None:
        if checkpoint.lm is None:
            raise ConfigError(f"{checkpoint.name} holds a codec alone; conversations need a language model")
        self.rows = rows
        self.mimi: MimiModel = checkpoint.mimi
        coef = checkpoint.advised_cfg_coef if cfg_coef is None else cfg_coef
        self.generator = conditioned_generator(checkpoint.lm, checkpoint.model_type, conditions or {}, coef)
        self.num_streams = checkpoint.lm.num_codebooks
        self.dim = checkpoint.lm.config.temporal.dim
        self.highest_tokens = _highest_tokens(checkpoint.lm.config)
        self.max_delay = checkpoint.lm.config.max_delay
        self.context = checkpoint.lm.config.temporal.context
        self.takes_references: ReferenceKind | None = checkpoint.lm.takes_references
        self.device = checkpoint.lm.device
        self.state, self.kv_int8 = self._new_state(rows, kv_cache)
        self.generator.begin(self.state.lm)
        self._views: dict[int, EngineState] = {}  # of the state, which never moves
        device = choose_graph_device(graphs, self.device)
        greedy = SamplingConfig(greedy=True)
        self.sampling = RowSampling(rows, self.device, greedy, constant_cost=device is not None)
        self._runner = self._new_runner(device)
        self.host_copies = HostCopies(self.device)
        self._steps = [0] * rows  # what each row has taken, so that nobody has to ask the device
        self._positions = self.generator.conditions.positions  # of the cache, before a row's first step
        self._written = [0] * rows  # positions of each row's cache that an earlier conversation has filled
        # Where the number of rows can be felt in a row's last bits, it is always the same.
        self._least_rows = 1 if rows_are_invariant([self.mimi, checkpoint.lm], rows) else rows

    def _new_state(self, rows: int, kv_cache: KVCache) -> tuple[EngineState, bool]:
        """The state, and whether its cache is int8. Raises DeviceFull where there is no room for it."""
        lm, copies = self.generator.lm_model, 1 if self.generator.guidance is None else 2
        with memory_for(counted(rows, "conversation"), "fewer of them (capacity)"):
            mimi = self.mimi.init_state(rows)  # first, so that the choice knows what it leaves free
            has_kernel = cache_attention.serves(lm.config.temporal, self.device)
            int8 = choose_kv_int8(kv_cache, lm, rows, has_kernel, copies)
            return EngineState(mimi, self.generator.init_state(rows, int8)), int8

    def _new_runner(self, graphs: GraphDevice | None) -> StepRunner:
        context = self.state.lm.temporal.capacity
        shape = StepShape(
            rows=self.rows,
            frame_size=self.mimi.frame_size,
            streams=self.num_streams,
            context=context,
            heads=len(self.generator.lm_model.extra_heads),
            references=self.takes_references,
            dim=self.dim,
            device=self.device,
        )
        if graphs is None:
            return EagerRunner(self.compute, shape)
        config = self.generator.lm_model.config.temporal
        return GraphRunner(
            self.compute, shape, graphs, choose_lengths(context, cache_attention.serves(config, self.device))
        )

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Does beforehand what a first step would wait for: on CUDA, captures the graphs."""
        self._runner.warm_up()
        self.host_copies.prepare()

    @property
    def is_captured(self) -> bool:
        """Tells whether steps run as graphs."""
        return isinstance(self._runner, GraphRunner)

    @contextmanager
    def without_graphs(self) -> Generator[None]:
        """Has the steps inside launched kernel by kernel."""
        before, self._runner = self._runner, self._new_runner(None)
        try:
            yield
        finally:
            self._runner = before

    def give_up_graphs(self) -> None:
        """Has every step from now on launched kernel by kernel."""
        self._runner = self._new_runner(None)

    def close(self) -> None:
        """Lets go of the graphs and their memory; the step then takes no more steps.

        Graphs and step know each other: without this, all that the step has would stay until Python next
        looks for garbage.
        """
        del self._runner

    @torch.inference_mode()
    def rebuild(self) -> None:
        """Begins every row anew, after a step that failed half-way."""
        self.state.reset()  # in place: graphs know it by its address, and there may be no room for another
        self.generator.begin(self.state.lm)
        self._steps, self._written = [0] * self.rows, [0] * self.rows

    @property
    def runs_aside(self) -> bool:
        """Tells whether the device still computes when `launch` returns."""
        return self._runner.runs_aside

    def run(self, inputs: Sequence[RowInput]) -> list[RowOutput]:
        """Takes one step of the rows named, at most one input each.

        Returns their outputs in the same order.
        """
        return self.launch(inputs)()

    @own_precision()
    @torch.inference_mode()
    def launch(self, inputs: Sequence[RowInput]) -> Callable[[], list[RowOutput]]:
        """Begins a step as `run` takes it. Rows may move meanwhile: the device does one thing after another.

        Returns:
            What waits for the outputs. They are to be taken before the next launch.
        """
        rows = [given.row for given in inputs]
        longest = 1 + self._positions + max(self._steps[row] for row in rows)
        capacity = self.state.lm.temporal.capacity
        count = max(1 + max(rows), self._least_rows)
        launched = self._runner.launch(count, min(longest, capacity), inputs)
        for row in rows:
            self._steps[row] += 1
        return lambda: self._outputs(launched(), rows)

    def _outputs(self, result: ResultTensors, rows: Sequence[int]) -> list[RowOutput]:
        outputs = result.outputs(rows)
        for row, output in zip(rows, outputs, strict=True):
            if not output.healthy:
                self._written[row] = self.state.lm.temporal.capacity  # nobody knows how far the harm goes
        return outputs

    @own_precision()
    @torch.inference_mode()
    def prefill(
        self, row: int, tokens: NDArray[np.int64], embeddings: NDArray[np.float32] | None = None
    ) -> None:
        """Takes steps of one row in which everything is forced, without the codec; as `prefill` does."""
        ahead = None if embeddings is None else torch.from_numpy(embeddings).to(self.device)
        state = self.state.lm.one_row(row)
        self._written[row] = self._extent(row) + len(tokens)  # also where it fails half-way
        with self.attention(), memory_for("the prompt of a conversation"):
            prefill(self.generator, state, torch.from_numpy(tokens).to(self.device), ahead)
        self._steps[row] += len(tokens)

    def compute(self, count: int, given: StepTensors, length: int | None = None) -> ResultTensors:
        """Computes the step of the first `count` rows. `length` as in `Transformer.forward`."""
        with self.attention():
            return self._compute(count, given, length)

    def attention(self) -> AbstractContextManager[object]:
        """Chooses which of PyTorch's attentions serve, as `steady_attention` does."""
        return steady_attention(self.device)

    def _compute(self, count: int, given: StepTensors, length: int | None) -> ResultTensors:
        state, sampling = self._first_rows(count), self.sampling.first_rows(count)
        lm, generator = self.generator.lm_model, self.generator
        latent = self.mimi.encode_latent(given.pcm, state.mimi, given.hears)
        user = self.mimi.quantizer.encode(latent)[:, : lm.config.num_user_codebooks, 0]
        forced = given.forced
        if forced is not None:
            given_user = forced[:, 1 + lm.dep_q :]
            user = torch.where(given_user == UNGENERATED_TOKEN, user, given_user)
            forced = forced[:, : 1 + lm.dep_q]
        step = StepInput(
            user=user,
            exec_mask=given.steps,
            forced=forced,
            next_piece=given.next_piece,
            length=length,
            references=self._references(given.references),
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
            heads=lm.extra_probabilities(output.hidden),
        )

    def _references(self, given: Tensor | None) -> Tensor | None:
        """Those of the step, [n] or [n, dim], as the model takes them: padding where a row has none."""
        if given is None or self.takes_references == "rows":
            return given
        return torch.where(given == NO_REFERENCE, self.generator.lm_model.text_padding_token_id, given)

    def _first_rows(self, count: int) -> EngineState:
        if count not in self._views:
            self._views[count] = self.state.first_rows(count)
        return self._views[count]

    def _speak(self, tokens: Tensor | None, state: MimiState, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Tokens [n, 1 + dep_q, 1] or None -> audio [n, 1920], which rows have any [n], their text [n]."""
        if tokens is None or not self.generator.lm_model.dep_q:
            text = torch.full((count,), UNGENERATED_TOKEN, device=self.device)
            text = text if tokens is None else tokens[:, 0, 0]
            audio = torch.zeros(count, self.mimi.frame_size, dtype=torch.float32, device=self.device)
            return audio, torch.zeros(count, dtype=torch.bool, device=self.device), text
        codes = tokens[:, 1 : 1 + self.mimi.num_codebooks]
        # Special tokens have no sound; a row that holds one is silent and its decoder waits.
        speaks = ((codes >= 0) & (codes < self.mimi.cardinality)).flatten(1).all(-1)
        mask = None if not speaks.is_cuda and bool(speaks.all()) else speaks
        audio = self.mimi.decode_codes(codes.clamp(0, self.mimi.cardinality - 1), state, mask)[:, 0]
        return torch.where(speaks[:, None], audio, 0), speaks, tokens[:, 0, 0]

    def steps_taken(self, row: int) -> int:
        """Steps of the language model since the row began."""
        return self._steps[row]

    @torch.inference_mode()
    def begin_row(self, row: int, sampling: SamplingConfig) -> None:
        """Makes the row a conversation that has not begun."""
        self._clear(row)
        self.generator.begin(self.state.lm.one_row(row))
        self.sampling.set_row(row, sampling)

    def _clear(self, row: int) -> None:
        for part in self._parts(self._extent(row)):
            part.zero_row(row)
        self._steps[row] = self._written[row] = 0

    def _extent(self, row: int) -> int:
        """How many positions of the row's cache hold something; all behind them are zero.

        One more than are filled: a row that does not execute is written to where its next step will be.
        """
        filled = 1 + self._positions + self._steps[row]
        return min(self.state.lm.temporal.capacity, max(filled, self._written[row]))

    def _parts(self, positions: int) -> list[State]:
        """The state, and of the caches of whole conversations so many positions."""
        lm = self.state.lm
        ahead = [one.first_positions(positions) for one in (lm.temporal, lm.temporal_null) if one is not None]
        return [self.state.mimi, lm.ring, *ahead]

    def set_sampling(self, row: int, sampling: SamplingConfig) -> None:
        """Changes how the row is sampled from the next step on."""
        self.sampling.set_row(row, sampling)

    @torch.inference_mode()
    def move_row(self, source: int, target: int) -> None:
        """Copies a conversation to another row, as far as it has filled its own."""
        self._clear(target)
        for part in self._parts(self._extent(source)):
            part.copy_row(source, target)
        self._steps[target], self._written[target] = self._steps[source], self._written[source]
        self.sampling.set_row(target, self.sampling.row(source))

    @torch.inference_mode()
    def save_row(self, row: int) -> list[Tensor]:
        """Returns a copy of the row's state on the device, to be given to `load_row`."""
        return self.state.save_row(row)

    @torch.inference_mode()
    def load_row(self, row: int, saved: list[Tensor], steps: int) -> None:
        """Takes what `save_row` gave after so many steps."""
        self._written[row] = self._extent(row)
        self.state.load_row(row, saved)
        self._steps[row] = steps

    @torch.inference_mode()
    def resume_row(self, row: int, saved: list[Tensor], steps: int) -> None:
        """Takes as `load_row` what has been elsewhere meanwhile; such numbers may be anything.

        Raises:
            InputError: a row of another model, or tokens or positions that no conversation has.
        """
        self._written[row] = self.state.lm.temporal.capacity  # whatever the number of steps says
        self.load_row(row, saved, steps)
        if not self._is_sound(row):
            self.begin_row(row, self.sampling.row(row))
            raise InputError("a row with tokens or positions that no conversation has")

    def _is_sound(self, row: int) -> bool:
        """Whether all that later steps read by is within bounds."""
        lm, steps = self.state.lm, self._steps[row]
        tokens = lm.ring.tokens[row].cpu().numpy()  # [streams, slots]
        ahead = [lm.temporal, *([] if lm.temporal_null is None else [lm.temporal_null])]
        codec = [self.state.mimi.encoder_transformer, self.state.mimi.decoder_transformer]
        return (
            bool(((tokens >= ZERO_TOKEN) & (tokens <= self.highest_tokens[:, None])).all())
            and 0 <= steps <= _MOST_STEPS
            and int(lm.ring.offset[row]) == steps
            and all(int(state.offset[row]) == steps + self._positions for state in ahead)
            and all(0 <= int(state.offset[row]) <= _MOST_STEPS for state in codec)
        )

    @property
    def row_bytes(self) -> int:
        """Of state, for one conversation."""
        return row_bytes(self.state)

    def measure(self, counts: Sequence[int], repeats: int) -> dict[int, list[float]]:
        """Milliseconds of steps with so many rows, all of whose caches are full. Begins every row anew."""
        self.warm_up()
        hearing = np.zeros(self.mimi.frame_size, np.float32)
        times: dict[int, list[float]] = {}
        for count in counts:
            for row in range(self.rows):
                self.fill_row(row)
            inputs = [RowInput(row=row, pcm=hearing) for row in range(count)]
            self.run(inputs)
            times[count] = [_milliseconds(lambda: self.run(inputs)) for _ in range(repeats)]  # noqa: B023
        self.rebuild()
        return times

    @torch.inference_mode()
    def fill_row(self, row: int) -> None:
        """Makes the row one that has gone on for longer than the context, as far as its steps' cost goes."""
        for transformer in (
            self.state.mimi.encoder_transformer,
            self.state.mimi.decoder_transformer,
            self.state.lm.temporal,
            self.state.lm.temporal_null,
        ):
            if transformer is not None:
                transformer.offset[row].fill_(2 * transformer.capacity)
        self.state.lm.ring.offset[row].fill_(self.max_delay + 1)
        self._steps[row] = 2 * self.state.lm.temporal.capacity


def _highest_tokens(config: MoshiConfig) -> NDArray[np.int64]:
    """The largest token that may be forced upon each stream, [streams]."""
    tokens = np.full(config.num_streams, config.card)
    # One number may stand for two texts.
    tokens[0] = (config.text_card + 1) ** 2 - 1 if config.demux_second_stream else config.text_card
    return tokens


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)
