"""Made-up calls for training: what the caller's channel holds, and what the bot should say and write.

The rules, in frames of 80 ms: an answer begins `ANSWER_DELAY_FRAMES` after the frame with the last of the
question; when the caller speaks again, the bot's sound stops some frames after the one with the caller's
first loud sample (`ConversationMix.stop_shares`), and its text a frame earlier; nothing else stops it.
Now and then it says something that nobody has asked for, since it is told to (`Session.say`); how that goes,
and how questions are looked up, is in `looking_up`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import sentencepiece

from moshi_agent.training.tiny import augment
from moshi_agent.training.tiny.answers import Answer, load_answers, make_answer
from moshi_agent.training.tiny.augment import Augmentation, NoiseBank
from moshi_agent.training.tiny.corpus import Corpus, Utterance
from moshi_agent.training.tiny.looking_up import (
    ANSWER_AFTER,
    MOST_AHEAD,
    LookedUp,
    LookupMix,
    write_ahead,
)
from moshi_agent.training.tiny.made_up_call import Conversation, Draft, Turn, add, interrupt, is_quiet
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
from moshi_agent.training.tiny.tokenizer import BEGIN, END_OF_PADDING, PADDING, WANTED

ANSWER_DELAY_FRAMES = 6
SOONEST_STOP_FRAMES = 2  # a frame is known when it is over, and the sound has its acoustic delay
GREETING_FRAME = 3
NOISE_STRETCHES = 4  # of each kind


@dataclass(frozen=True, kw_only=True)
class ConversationMix:
    """How often things happen in a made-up call, and how long its pauses are (seconds)."""

    silent_share: float = 0.03
    noise_only_share: float = 0.04
    greeting_share: float = 0.12
    known_share: float = 0.55
    looked_up_share: float = 0.2  # where there is something to look up; what remains is unknown
    interrupted_share: float = 0.3
    resumed_share: float = 0.04  # the caller goes on before the answer has begun
    told_share: float = 0.15  # of turns in which the bot speaks without being asked
    told_answer_share: float = 0.3  # of those, answers that it knows; where there are other sentences
    monologue_share: float = 0.3  # of calls: nobody asks anything; where there are sentences to be said
    monologue_pause_s: tuple[float, float] = (0.15, 1.2)
    lookups: LookupMix = field(default_factory=LookupMix)
    # Frames from an interruption to the bot's silence, each with its share. The late ones show what it is
    # like to have missed the moment: what is learnt there is to stop, not to have gone on.
    stop_shares: tuple[tuple[int, float], ...] = ((2, 0.75), (3, 0.16), (4, 0.06), (5, 0.03))
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


@dataclass(frozen=True, kw_only=True)
class ConversationSampler:
    """Draws calls from a corpus; the same generator state gives the same call."""

    corpus: Corpus
    answers: list[Answer]  # as `Phrases.spoken`: the exchanges' answers, the default one, the greeting
    questions: list[list[Utterance]] = field(repr=False)  # one pool for each exchange
    unknown: list[Utterance] = field(repr=False)
    noises: NoiseBank = field(repr=False)
    sentences: list[Utterance] = field(repr=False, default_factory=list[Utterance])  # to be said on demand
    lookups: list[LookedUp] = field(default_factory=list[LookedUp])
    tokenizer: sentencepiece.SentencePieceProcessor | None = field(repr=False, default=None)
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
        looked_up = {plain(lookup.question): list[Utterance]() for lookup in phrases.lookups}
        for utterance in corpus.of_kind("question"):
            (pools | looked_up)[plain(utterance.item.text)].append(utterance)
        found = corpus.of_kind("found")
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
            sentences=corpus.of_kind("said"),
            lookups=[
                LookedUp(
                    question=lookup.question,
                    asked=looked_up[plain(lookup.question)],
                    found=[one for one in found if one.item.looked_up == lookup.question],
                )
                for lookup in phrases.lookups
                if looked_up[plain(lookup.question)]
            ],
            tokenizer=tokenizer,
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

    def only_told(self) -> ConversationSampler:
        """The same, with calls in which a silent caller hears what the bot has been told to say."""
        mix = replace(self.mix, monologue_share=1.0, silent_share=0.0, noise_only_share=0.0)
        clean = replace(self.config, noise_share=0.0, mu_law_share=0.0, opus_share=0.0, echo_share=0.0)
        return replace(self, mix=mix, config=clean)

    def sample(self, rng: Rng, frames: int) -> Conversation:
        """One call of `frames` frames."""
        call = Draft.empty(frames, rng.uniform(*self.config.level_db))
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
            references=call.references,
            turns=call.turns,
            effects=effects,
        )

    def _talk(self, call: Draft, rng: Rng) -> None:
        monologue = bool(self.sentences) and rng.random() < self.mix.monologue_share
        onset = _samples(rng, self.mix.first_pause_s)
        if rng.random() < self.mix.greeting_share:
            call.text[0] = BEGIN
            opening = Turn(question=None, known=True, answer=self.greeting, question_start=0, question_end=-1)
            call.turns.append(opening)
            self._say(call, self.answers[self.greeting], GREETING_FRAME)
            onset = self._next_onset(call, rng)
        while onset < len(call.speech):
            if monologue or (rng.random() < self.mix.told_share and is_quiet(call, onset)):
                self._tell(call, onset, rng)
            else:
                self._ask(call, onset, rng)
            onset = self._next_onset(call, rng, monologue=monologue)

    def _ask(self, call: Draft, onset: int, rng: Rng) -> None:
        """The caller asks something; what the bot is saying stops. It answers, or has it looked up."""
        kind = rng.random()
        if kind < self.mix.known_share:
            answer = int(rng.integers(len(self.questions)))
            pool = self.questions[answer]
        elif self.lookups and kind < self.mix.known_share + self.mix.looked_up_share:
            answer = len(self.answers) + int(rng.integers(len(self.lookups)))
            pool = self.lookups[answer - len(self.answers)].asked
        else:
            answer, pool = self.default_answer, self.unknown
        self._question(call, onset, answer, pool[int(rng.integers(len(pool)))], rng)
        first = call.turns[-1].question_end // FRAME_SAMPLES + ANSWER_DELAY_FRAMES
        if answer < len(self.answers):
            self._say(call, self.answers[answer], first)
        else:
            self._look_up(call, self.lookups[answer - len(self.answers)], first - 1, rng)

    def _question(self, call: Draft, onset: int, answer: int, utterance: Utterance, rng: Rng) -> None:
        """The caller speaks, the first loud sample at `onset`."""
        speech = self.corpus.audio(utterance)
        if rng.random() < self.config.filter_share:
            speech = augment.random_filter(speech, rng)
        gain_db = call.level_db + rng.uniform(-1.5, 1.5) - NOMINAL_RMS_DB
        speech = np.clip(speech * augment.decibels(gain_db), -1, 1)
        start = onset - loud_span(speech, LOUD_DB)[0]
        add(call.speech, speech, start)
        interrupt(call, onset, self.mix.draw_stop(rng))
        call.turns.append(
            Turn(
                question=utterance.item.text,
                known=answer != self.default_answer,
                answer=answer,
                question_start=onset,
                question_end=start + utterance.loud_end,
            )
        )

    def _look_up(self, call: Draft, lookup: LookedUp, frame: int, rng: Rng) -> None:
        """The model hands over in `frame`, and says what is found if anything is."""
        turn, mix = call.turns[-1], self.mix.lookups
        if frame >= len(call.text):
            return
        call.text[frame] = WANTED
        turn.handed_over_at = frame
        wait = mix.draw_wait(rng)
        if wait is None:
            return
        first = frame + wait + ANSWER_AFTER
        if self.sentences and rng.random() < mix.filler_share:
            filler = self._sentence(self.sentences, rng)
            begin = frame + int(rng.integers(*mix.filler_after))
            self._told(call, filler, begin, rng)
            wait += begin - frame
            first = max(frame + wait + ANSWER_AFTER, begin + filler.frames + 2)
        pool = self.sentences if self.sentences and rng.random() < mix.any_share else lookup.found
        answer = self._sentence(pool, rng)
        self._told(call, answer, first, rng)

    def _tell(self, call: Draft, onset: int, rng: Rng) -> None:
        """The bot says something about `onset` that nobody has asked for."""
        mix = self.mix
        known = not self.sentences or rng.random() < mix.told_answer_share
        index = int(rng.integers(len(self.answers))) if known else -1
        answer = self.answers[index] if known else self._sentence(self.sentences, rng)
        turn = Turn(question=None, known=True, answer=index, question_start=onset, question_end=onset)
        call.turns.append(turn)
        first = 1 + onset // FRAME_SAMPLES
        self._told(call, answer, first + int(rng.integers(MOST_AHEAD)), rng)

    def _told(self, call: Draft, answer: Answer, first: int, rng: Rng) -> None:
        """The bot is made to say something, with or without having cleared its throat."""
        turn = call.turns[-1]
        self._say(call, answer, first)
        pieces = np.flatnonzero(~np.isin(call.text[first:], (PADDING, END_OF_PADDING)))
        if len(pieces):
            turn.told.append((first - 1, first + int(pieces[0])))
            if rng.random() < 0.5:
                call.text[first - 1] = PADDING
            write_ahead(call.references, call.text, first, max(0, first - int(rng.integers(MOST_AHEAD + 1))))

    def _sentence(self, pool: list[Utterance], rng: Rng) -> Answer:
        assert self.tokenizer is not None, "sentences need the tokenizer"
        return make_answer(self.corpus, pool[int(rng.integers(len(pool)))], self.tokenizer)

    def _say(self, call: Draft, answer: Answer, first: int) -> None:
        """The bot gives an answer to the last turn from frame `first` on, as far as the call lasts."""
        turn = call.turns[-1]
        frames = min(answer.frames, len(call.text) - first)
        if frames <= 0:
            return
        start, samples = first * FRAME_SAMPLES, frames * FRAME_SAMPLES
        call.bot[start : start + samples] = answer.audio[:samples]
        call.text[first - 1 : first + frames] = answer.text_tokens[: frames + 1]
        turn.answer_first_frame, turn.answer_last_frame, turn.text = first, first + frames - 1, answer.text

    def _next_onset(self, call: Draft, rng: Rng, *, monologue: bool = False) -> int:
        """When the caller speaks next; a burst of noise may fall into the answer or the pause before."""
        turn, mix = call.turns[-1], self.mix
        if turn.answer_first_frame is None or turn.answer_last_frame is None:
            if turn.handed_over_at is None:
                return len(call.speech)
            return turn.handed_over_at * FRAME_SAMPLES + _samples(rng, mix.lookups.given_up)
        if monologue:
            return (turn.answer_last_frame + 1) * FRAME_SAMPLES + _samples(rng, mix.monologue_pause_s)
        start, end = turn.answer_first_frame * FRAME_SAMPLES, (turn.answer_last_frame + 1) * FRAME_SAMPLES
        pause = mix.long_pause_s if rng.random() < mix.long_pause_share else mix.pause_s
        onset = end + _samples(rng, pause)
        kind = rng.random()
        if turn.question is not None and kind < mix.resumed_share:
            return turn.question_end + _samples(rng, mix.resume_s)
        if rng.random() < mix.burst_share:
            add(call.bursts, augment.burst(rng, self.config), int(rng.integers(start, end)))
        if rng.random() < mix.burst_share / 3:
            add(call.bursts, augment.burst(rng, self.config), int(rng.integers(end, onset)))
        # An answer of a frame or two, at the end of the call, leaves no room to interrupt it.
        if kind > 1 - mix.interrupted_share and end - start > 2 * FRAME_SAMPLES:
            return int(rng.integers(start + FRAME_SAMPLES, end))
        return onset

    def _received(self, call: Draft, rng: Rng, *, noise_only: bool) -> tuple[Audio, tuple[str, ...]]:
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


def _samples(rng: Rng, seconds: tuple[float, float]) -> int:
    return int(rng.uniform(*seconds) * SAMPLE_RATE_HZ)
