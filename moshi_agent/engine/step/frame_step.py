"""The frame step: one frame of every conversation that has one, in one pass of the model.

Mimi encode -> temporal transformer -> depth transformer -> Mimi decode, on the first rows of a state
that holds as many conversations as there is room for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from moshi_agent.audio.framing import Frame
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.config import KVCache, SamplingConfig
from moshi_agent.engine.step.host_copies import HostCopies
from moshi_agent.engine.step.row_invariance import rows_are_invariant
from moshi_agent.engine.step.row_states import EngineState, RowStates, new_state
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
from moshi_agent.errors import ConfigError
from moshi_agent.models.conditioning import Condition, conditioned_generator
from moshi_agent.models.generator import StepInput
from moshi_agent.models.mimi import MimiState
from moshi_agent.nn import cache_attention
from moshi_agent.nn.cuda_graphs import GraphDevice, choose_graph_device
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.own_precision import own_precision
from moshi_agent.nn.sampling import RowSampling

__all__ = ["EngineState", "Frame", "FrameStep", "RowInput", "RowOutput", "Tokens"]


class FrameStep(RowStates):
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
        lm, self.mimi = checkpoint.lm, checkpoint.mimi
        coef = checkpoint.advised_cfg_coef if cfg_coef is None else cfg_coef
        history = lm.config.temporal.context or 0
        generator = conditioned_generator(lm, checkpoint.model_type, conditions or {}, coef, history)
        state, self.kv_int8 = new_state(self.mimi, generator, rows, kv_cache)
        device = choose_graph_device(graphs, lm.device)
        greedy = SamplingConfig(greedy=True)
        sampling = RowSampling(rows, lm.device, greedy, constant_cost=device is not None)
        super().__init__(generator, state, rows, sampling)
        self._views: dict[int, EngineState] = {}  # of the state, which never moves
        self._runner = self._new_runner(device)
        self.host_copies = HostCopies(self.device)
        # Where the number of rows can be felt in a row's last bits, it is always the same.
        self._least_rows = 1 if rows_are_invariant([self.mimi, lm], rows) else rows

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
        self._took_step(inputs)
        return lambda: self._outputs(launched(), rows)

    def _outputs(self, result: ResultTensors, rows: Sequence[int]) -> list[RowOutput]:
        outputs = result.outputs(rows)
        for row, output in zip(rows, outputs, strict=True):
            if not output.healthy:
                self._fills_its_cache(row)  # nobody knows how far the harm goes
        return outputs

    def compute(self, count: int, given: StepTensors, length: int | None = None) -> ResultTensors:
        """Computes the step of the first `count` rows. `length` as in `Transformer.forward`."""
        with self.attention():
            return self._compute(count, given, length)

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


def _milliseconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)
