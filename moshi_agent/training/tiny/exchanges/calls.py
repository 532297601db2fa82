"""Makes up calls about new exchanges as files to fine-tune on: stereo audio, words with times, a manifest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import soundfile as sf
from tqdm import tqdm

from moshi_agent.training.stereo.alignments import Alignment, sidecar_path, write_sidecar
from moshi_agent.training.stereo.manifest import ManifestEntry, write_manifest
from moshi_agent.training.tiny.conversations import ConversationMix, ConversationSampler
from moshi_agent.training.tiny.made_up_call import Conversation, Turn
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, SpokenWord
from moshi_agent.training.tiny.tokenizer import BEGIN

FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
# A word's time is rounded on its way: one that starts with a frame must not fall into the frame before.
IN_FRAME_S = 0.002
# Pauses are short and many answers interrupted: a second of silence, or of an answer's end that is known
# anyway, takes as long to learn from as a second of a question.
MIX = ConversationMix(
    silent_share=0.02,
    noise_only_share=0.02,
    greeting_share=0.08,
    known_share=0.68,
    interrupted_share=0.25,
    resumed_share=0.02,
    told_share=0.0,  # files cannot tell that something is no example of when to speak
    burst_share=0.25,
    first_pause_s=(0.1, 0.8),
    pause_s=(0.3, 1.2),
    long_pause_share=0.04,
    long_pause_s=(2.0, 5.0),
)


@dataclass(frozen=True, kw_only=True)
class CallPlan:
    """Says how many calls are made, and how long they are."""

    calls: int = 560
    frames: int = 150  # of a call: 12 s
    seed: int = 61


def asking_more(sampler: ConversationSampler, new: int, times: int) -> ConversationSampler:
    """Makes a sampler whose callers ask each of the last `new` questions `times` as often as any other."""
    first = len(sampler.questions) - new
    answers, others = sampler.answers[: len(sampler.questions)], sampler.answers[len(sampler.questions) :]
    return replace(
        sampler,
        questions=sampler.questions[:first] + sampler.questions[first:] * times,
        answers=answers[:first] + answers[first:] * times + others,
    )


def write_calls(folder: Path, sampler: ConversationSampler, plan: CallPlan, name: str = "train") -> Path:
    """Writes the calls that are missing, and returns `<name>.jsonl`, the list of all.

    Raises:
        OutputError: the folder cannot be written to.
    """
    calls = folder / name
    calls.mkdir(parents=True, exist_ok=True)
    words = {one.item.text: one.words for one in sampler.corpus.of_kind("answer")}
    entries: list[ManifestEntry] = []
    for number in tqdm(range(plan.calls), desc=f"{name} calls", unit="call", disable=None):
        path = calls / f"call_{number:04d}.flac"
        entries.append(ManifestEntry(path, plan.frames * FRAME_S))
        if sidecar_path(path).exists():  # it is written last, so the call is whole
            continue
        call = sampler.sample(np.random.default_rng([plan.seed, number]), plan.frames)
        # Moshi left, the user right.
        sf.write(path, np.stack([call.bot, call.user], axis=1), SAMPLE_RATE_HZ, subtype="PCM_16")
        said = alignments(call, [words[one.text] for one in sampler.answers])
        write_sidecar(sidecar_path(path), said, greets=bool(call.text[0] == BEGIN))
    manifest = folder / f"{name}.jsonl"
    write_manifest(manifest, entries)
    return manifest


def alignments(call: Conversation, answers: list[tuple[SpokenWord, ...]]) -> list[Alignment]:
    """Lists the words that the bot says, with their times. `answers` has the words of each answer."""
    said: list[Alignment] = []
    for turn in call.turns:
        said += _said(turn, answers[turn.answer], len(call.text) * FRAME_S)
    return said


def _said(turn: Turn, words: tuple[SpokenWord, ...], call_s: float) -> list[Alignment]:
    """The words of one answer, without those for which an interruption or the call's end leaves no room."""
    if turn.answer_first_frame is None or turn.answer_last_frame is None:
        return []
    start_s, until_s = turn.answer_first_frame * FRAME_S, call_s
    if turn.interrupted_at is not None:
        # The text stops a frame before the sound does.
        until_s = turn.answer_last_frame * FRAME_S
    said: list[Alignment] = []
    for word in words:
        first_s, last_s = start_s + max(word.start, IN_FRAME_S), start_s + word.end
        is_whole = last_s <= until_s or (turn.interrupted_at is None and first_s + IN_FRAME_S < call_s)
        if is_whole:
            said.append(Alignment(word.word, first_s, min(last_s, call_s)))
    return said
