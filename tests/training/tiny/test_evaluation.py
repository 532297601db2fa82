"""The evaluation itself, with bots of which it is known how good they are.

The sounds here are tones, so no speech engine is needed. A bot in these tests knows the callers' turns,
which a model does not.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.conversation import Conversation
from moshi_agent.errors import ConfigError
from moshi_agent.training.tiny.corpus import Corpus, Item, Utterance
from moshi_agent.training.tiny.evaluation import __main__ as command
from moshi_agent.training.tiny.evaluation.bot import ModelBot, Rows, TextRow
from moshi_agent.training.tiny.evaluation.caller import Caller, Turn
from moshi_agent.training.tiny.evaluation.ear import Spoken, spoken_answers
from moshi_agent.training.tiny.evaluation.failures import by_voice, failures, wrong_texts
from moshi_agent.training.tiny.evaluation.line import CONDITIONS, ECHO_PATH_MS, Line
from moshi_agent.training.tiny.evaluation.matching import Matcher
from moshi_agent.training.tiny.evaluation.material import Deck, Material
from moshi_agent.training.tiny.evaluation.play import play
from moshi_agent.training.tiny.evaluation.report import ALL, Share, measures, summary, table, timing
from moshi_agent.training.tiny.evaluation.run import Settings, call_plans, tokenizer_of, write_recording
from moshi_agent.training.tiny.evaluation.scoring import CallJudge, CallScore
from moshi_agent.training.tiny.phrases import Phrases, load_phrases
from moshi_agent.training.tiny.speech import FRAME_SAMPLES, SAMPLE_RATE_HZ, Audio, SpokenWord, loud_span
from moshi_agent.training.tiny.tokenizer import PADDING, load_tokenizer
from tests.small_models import small_lm, small_mimi

SETTINGS = Settings(calls=1, interrupting_calls=1, seconds=60.0)
LISTENING = replace(SETTINGS, interrupting_calls=0)
TEXT, SOUND = "known question: right text", "known question: right sound"
DEFAULT = "unknown sentence: default answer (text)"
IN_TIME, QUIET, STOPS = (
    "answer begins within 1 s",
    "quiet frames under -55 dBFS",
    "interrupted: silent within 500 ms",
)
BURST, CALM = "broken off at a short noise", "broken off otherwise (lasting noise, echo)"
GREETS, WAITS = "greets when asked to", "waits when not asked to greet"


def tones(seconds: float, seed: int) -> Audio:
    """Notes of a tenth of a second that no other seed has in this order."""
    rng = np.random.default_rng(seed)
    pitches = rng.choice([300, 500, 800, 1300, 2000, 3000], int(seconds * 10))
    time_s = np.arange(SAMPLE_RATE_HZ // 10) / SAMPLE_RATE_HZ
    return np.concatenate([0.3 * np.sin(2 * np.pi * pitch * time_s + 1) for pitch in pitches]).astype(
        np.float32
    )


def make_corpus(phrases: Phrases) -> Corpus:
    """Answers of two seconds and more, questions of about one, three renderings of each."""
    said: list[tuple[Item, float]] = []
    said += [(Item(kind="answer", text=text), 2.0 + len(text) / 60) for text in phrases.spoken]
    for take in range(3):
        said += [(Item(kind="question", text=one.question), 0.8 + take / 10) for one in phrases.exchanges]
        said += [
            (Item(kind="unknown", text=text), 0.9 + take / 10) for text in ("Lovely rain.", "Who is he?")
        ]
    utterances: list[Utterance] = []
    pieces: list[np.ndarray] = []
    start = 0
    for seed, (item, seconds) in enumerate(said):
        audio = tones(seconds, seed)
        first, last = loud_span(audio)
        texts = item.text.split()
        words = tuple(
            SpokenWord(word=word, start=i * seconds / len(texts), end=(i + 1) * seconds / len(texts))
            for i, word in enumerate(texts)
        )
        place = {"start": start, "length": len(audio), "loud_start": first, "loud_end": last}
        utterances.append(Utterance(item=item, shard=0, words=words, **place))
        pieces.append(np.round(audio * 32767).astype(np.int16))
        start += len(audio)
    return Corpus(tuple(utterances), {0: np.concatenate(pieces)})


@pytest.fixture(scope="module")
def material() -> Material:
    """Six exchanges, two unknown sentences."""
    shipped = load_phrases()
    phrases = Phrases(exchanges=shipped.exchanges[:6], greeting=shipped.greeting, default=shipped.default)
    return Material.make(make_corpus(phrases), phrases, load_tokenizer())


class Oracle:
    """Says the right thing at the right time, or what its subclasses make of that."""

    delay = 6  # frames from the question's last to the answer's first
    stop = 4  # frames from the interruption's first to the first silent one
    leak = 0.0

    def __init__(self, material: Material, callers: Sequence[Caller]) -> None:
        self.answers, self.callers, self.number = material.answers, callers, 0

    def choose(self, turn: Turn) -> int:
        return turn.answer

    def begins(self, turn: Turn) -> int:
        return 3 if turn.question is None else turn.end // FRAME_SAMPLES + self.delay

    def cut(self, turn: Turn, following: Turn | None) -> int | None:
        """The first frame that is silent for another reason than the answer's end."""
        return None if following is None else following.onset // FRAME_SAMPLES + self.stop

    def step(self, user: Rows) -> tuple[Rows, TextRow]:
        audio, text = np.full_like(user, self.leak), np.full(len(user), PADDING)
        for row, caller in enumerate(self.callers):
            for turn, following in zip(caller.turns, [*caller.turns[1:], None], strict=True):
                answer, at = self.answers[self.choose(turn)], self.number - self.begins(turn)
                stop = self.cut(turn, following)
                last = answer.frames if stop is None else min(answer.frames, stop - self.begins(turn))
                if 0 <= at < last:
                    audio[row] += answer.audio[at * FRAME_SAMPLES : (at + 1) * FRAME_SAMPLES]
                if -1 <= at < last - 1:
                    text[row] = answer.text_tokens[at + 1]
        self.number += 1
        return audio, text


class Mute(Oracle):
    def begins(self, turn: Turn) -> int:
        return 100_000


class Mistaken(Oracle):
    def choose(self, turn: Turn) -> int:
        return (turn.answer + 1) % 6


class Endless(Oracle):
    def cut(self, turn: Turn, following: Turn | None) -> int | None:
        return None


class Sluggish(Oracle):
    delay, stop = 14, 7


class Leaking(Oracle):
    leak = 10 ** (-50 / 20)


class Nervous(Oracle):
    def cut(self, turn: Turn, following: Turn | None) -> int | None:
        stop = super().cut(turn, following)
        return turn.burst // FRAME_SAMPLES + 1 if turn.burst is not None else stop


class Chatty(Oracle):
    """Greets everybody, and talks at once."""

    delay = -8

    def step(self, user: Rows) -> tuple[Rows, TextRow]:
        audio, text = super().step(user)
        return (audio + np.float32(0.1), text) if self.number < 4 else (audio, text)


def measured(
    bot: Callable[[Material, Sequence[Caller]], Oracle], material: Material, settings: Settings = SETTINGS
) -> tuple[dict[str, dict[str, Share]], list[CallScore]]:
    """The shares by measure and condition, and the calls' scores."""
    rng = np.random.default_rng(0)
    decks = Deck(material.questions, rng), Deck(material.unknown, rng)
    callers = [Caller(plan, material, *decks, settings.frames) for plan in call_plans(settings)]
    judge = CallJudge(material, load_tokenizer())
    calls = [judge.judge(call) for call in play(bot(material, callers), callers, settings.frames)]
    return {measure.name: measure.shares for measure in measures(calls)}, calls


def percent(share: Share) -> float:
    return 100 * share.good / share.count


def test_a_perfect_bot_has_all_points_in_every_condition(material: Material) -> None:
    """Right text, sound, time and silence everywhere; every call has its exchanges."""
    shares, calls = measured(Oracle, material)
    for name in (TEXT, SOUND, DEFAULT, IN_TIME, QUIET, STOPS, GREETS, WAITS):
        assert percent(shares[name][ALL]) == 100, (name, failures(calls, 5))
    for name in (BURST, CALM):
        assert shares[name][ALL].good == 0
        assert shares[name][ALL].count > 0
    for condition in CONDITIONS:
        assert shares[TEXT][condition.name].count >= 5
        assert shares[STOPS][condition.name].count >= 5
        assert shares[QUIET][condition.name].count > 700
    assert all(len(call.answers) + len(call.interruptions) >= 5 for call in calls)
    assert not failures(calls, 5)
    assert wrong_texts(calls, load_phrases()) == "wrong texts: none"
    assert by_voice(calls).startswith("100.0 %")


def test_times_are_counted_as_they_are_heard(material: Material) -> None:
    """A reply is heard a frame after it was made: 480 to 560 ms for six frames, 320 to 400 for four."""
    _, calls = measured(Oracle, material)
    delays = [one.delay_s for call in calls for one in call.answers if one.question is not None]
    assert 0.48 <= min(filter(None, delays)) <= max(filter(None, delays)) <= 0.5601
    stops = [one.stop_s for call in calls for one in call.interruptions]
    assert 0.315 <= min(stops) <= max(stops) <= 0.4001
    assert "answer after the question's end: median 0.5" in timing(calls)


def test_a_mute_bot_has_no_points_but_those_for_silence(material: Material) -> None:
    """Nothing right, nothing in time, quiet where it should be."""
    shares, calls = measured(Mute, material, LISTENING)
    for name in (TEXT, SOUND, DEFAULT, IN_TIME, GREETS):
        assert shares[name][ALL].good == 0
        assert shares[name][ALL].count > 0
    assert percent(shares[QUIET][ALL]) == percent(shares[WAITS][ALL]) == 100
    assert "said '', sounded like 'nothing' for 0.0 s" in failures(calls, 1)
    assert wrong_texts(calls, load_phrases()).endswith(" missing")


def test_a_mistaken_bot_is_found_out_by_text_and_by_sound(material: Material) -> None:
    """Another answer than the right one, however well spoken, counts as wrong."""
    shares, calls = measured(Mistaken, material, LISTENING)
    assert shares[TEXT][ALL].good == shares[SOUND][ALL].good == shares[DEFAULT][ALL].good == 0
    assert percent(shares[IN_TIME][ALL]) == percent(shares[QUIET][ALL]) == 100
    assert "said 'My name is Moshi, and I am a tiny talking model.'" in failures(calls, 100)
    assert wrong_texts(calls, load_phrases()).endswith(" another answer")


def test_a_bot_that_never_stops_fails_every_interruption(material: Material) -> None:
    """It goes on to the end of its answer, which lies after the limit."""
    shares, _ = measured(Endless, material)
    assert shares[STOPS][ALL].good == 0
    assert shares[STOPS][ALL].count > 10
    assert percent(shares[QUIET][ALL]) < 98


def test_a_slow_bot_is_late_and_stops_late(material: Material) -> None:
    """Fourteen frames are more than a second, seven more than half of one."""
    shares, _ = measured(Sluggish, material)
    assert shares[IN_TIME][ALL].good == shares[STOPS][ALL].good == 0
    listened_to, _ = measured(Sluggish, material, LISTENING)
    assert percent(listened_to[TEXT][ALL]) == percent(listened_to[SOUND][ALL]) == 100


def test_a_leaking_bot_is_not_quiet(material: Material) -> None:
    """A hum of -50 dBFS is too loud in every frame."""
    shares, _ = measured(Leaking, material, LISTENING)
    assert shares[QUIET][ALL].good == 0
    assert percent(shares[TEXT][ALL]) == 100


def test_a_nervous_bot_stops_at_noises(material: Material) -> None:
    """Stopping at a cough counts where one was, and nowhere else."""
    shares, _ = measured(Nervous, material, LISTENING)
    assert percent(shares[BURST][ALL]) > 60  # a noise near the end leaves most of an answer
    assert shares[CALM][ALL].good == 0


def test_a_bot_that_speaks_too_early_is_noticed(material: Material) -> None:
    """Sound before the caller's first word, and answers into the question."""
    shares, _ = measured(Chatty, material)
    assert shares[WAITS][ALL].good == 0
    assert shares[IN_TIME][ALL].good == 0
    assert percent(shares[QUIET][ALL]) < 99


def test_an_ear_is_given_each_answer_whole(material: Material) -> None:
    """From the call it gets the sound of the answer to each question, from the teacher the answer itself."""
    settings = replace(LISTENING, conditions=CONDITIONS[:1])
    rng = np.random.default_rng(0)
    decks = Deck(material.questions, rng), Deck(material.unknown, rng)
    callers = [Caller(plan, material, *decks, settings.frames) for plan in call_plans(settings)]
    judge, matcher = CallJudge(material, load_tokenizer()), Matcher([one.audio for one in material.answers])
    texts = [one.text for one in material.answers]
    teacher = {one.text: one.audio for one in material.answers}
    spoken: list[Spoken] = []
    for call in play(Oracle(material, callers), callers, settings.frames):
        spoken += spoken_answers(call, judge.judge(call), teacher)
    assert len(spoken) > 5
    for one in spoken:
        assert texts[matcher.nearest(one.bot)] == one.text
        assert len(one.teacher) <= len(one.bot) <= len(one.teacher) + 2 * FRAME_SAMPLES


def test_decks_give_each_text_once_a_round(material: Material) -> None:
    """All renderings come before one comes again."""
    deck = Deck(material.questions, np.random.default_rng(1))
    drawn = [deck.draw() for _ in range(18)]
    for start in (0, 6, 12):
        assert {prompt.answer for prompt in drawn[start : start + 6]} == set(range(6))
    assert len({prompt.utterance.start for prompt in drawn}) == 18
    assert deck.draw().utterance in [prompt.utterance for prompt in drawn]


def test_an_echo_comes_back_late_and_quiet(material: Material) -> None:
    """What was said in reply to a frame arrives in the next one at the soonest, 20 dB and more below."""
    echo = next(condition for condition in CONDITIONS if condition.echo)
    for seed in range(8):
        line = Line(echo, material.noises, 20, np.random.default_rng(seed))
        click = np.zeros(FRAME_SAMPLES, np.float32)
        click[0] = 0.9
        heard: list[Audio] = []
        for number in range(5):
            heard.append(line.frame(number))
            line.play(click if number == 1 else np.zeros(FRAME_SAMPLES, np.float32))
        channel = np.concatenate(heard)
        arrived = int(np.flatnonzero(channel)[0]) - 2 * FRAME_SAMPLES
        assert ECHO_PATH_MS[0] - 1 <= 1000 * arrived / SAMPLE_RATE_HZ <= ECHO_PATH_MS[1]
        assert 0 < np.abs(channel).max() < 0.09


def test_a_line_says_where_the_speech_is(material: Material) -> None:
    """The first and last loud samples that `say` gives are those of what is heard."""
    for condition in CONDITIONS:
        if condition.noise:
            continue
        line = Line(condition, material.noises, 60, np.random.default_rng(3))
        speech = tones(1.0, 5)
        first, last = line.say(speech, loud_span(speech)[1], onset=30_000, earliest=0)
        channel = np.concatenate([line.frame(number) for number in range(60)])
        assert first == 30_000 == loud_span(channel)[0]
        assert abs(last - loud_span(channel)[1]) < 200


def test_a_match_bears_noise_and_another_pace(material: Material) -> None:
    """Each answer is found again with noise over it and its pieces repeated or left out."""
    references = [answer.audio for answer in material.answers]
    matcher = Matcher(references)
    rng = np.random.default_rng(2)
    for index, reference in enumerate(references):
        frames = reference.reshape(-1, FRAME_SAMPLES)
        kept = np.sort(np.concatenate([rng.choice(len(frames), len(frames) - 3, replace=False), [4, 9]]))
        varied = frames[kept].reshape(-1) * np.float32(0.5) + rng.normal(0, 0.003, len(kept) * FRAME_SAMPLES)
        assert matcher.nearest(varied.astype(np.float32)) == index


def small_checkpoint() -> Checkpoint:
    mimi, lm = small_mimi(), small_lm()
    return Checkpoint(
        name="small", mimi=mimi, mimi_config=mimi.config, lm=lm, config=lm.config, tokenizer=None
    )


def test_rows_get_what_a_conversation_gets() -> None:
    """Three callers at once hear the same as each alone in `Conversation`, greeted or not."""
    frames = np.random.default_rng(0).normal(0, 0.1, (12, 3, FRAME_SAMPLES)).astype(np.float32)
    greets = [True, False, True]
    bot = ModelBot(small_checkpoint(), greets, greedy=True)
    together = [bot.step(frame) for frame in frames]
    for row, greet in enumerate(greets):
        alone = Conversation(small_checkpoint(), greedy=True, greet=greet)
        said = np.stack([alone.step(frame[row]).audio for frame in frames])
        assert np.allclose(np.stack([audio[row] for audio, _ in together]), said, atol=1e-4)
    assert all(text.shape == (3,) and text.dtype == np.int64 for _, text in together)
    assert not torch.is_inference_mode_enabled()


def test_what_cannot_be_measured_is_refused() -> None:
    """A checkpoint without a tokenizer, or without a language model, is named in one error."""
    with pytest.raises(ConfigError, match="small has no tokenizer"):
        tokenizer_of(small_checkpoint())
    with pytest.raises(ConfigError, match="codec alone"):
        ModelBot(replace(small_checkpoint(), lm=None), [False])


def test_the_results_are_a_table_and_json(material: Material, tmp_path: Path) -> None:
    """A row for each measure, a column for each condition; JSON holds every turn; calls can be kept."""
    settings = replace(SETTINGS, calls=1, interrupting_calls=1, seconds=20.0, conditions=CONDITIONS[:2])
    _, calls = measured(Oracle, material, settings)
    rows = measures(calls)
    lines = table(rows).splitlines()
    assert lines[0] == "| | wanted | clean | noise | all |"
    assert len(lines) == 2 + len(rows)
    assert f"| {TEXT} | >= 95 % | 100.0 % (" in lines[2]
    assert summary(calls).startswith("4 calls with ")
    content = json.loads(command._as_json(settings, rows, calls, []))
    assert content["settings"]["seconds"] == 20.0
    assert content["calls"][0]["answers"][0]["text_right"] is True
    decks = (
        Deck(material.questions, np.random.default_rng(0)),
        Deck(material.unknown, np.random.default_rng(0)),
    )
    caller = Caller(call_plans(settings)[0], material, *decks, 100)
    call = play(Oracle(material, [caller]), [caller], 100, keep_user=True)[0]
    write_recording(tmp_path / "new", 1, call)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["01-clean-listening.flac"]
