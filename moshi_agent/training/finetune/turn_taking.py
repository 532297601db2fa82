"""How the model in training takes turns, by samples of an evaluation that it answers between steps."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, Samples, frames_of
from moshi_agent.audio.speech_gate import SpeechGate
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.evaluation.answering import Answer, read_input, write_answer
from moshi_agent.evaluation.measures import Measurer
from moshi_agent.evaluation.report import write_report
from moshi_agent.evaluation.samples import find_samples
from moshi_agent.evaluation.small_suite import make_small_suite
from moshi_agent.evaluation.suites import left_out, measure
from moshi_agent.evaluation.words import SpokenWord
from moshi_agent.models.lm import LMModel
from moshi_agent.outputs import naming
from moshi_agent.text.word_tracker import WordTracker
from moshi_agent.training.finetune.samples import converse

_ROWS = 8  # samples that are answered at once


class TurnTaking:
    """Holds the samples of a run in its folder, `turn_taking/`, where the outputs and the reports go, too.

    Args:
        run_dir: of the training.
        data: a folder of samples, which is left as it is; None takes the small suite.

    Raises:
        ConfigError: what the samples need is not installed.
        DataError: there are no samples.
        OutputError: the folder cannot be written.
    """

    def __init__(self, run_dir: Path, data: Path | None) -> None:
        self._root = run_dir / "turn_taking"
        if data is None:
            make_small_suite(self._root)
        else:
            for sample in find_samples(data):
                target = self._root / sample.data_set.name / sample.folder.name
                with naming(target):
                    outputs = shutil.ignore_patterns("*output*")
                    shutil.copytree(sample.folder, target, ignore=outputs, dirs_exist_ok=True)
        self._samples = [sample for sample in find_samples(self._root) if sample.inputs]
        self._measurer = Measurer()
        self._measurer.prepare(self._samples)

    def measure(
        self, checkpoint: Checkpoint, lm: LMModel, step: int, *, dtype: torch.dtype, seed: int
    ) -> dict[str, float]:
        """Answers all samples, writes `step_NNNNNN.html`, and returns the figures by data set and measure.

        Args:
            checkpoint: for its codec, tokenizer and advice on sampling.
            lm: the model, in evaluation mode.
            dtype: of the products.

        Raises:
            AudioError, DataError: a sample that is no good.
            OutputError: something cannot be written.
        """
        work = ((one.folder, *names) for one in self._samples for names in one.inputs.items())
        while batch := list(islice(work, _ROWS)):
            heard = [read_input(folder, given) for folder, given, _ in batch]
            answers = answer(checkpoint, lm, heard, dtype=dtype, seed=seed)
            for (folder, _, said), one in zip(batch, answers, strict=True):
                write_answer(folder, said, one)
        results = measure(self._samples, self._measurer)
        report = self._root / f"step_{step:06d}.html"
        write_report(
            report, f"the model after {step} steps", results, left_out(self._samples, self._measurer)
        )
        return {
            f"{result.data_set}/{figure.name.replace(' ', '_')}": figure.mean
            for result in results
            for figure in result.figures
        }


@torch.no_grad()
def answer(
    checkpoint: Checkpoint, lm: LMModel, heard: Sequence[Samples], *, dtype: torch.dtype, seed: int
) -> list[Answer]:
    """Lets the model hear inputs [N] at 24 kHz, all in step, and returns what it says meanwhile.

    It is at the times of a call: what the model says in a frame is heard `max_delay` frames later.
    """
    mimi, delay = checkpoint.mimi, lm.config.max_delay
    frames = max(-(-len(one) // FRAME_SAMPLES) for one in heard) + 1
    padded = np.zeros((len(heard), 1, frames * FRAME_SAMPLES), np.float32)
    for row, one in enumerate(heard):
        padded[row, 0, : len(one)] = one
    codes = mimi.encode(torch.from_numpy(padded).to(lm.device))  # [B, K, frames]
    user = codes[:, : lm.n_q - lm.dep_q]
    tokens = converse(lm, user, [None] * len(heard), checkpoint.lm_gen_config, dtype=dtype, seed=seed)
    own = tokens[:, 1 : 1 + mimi.num_codebooks].clamp(0, mimi.cardinality - 1)
    sound = mimi.decode(own)[:, 0].float().cpu().numpy()
    late = np.pad(sound, ((0, 0), (delay * FRAME_SAMPLES, 0)))
    return [
        _answer(checkpoint, tokens[row, 0], late[row, : len(one)], delay) for row, one in enumerate(heard)
    ]


def _answer(checkpoint: Checkpoint, text: Tensor, sound: Samples, delay: int) -> Answer:
    """text: [frames] of the model, said from frame `delay` of the sound [N] on."""
    gate, tracker = SpeechGate(), WordTracker(checkpoint.tokenizer, FRAME_S)
    tokens, parts, words = [None] * delay + text.tolist(), list[Samples](), []
    for frame, pcm in enumerate(frames_of(sound)):
        token = tokens[frame] if frame < len(tokens) else None
        written = "" if token is None else tracker.add(token, frame)
        gated = gate.process(pcm, bool(written))
        parts.append(gated.pcm)
        words += tracker.hear(frame, gated.is_open)
    words += tracker.finish(len(parts))
    late_s = checkpoint.text_delay_s
    spoken = [SpokenWord(word.word, max(0.0, word.start - late_s), word.end - late_s) for word in words]
    return Answer(np.concatenate(parts)[: len(sound)], spoken)
