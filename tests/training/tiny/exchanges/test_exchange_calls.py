"""Calls about new exchanges, as the files that a fine-tuning reads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent.errors import DataError
from moshi_agent.training.stereo.alignments import read_sidecar, sidecar_path
from moshi_agent.training.stereo.interleaver import Interleaver
from moshi_agent.training.stereo.manifest import read_manifest
from moshi_agent.training.tiny.conversations import ConversationSampler
from moshi_agent.training.tiny.corpus import Corpus
from moshi_agent.training.tiny.exchanges.calls import MIX, CallPlan, alignments, asking_more, write_calls
from moshi_agent.training.tiny.exchanges.lesson import LessonPlan, write_lesson
from moshi_agent.training.tiny.exchanges.speech import SpeechPlan, held_out_items, installed
from moshi_agent.training.tiny.exchanges.text_file import extended
from moshi_agent.training.tiny.phrases import Exchange, load_phrases, plain
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SpokenWord
from moshi_agent.training.tiny.tokenizer import load_tokenizer
from moshi_agent.training.tiny.voices import HELD_OUT_VOICES, TRAINING_VOICES

NEW = (
    Exchange(question="May I bring my dog?", answer="Dogs are welcome in the garden."),
    Exchange(question="Can I pay by card?", answer="Of course, we take cards and cash."),
)
PLAN = LessonPlan(
    speech=SpeechPlan(new_renderings=2, old_renderings=1, unknown=8),
    calls=CallPlan(calls=4, frames=150),
    repeats=20,
)
FRAMES = 150
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="not installed: flite")


@pytest.fixture(scope="module")
def lesson(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with calls about two new exchanges."""
    folder = tmp_path_factory.mktemp("lesson")
    write_lesson(folder, NEW, load_tokenizer(), PLAN)
    return folder


@pytest.fixture(scope="module")
def sampler(lesson: Path) -> ConversationSampler:
    """A sampler on the lesson's speech, of calls in which nobody interrupts."""
    tokenizer = load_tokenizer()
    phrases = extended(load_phrases(), NEW, tokenizer)
    mix = replace(MIX, greeting_share=0, interrupted_share=0, resumed_share=0)
    return ConversationSampler.make(Corpus.open(lesson / "speech"), phrases, tokenizer, mix=mix)


def _words(sampler: ConversationSampler) -> list[tuple[SpokenWord, ...]]:
    words = {one.item.text: one.words for one in sampler.corpus.of_kind("answer")}
    return [words[answer.text] for answer in sampler.answers]


@needs_flite
def test_the_files_are_those_of_a_fine_tuning(lesson: Path) -> None:
    """Each is stereo of the length that the manifest tells, and its words lie inside it."""
    entries = read_manifest(lesson / "train.jsonl")
    assert len(entries) == PLAN.calls.calls
    said = 0
    for entry in entries:
        samples, rate_hz = sf.read(entry.path, dtype="float32")
        assert samples.shape == (FRAMES * FRAME_SAMPLES, 2)
        assert entry.duration_s == pytest.approx(len(samples) / rate_hz)
        words = read_sidecar(sidecar_path(entry.path), entry.duration_s or 0).alignments
        said += len(words)
        for word in words:  # the bot, on the left, sounds while a word is said
            first, last = (int(time * rate_hz) for time in (word.start_s, word.end_s))
            assert np.abs(samples[first : max(last, first + 2400), 0]).max() > 0
    assert said > 10


@needs_flite
def test_words_and_times_give_the_text_that_the_model_is_to_write(sampler: ConversationSampler) -> None:
    """Read back as a fine-tuning reads them, they are the very tokens of the call, frame by frame."""
    interleaver = Interleaver(tokenizer=load_tokenizer(), frame_rate_hz=12.5, crowded="shift")
    words = _words(sampler)
    for seed in range(40):
        call = sampler.sample(np.random.default_rng(seed), FRAMES)
        tokens = interleaver.tokens(alignments(call, words), 0.0, FRAMES)
        assert tokens[:-8] == call.text.tolist()[:-8], seed
        assert any(call.text != 3) or not call.turns


@needs_flite
def test_an_interrupted_answer_leaves_no_words_behind(sampler: ConversationSampler) -> None:
    """Nothing is written once the sound has stopped."""
    cut = replace(sampler, mix=replace(MIX, interrupted_share=1.0, resumed_share=0.3))
    words, interrupted = _words(sampler), 0
    for seed in range(40):
        call = cut.sample(np.random.default_rng(seed), FRAMES)
        silent = ~call.bot.reshape(FRAMES, FRAME_SAMPLES).any(1)
        interrupted += sum(turn.interrupted_at is not None for turn in call.turns)
        for word in alignments(call, words):
            assert not silent[int(word.start_s * 12.5)], (seed, word)
    assert interrupted > 40


@needs_flite
def test_an_interrupted_lesson_goes_on_and_another_is_refused(lesson: Path) -> None:
    """What is missing is made again as it was, and nothing else is touched."""
    calls = [entry.path for entry in read_manifest(lesson / "train.jsonl")]
    before = calls[1].read_bytes()
    kept = calls[0].stat().st_mtime_ns
    for path in (calls[1], sidecar_path(calls[1]), lesson / "train.jsonl"):
        path.unlink()
    write_lesson(lesson, NEW, load_tokenizer(), PLAN)
    assert calls[1].read_bytes() == before
    assert calls[0].stat().st_mtime_ns == kept
    with pytest.raises(DataError, match="another plan"):
        write_lesson(lesson, NEW[:1], load_tokenizer(), PLAN)


@needs_flite
def test_a_call_in_which_the_bot_is_to_greet_says_so(sampler: ConversationSampler, tmp_path: Path) -> None:
    """And begins with the words of the greeting."""
    greeting = replace(sampler, mix=replace(sampler.mix, noise_only_share=0, greeting_share=1.0))
    write_calls(tmp_path, greeting, CallPlan(calls=1, frames=75))
    sidecar = read_sidecar(tmp_path / "train" / "call_0000.json")
    assert sidecar.greets
    assert " ".join(word.word for word in sidecar.alignments).startswith("Hello, this is Moshi.")


@needs_flite
def test_new_questions_are_asked_more_often(sampler: ConversationSampler) -> None:
    """And everything still has its own answer."""
    more = asking_more(sampler, len(NEW), 14)
    new = {plain(exchange.question) for exchange in NEW}
    answers = {plain(one.question): one.answer for one in (*load_phrases().exchanges, *NEW)}
    asked: list[bool] = []
    for seed in range(60):
        for turn in more.sample(np.random.default_rng(seed), FRAMES).turns:
            if turn.known and turn.question is not None:
                asked.append(plain(turn.question) in new)
                assert more.answers[turn.answer].text == answers[plain(turn.question)]
    assert 0.35 < np.mean(asked) < 0.65  # as often as the 28 old ones together


@needs_flite
def test_calls_depend_on_their_seed_alone(sampler: ConversationSampler, tmp_path: Path) -> None:
    """Written twice, they are the same bytes."""
    for name in ("one", "two"):
        write_calls(tmp_path / name, sampler, CallPlan(calls=2, frames=75))
    first, second = (sorted((tmp_path / name).rglob("*.*")) for name in ("one", "two"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_training_and_measuring_share_no_voice() -> None:
    """Not with espeak-ng, and not without it; no sentence for training is one of the new questions."""
    phrases = extended(load_phrases(), NEW, load_tokenizer())
    trained = {item.voice for item in SpeechPlan().items(load_phrases(), NEW) if item.kind == "question"}
    measured = {item.voice for item in held_out_items(phrases, 8) if item.kind != "answer"}
    assert not trained & measured
    new = (Exchange(question="Who is Emma?", answer="Me."),)
    taught = SpeechPlan(unknown=3000).items(load_phrases(), new)
    assert not [item for item in taught if item.kind == "unknown" and plain(item.text) == "who is emma"]


def test_flite_alone_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where espeak-ng is missing, all voices are flite's."""
    monkeypatch.setattr(shutil, "which", lambda command: None if command == "espeak-ng" else command)
    rng = np.random.default_rng(0)
    for grid in (TRAINING_VOICES, HELD_OUT_VOICES):
        assert {installed(grid).draw(rng).engine for _ in range(50)} == {"flite"}
