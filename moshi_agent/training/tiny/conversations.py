"""Made-up calls for training: what the caller's channel holds, and what the bot should say and write.

The rules, in frames of 80 ms: an answer begins `ANSWER_DELAY_FRAMES` after the frame with the last of the
question; when the caller speaks again, the bot's sound stops some frames after the one with the caller's
first loud sample (`ConversationMix.stop_shares`), and its text a frame earlier; nothing else stops it.
Now and then it says an answer that nobody has asked for, as if it had been told to (`Session.say`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import sentencepiece

from moshi_agent.training.tiny import augment
from moshi_agent.training.tiny.answers import Answer, Tokens, load_answers
from moshi_agent.training.tiny.augment import Augmentation, NoiseBank
from moshi_agent.training.tiny.corpus import Corpus, Utterance
from moshi_agent.training.tiny.noise import Rng
from moshi_agent.training.tiny.phrases import Phrases, plain
from moshi_agent.training.tiny.speech import (
    FRAME_SAMPLES,
    LOUD_DB,
    NOMINAL_RMS_DB,
    SAMPLE_RATE_HZ,
    Audio,
    loud_span,
)
from moshi_agent.training.tiny.tokenizer import BEGIN, END_OF_PADDING, PADDING

ANSWER_DELAY_FRAMES = 6
SOONEST_STOP_FRAMES = 2  # a frame is known when it is over, and the sound has its acoustic delay
GREETING_FRAME = 3
NOISE_STRETCHES = 4  # of each kind
CUT_FADE = SAMPLE_RATE_HZ // 100


@dataclass(frozen=True, kw_only=True)
class ConversationMix:
    """How often things happen in a made-up call, and how long its pauses are (seconds)."""

    silent_share: float = 0.03
    noise_only_share: float = 0.04
    greeting_share: float = 0.12
    known_share: float = 0.7
    interrupted_share: float = 0.3
    resumed_share: float = 0.04  # the caller goes on before the answer has begun
    told_share: float = 0.15  # of turns in which the bot speaks without being asked
    # Frames from an interruption to the bot's silence, each with its share. The late ones show what it is
    # like to have missed the moment: what is learnt there is to stop, not to have gone on.
    stop_shares: tuple[tuple[int, float], ...] = ((2, 0.65), (3, 0.23), (4, 0.08), (5, 0.04))
    burst_share: float = 0.5  # of answers; of pauses it is a third of that
    first_pause_s: tuple[float, float] = (0.0, 1.5)
    pause_s: tuple[float, float] = (0.5, 4.0)
    long_pause_share: float = 0.08
    long_pause_s: tuple[float, float] = (4.0, 8.0)
    resume_s: tuple[float, float] = (0.1, 0.45)

    def draw_stop(self, rng: Rng) -> int:
        """How many frames after an interruption's first the bot falls silent."""
        frames, shares = zip(*self.stop_shares, strict=True)
        return int(rng.choice(frames, p=shares))


@dataclass(kw_only=True)
class Turn:
    """One utterance of the caller and the bot's answer to it; the opening greeting has no question, nor has
    what the bot was told to say.

    Samples and frames count from the start of the call. `answer_last_frame` is the last frame with sound; a
    turn without an answer has None. `interrupted_at` is the caller's first loud sample, if that cut it.
    """

    question: str | None
    known: bool
    answer: int
    question_start: int
    question_end: int
    answer_first_frame: int | None = None
    answer_last_frame: int | None = None
    interrupted_at: int | None = None
    told_at: int | None = None  # the frame of the first piece of text that the bot was told to say


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """A made-up call of N = frames * FRAME_SAMPLES samples."""

    user: Audio = field(repr=False)  # [N], as it reaches the bot
    user_speech: Audio = field(repr=False)  # [N], the caller's voice alone
    bot: Audio = field(repr=False)  # [N], exact zeros wherever the bot is silent
    text: Tokens = field(repr=False)  # [frames]
    turns: list[Turn]
    effects: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Call:
    """A call while it is being made."""

    speech: Audio  # [N]
    bursts: Audio  # [N]
    bot: Audio  # [N]
    text: Tokens  # [frames]
    level_db: float
    turns: list[Turn] = field(default_factory=list["Turn"])

    @classmethod
    def empty(cls, frames: int, level_db: float) -> _Call:
        speech, bursts, bot = np.zeros((3, frames * FRAME_SAMPLES), np.float32)
        return cls(
            speech=speech, bursts=bursts, bot=bot, text=np.full(frames, PADDING, np.int64), level_db=level_db
        )


@dataclass(frozen=True, kw_only=True)
class ConversationSampler:
    """Draws calls from a corpus; the same generator state gives the same call."""

    corpus: Corpus
    answers: list[Answer]  # as `Phrases.spoken`: the exchanges' answers, the default one, the greeting
    questions: list[list[Utterance]] = field(repr=False)  # one pool for each exchange
    unknown: list[Utterance] = field(repr=False)
    noises: NoiseBank = field(repr=False)
    mix: ConversationMix = field(default_factory=ConversationMix)
    config: Augmentation = augment.TRAINING_AUGMENTATION

    @classmethod
    def make(
        cls,
        corpus: Corpus,
        phrases: Phrases,
        tokenizer: sentencepiece.SentencePieceProcessor,
        *,
        mix: ConversationMix | None = None,
        config: Augmentation = augment.TRAINING_AUGMENTATION,
        seed: int = 0,
    ) -> ConversationSampler:
        """A sampler of calls about `phrases`; `seed` makes its noise bank."""
        pools: dict[str, list[Utterance]] = {plain(exchange.question): [] for exchange in phrases.exchanges}
        for utterance in corpus.of_kind("question"):
            pools[plain(utterance.item.text)].append(utterance)
        unknown = corpus.of_kind("unknown")
        voices = [corpus.audio(utterance) for utterance in unknown[:100]]
        return cls(
            corpus=corpus,
            answers=load_answers(corpus, phrases, tokenizer),
            questions=list(pools.values()),
            unknown=unknown,
            noises=NoiseBank.make(
                config.noises, np.random.default_rng(seed), voices, stretches=NOISE_STRETCHES
            ),
            mix=mix or ConversationMix(),
            config=config,
        )

    @property
    def default_answer(self) -> int:
        """The index of the answer to what the bot does not know."""
        return len(self.answers) - 2

    @property
    def greeting(self) -> int:
        """The index of the greeting among the answers."""
        return len(self.answers) - 1

    def sample(self, rng: Rng, frames: int) -> Conversation:
        """One call of `frames` frames."""
        call = _Call.empty(frames, rng.uniform(*self.config.level_db))
        kind = rng.random()
        quiet = self.mix.silent_share + self.mix.noise_only_share
        if kind >= quiet:
            self._talk(call, rng)
        user, effects = self._received(call, rng, noise_only=self.mix.silent_share <= kind < quiet)
        return Conversation(
            user=user,
            user_speech=call.speech,
            bot=call.bot,
            text=call.text,
            turns=call.turns,
            effects=effects,
        )

    def _talk(self, call: _Call, rng: Rng) -> None:
        onset = _samples(rng, self.mix.first_pause_s)
        if rng.random() < self.mix.greeting_share:
            call.text[0] = BEGIN
            opening = Turn(question=None, known=True, answer=self.greeting, question_start=0, question_end=-1)
            call.turns.append(opening)
            self._say(call, GREETING_FRAME)
            onset = self._next_onset(call, rng)
        while onset < len(call.speech):
            if rng.random() < self.mix.told_share and _is_quiet(call, onset):
                self._tell(call, onset, rng)
            else:
                self._ask(call, onset, rng)
                self._say(call, call.turns[-1].question_end // FRAME_SAMPLES + ANSWER_DELAY_FRAMES)
            onset = self._next_onset(call, rng)

    def _ask(self, call: _Call, onset: int, rng: Rng) -> None:
        """The caller speaks, the first loud sample at `onset`; what the bot is saying stops."""
        known = rng.random() < self.mix.known_share
        answer = int(rng.integers(len(self.questions))) if known else self.default_answer
        pool = self.questions[answer] if known else self.unknown
        utterance = pool[int(rng.integers(len(pool)))]
        speech = self.corpus.audio(utterance)
        if rng.random() < self.config.filter_share:
            speech = augment.random_filter(speech, rng)
        gain_db = call.level_db + rng.uniform(-1.5, 1.5) - NOMINAL_RMS_DB
        speech = np.clip(speech * augment.decibels(gain_db), -1, 1)
        start = onset - loud_span(speech, LOUD_DB)[0]
        _add(call.speech, speech, start)
        _interrupt(call, onset, self.mix.draw_stop(rng))
        end = start + utterance.loud_end
        call.turns.append(
            Turn(
                question=utterance.item.text,
                known=known,
                answer=answer,
                question_start=onset,
                question_end=end,
            )
        )

    def _tell(self, call: _Call, onset: int, rng: Rng) -> None:
        """The bot says one of its answers about `onset`, with or without having cleared its throat."""
        call.turns.append(
            Turn(
                question=None,
                known=True,
                answer=int(rng.integers(len(self.answers))),
                question_start=onset,
                question_end=onset,
            )
        )
        first = 1 + onset // FRAME_SAMPLES
        self._say(call, first)
        pieces = np.flatnonzero(~np.isin(call.text[first:], (PADDING, END_OF_PADDING)))
        if len(pieces):
            call.turns[-1].told_at = first + int(pieces[0])
            if rng.random() < 0.5:
                call.text[first - 1] = PADDING

    def _say(self, call: _Call, first: int) -> None:
        """The bot gives the last turn's answer from frame `first` on, as far as the call lasts."""
        turn, answer = call.turns[-1], self.answers[call.turns[-1].answer]
        frames = min(answer.frames, len(call.text) - first)
        if frames <= 0:
            return
        start, samples = first * FRAME_SAMPLES, frames * FRAME_SAMPLES
        call.bot[start : start + samples] = answer.audio[:samples]
        call.text[first - 1 : first + frames] = answer.text_tokens[: frames + 1]
        turn.answer_first_frame, turn.answer_last_frame = first, first + frames - 1

    def _next_onset(self, call: _Call, rng: Rng) -> int:
        """When the caller speaks next; a burst of noise may fall into the answer or the pause before."""
        turn, mix = call.turns[-1], self.mix
        if turn.answer_first_frame is None or turn.answer_last_frame is None:
            return len(call.speech)
        start, end = turn.answer_first_frame * FRAME_SAMPLES, (turn.answer_last_frame + 1) * FRAME_SAMPLES
        pause = mix.long_pause_s if rng.random() < mix.long_pause_share else mix.pause_s
        onset = end + _samples(rng, pause)
        kind = rng.random()
        if turn.question is not None and kind < mix.resumed_share:
            return turn.question_end + _samples(rng, mix.resume_s)
        if rng.random() < mix.burst_share:
            _add(call.bursts, augment.burst(rng, self.config), int(rng.integers(start, end)))
        if rng.random() < mix.burst_share / 3:
            _add(call.bursts, augment.burst(rng, self.config), int(rng.integers(end, onset)))
        # An answer of a frame or two, at the end of the call, leaves no room to interrupt it.
        if kind > 1 - mix.interrupted_share and end - start > 2 * FRAME_SAMPLES:
            return int(rng.integers(start + FRAME_SAMPLES, end))
        return onset

    def _received(self, call: _Call, rng: Rng, *, noise_only: bool) -> tuple[Audio, tuple[str, ...]]:
        """The caller's channel as it reaches the bot, [N], and the effects it went through."""
        config, effects = self.config, list[str]()
        user = call.speech + call.bursts
        if noise_only or (call.turns and rng.random() < config.noise_share):
            effects.append("noise")
            noise_db = call.level_db - rng.uniform(*config.snr_db)
            user += self.noises.draw(len(user), rng) * augment.decibels(noise_db)
        if rng.random() < config.echo_share:
            effects.append("echo")
            user += augment.echo_of(call.bot, rng, config)
        if rng.random() < config.mu_law_share:
            effects.append("mu-law")
            user = augment.mu_law_round_trip(user)
        if rng.random() < config.opus_share:
            effects.append("opus")
            user = augment.through_opus(user, rng, config)
        return np.clip(user, -1, 1), tuple(effects)


def _is_quiet(call: _Call, onset: int) -> bool:
    """Whether the bot has said by sample `onset` what it had to."""
    last = call.turns[-1].answer_last_frame if call.turns else -1
    return last is not None and last < onset // FRAME_SAMPLES


def _samples(rng: Rng, seconds: tuple[float, float]) -> int:
    return int(rng.uniform(*seconds) * SAMPLE_RATE_HZ)


def _add(channel: Audio, audio: Audio, start: int) -> None:
    """Mix `audio` into `channel` at `start`, leaving out what lies outside it."""
    skipped = max(-start, 0)
    room = channel[start + skipped :]
    taken = audio[skipped : skipped + len(room)]
    room[: len(taken)] += taken


def _interrupt(call: _Call, onset: int, stop_frames: int) -> None:
    """Stop what the bot is saying `stop_frames` after the caller is heard at sample `onset`."""
    if not call.turns:
        return
    turn, stop = call.turns[-1], onset // FRAME_SAMPLES + stop_frames
    if turn.answer_first_frame is None or turn.answer_last_frame is None or stop > turn.answer_last_frame:
        return
    call.text[stop - 1 :] = PADDING
    turn.interrupted_at = onset
    if stop <= turn.answer_first_frame:
        call.bot[turn.answer_first_frame * FRAME_SAMPLES :] = 0
        turn.answer_first_frame = turn.answer_last_frame = None
        return
    cut = stop * FRAME_SAMPLES
    call.bot[cut - CUT_FADE : cut] *= np.linspace(1, 0, CUT_FADE, dtype=np.float32)
    call.bot[cut:] = 0
    turn.answer_last_frame = stop - 1
