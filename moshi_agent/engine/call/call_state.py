"""The host's side of one conversation: what its row is given in a step, and what becomes of the output.

Silence gate, transcript, turns, drift control and the tail after the end of the input. Numbers only: no
device, no thread, no clock.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from moshi_agent.audio.framing import FRAME_S, FRAME_SAMPLES, SAMPLE_RATE_HZ
from moshi_agent.audio.playout import PlayoutClock
from moshi_agent.audio.resampling import StreamResampler
from moshi_agent.config import SamplingConfig
from moshi_agent.engine.asking import Referral
from moshi_agent.engine.call.bot_speech import BotSpeech, Spoken
from moshi_agent.engine.call.lookups import Lookups, Over, Wanted
from moshi_agent.engine.call.model import Model
from moshi_agent.engine.call.opening import OpeningFrame, PromptFrame, PromptStep, opening_frames
from moshi_agent.engine.call.stamp import Stamp
from moshi_agent.engine.call.tail import Tail, TailFrame
from moshi_agent.engine.call.text_guide import TextGuide
from moshi_agent.engine.call.turns import Turns
from moshi_agent.engine.call.user_words import UserWords
from moshi_agent.engine.call.utterances import Utterances
from moshi_agent.engine.commands import GiveReference, InputFrame, Key, Say
from moshi_agent.engine.config import SessionConfig
from moshi_agent.engine.event_queue import Delivery, Outlet
from moshi_agent.engine.metrics.metrics import SessionMetrics
from moshi_agent.engine.schedule.pace import Pace
from moshi_agent.engine.schedule.scheduler import Ready
from moshi_agent.engine.step.frame_step import Frame, RowInput, RowOutput
from moshi_agent.errors import MoshiAgentError
from moshi_agent.events import (
    AskedBy,
    AudioChunk,
    ContextFull,
    ContextRefreshed,
    Ended,
    EndReason,
    Event,
    InputResumed,
    InputSkipped,
    InputStalled,
    OutputDropped,
    ReferenceEnded,
    ReferenceWanted,
    TextToken,
    UserSaid,
    UserText,
    UserWord,
)
from moshi_agent.models.generator import ANY_TEXT
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.saved import saved_value
from moshi_agent.text.pieces import ends_sentence
from moshi_agent.text.transcript import Transcript
from moshi_agent.text.word_tracker import TimedWord

_log = logging.getLogger("moshi_agent.engine")
_SILENCE = np.zeros(FRAME_SAMPLES, np.float32)
_LONGEST_BACKLOG_S = 30.0
_LATEST_S = 8.0  # where older input is left out
_MOST_FILE_S = 24 * 3600.0  # input that is not live may all be there at once
_MUTUAL_SILENCE_FRAMES = 6
_REMEMBERED_CHARACTERS = 32
_SLOWEST_WORDS_FRAMES = math.ceil(2.0 / FRAME_S)  # that a request waits for a recogniser's last words
_MOST_TURNS_TOLD = 100  # with a request for a reference

CallFrame = InputFrame | OpeningFrame | TailFrame


class CallState:
    """One conversation, from the frames it brings to the events it hears."""

    def __init__(
        self, key: Key, config: SessionConfig, sampling: SamplingConfig, model: Model, outlet: Outlet
    ) -> None:
        self.key = key
        self.config = config
        self.sampling = sampling
        self.metrics = SessionMetrics()
        self.frame = 0  # the next one
        self.is_finished = False  # the input has ended
        self.context_is_full = False
        self._model = model
        self._outlet = outlet
        self._speech = BotSpeech(model, config.silence_floor_dbfs)
        self._turns = Turns()
        is_written_down = config.transcribe or model.hears_only
        self._user_words = UserWords(model.hearing) if model.hearing and is_written_down else None
        self._guide = TextGuide(model.tokenizer, model.text_padding, model.max_delay)
        self._lookups = Lookups(key, config.asking, model.takes_references)
        self._transcript = Transcript()
        self._utterances = Utterances() if model.write_down and config.transcribe else None
        self._said = ""  # the end of what the bot has written
        self._resampler = StreamResampler(SAMPLE_RATE_HZ, config.output_sample_rate)
        self._playout = (
            PlayoutClock(config.output_sample_rate, target_ms=config.output_limit_ms) if config.live else None
        )
        self._user_speaking = self._bot_speaking = False
        self._silent_frames = 0  # since either side spoke
        self._tail = Tail(config, model.ends)

    @property
    def pace(self) -> Pace:
        config = self.config
        return Pace(
            live=config.live,
            frame_s=FRAME_S,
            stall_s=config.stall_ms / 1000,
            backlog_limit_s=config.backlog_limit_ms / 1000,
            longest_backlog_s=_longest_backlog_s(config),
            drops_oldest=config.live and config.when_late == "drop_oldest",
        )

    def opening(self) -> list[PromptStep]:
        """Returns the steps before the first frame."""
        model, config = self._model, self.config
        return opening_frames(config.prompt, config.greet, model.num_streams, model.most_positions)

    def say(self, asked: Say) -> None:
        """Queues a sentence. Raises InputError for one that the model has no pieces for."""
        self._guide.say(asked.text, asked.at_once, asked.alone, asked.words)

    def hold(self, seconds: float) -> None:
        """Lets the bot say nothing of its own for so long. Raises InputError as `TextGuide.hold`."""
        self._guide.hold(seconds)

    def ask(self, by: AskedBy, wall_s: float) -> int:
        """Begins a request for a reference. Returns its number."""
        number, told = self._lookups.ask(by)
        self._tell_lookups(told, Stamp(self.frame, wall_s))
        return number

    def refer(self, given: GiveReference, wall_s: float) -> Referral:
        """Takes what was found for a request, or unasked; for the outcome see `Session.refer`.

        Raises:
            InputError: a number that no request has had.
        """
        refused = self._lookups.check(given.for_id)
        if refused is not None:
            return refused
        reason = given.refusal
        if reason is None and given.text is not None and given.reference is None:
            try:
                self._guide.say(given.text, at_once=True, alone=True, words=given.words)
            except MoshiAgentError as error:
                reason = str(error)
        if reason is not None or given.text is None:
            told = self._lookups.fail()
            outcome = Referral("taken") if reason is None else Referral("refused", reason)
        else:
            told = self._lookups.take(given.text, given.reference)
            outcome = Referral("taken")
        self._tell_lookups(told, Stamp(self.frame, wall_s))
        return outcome

    def row_input(self, row: int, ready: Ready[Key, CallFrame]) -> RowInput:
        """Returns what the row is given."""
        frame = ready.frame
        if isinstance(frame, PromptFrame):
            return frame.row_input(row)
        end = self._tail.first_tokens(self._model.num_streams) if self._is_tail(frame) else None
        if end is not None:
            return RowInput(row=row, pcm=None, forced=end)
        pcm = frame.pcm if isinstance(frame, InputFrame) else _SILENCE
        text, forced = self._guide.guidance(is_waiting=self._lookups.holds), None
        if text.forced is not None:
            forced = np.full(self._model.num_streams, UNGENERATED_TOKEN)
            forced[0] = text.forced
        reference = self._lookups.next()
        if self._model.is_told_ahead and text.ahead != ANY_TEXT:
            reference = text.ahead
        return RowInput(row=row, pcm=pcm, forced=forced, next_piece=text.next_piece, reference=reference)

    def decides_next(self, output: RowOutput, ready: Ready[Key, CallFrame], steps: int) -> bool:
        """Tells whether what a step has given may bear on what is brought into the next one.

        Where it does not, the next step may be launched before this one's output is delivered.

        Args:
            output: of the step.
            ready: what was brought into it.
            steps: of the language model that are in the row's state.
        """
        guide, model = self._guide, self._model
        is_guided = guide.is_saying or guide.is_held or self._lookups.is_busy
        is_asking = model.reference_token is not None and output.next_text == model.reference_token
        may_refresh = self.config.refresh and model.context is not None and steps >= model.context
        is_opening_or_tail = self.is_finished or not isinstance(ready.frame, InputFrame | None)
        return not output.healthy or is_opening_or_tail or is_guided or is_asking or may_refresh

    def deliver(
        self, output: RowOutput, ready: Ready[Key, CallFrame], now: float, wall_s: float, backlog_s: float
    ) -> None:
        """Turns the output of a step into events and hands them out.

        Args:
            now: when the step ended, on the monotonic clock.
            wall_s: the same in Unix time.
            backlog_s: input that waits behind this frame.
        """
        stamp = Stamp(self.frame, wall_s)
        if isinstance(ready.frame, PromptFrame):
            if not ready.frame.of_prompt:
                self._begin(output, stamp)
            return
        spoken = self._speech.follow(output, self.frame)
        self._user_speaking = isinstance(ready.frame, InputFrame) and ready.frame.speaking
        self._bot_speaking = spoken.is_audible
        self._follow_user(ready.frame)
        events = [
            *self._input_events(ready, stamp),
            *self._speech_events(output.next_text, spoken, stamp),
            *self._turn_events(stamp),
            *self._lookup_events(output.next_text, stamp),
            *self._audio_events(spoken.gated if self.config.digital_silence else spoken.pcm, now, stamp),
        ]
        if self._is_tail(ready.frame):
            self._tail.follow(output.text)
        self._count(ready, now, backlog_s)
        self.frame += 1
        self._hand_out(events, inputs_taken=ready.skipped + isinstance(ready.frame, InputFrame))

    def _begin(self, output: RowOutput, stamp: Stamp) -> None:
        """Tells what the model has written in its own first step."""
        text = self._speech.begin(output, stamp.frame)
        events = self._text_events(text, output.next_text, stamp.frame - 1, stamp)
        self._hand_out(events)

    def heard(self, ready: Ready[Key, CallFrame]) -> Frame | None:
        """Returns what the recogniser is to hear in the step just taken; None where it does not listen."""
        frame = ready.frame
        if self._user_words is None or not isinstance(frame, InputFrame | TailFrame | None):
            return None
        return frame.pcm if isinstance(frame, InputFrame) else _SILENCE

    def take_heard(self, output: RowOutput, wall_s: float) -> None:
        """Tells what the recogniser has made of it."""
        assert self._user_words is not None
        events = self._user_words.follow(output, self._user_speaking, Stamp(self.frame - 1, wall_s))
        words = sum(isinstance(event, UserWord) for event in events)
        has_stopped = any(isinstance(event, UserSaid) for event in events)
        self._hand_out(events)
        told = self._lookups.hear_words(words, has_stopped) if words or has_stopped else []
        self._tell_lookups(told, Stamp(self.frame - 1, wall_s))

    def hear_utterance(self, words: Sequence[TimedWord], wall_s: float) -> None:
        """Takes what a recogniser of the application's own has made of what the user has said."""
        if self._utterances is None:
            return
        self._utterances.read()
        stamp, events = Stamp(max(0, self.frame - 1), wall_s), list[Event]()
        for word in words:
            events.append(stamp.event(UserText, text=f" {word.word}", start=word.start))
            events.append(stamp.event(UserWord, text=word.word, start=word.start, end=word.end))
        if words:
            text = " ".join(word.word for word in words)
            events.append(stamp.event(UserSaid, text=text, start=words[0].start, end=words[-1].end))
        self._hand_out(events)
        self._tell_lookups(self._lookups.hear_words(len(words), has_stopped=True), stamp)

    def _follow_user(self, frame: CallFrame | None) -> None:
        """Lets the recogniser of the application's own have what the user has said."""
        if self._utterances is None or self._model.write_down is None:
            self._lookups.delay_frames = self._words_delay
            return
        pcm = frame.pcm if isinstance(frame, InputFrame) else _SILENCE
        utterance = self._utterances.follow(pcm, self._user_speaking, self.frame)
        if utterance is not None:
            self._model.write_down(self.key, utterance)
        self._lookups.delay_frames = _SLOWEST_WORDS_FRAMES if self._utterances.is_behind else 0

    @property
    def _words_delay(self) -> int:
        """Frames until the model's recogniser has written what the user says now."""
        if self._user_words is None or self._model.hearing is None:
            return 0
        return math.ceil(self._model.hearing.delay_s / FRAME_S) + 1

    def note_context(self, steps: int, wall_s: float) -> None:
        """Says so, once, when the model has taken as many steps as its context holds."""
        if not self.context_is_full and self._model.context is not None and steps >= self._model.context:
            self.context_is_full = True
            self._hand_out([Stamp(self.frame, wall_s).event(ContextFull)])

    @property
    def wants_refresh(self) -> bool:
        """Whether now is the time to begin anew: the context is full, and nobody speaks."""
        guide = self._guide
        is_busy = guide.is_saying or guide.is_held or self._lookups.is_busy
        quiet = self._silent_frames >= _MUTUAL_SILENCE_FRAMES and not is_busy
        return self.config.refresh and self.context_is_full and quiet

    def refreshed(self, wall_s: float) -> None:
        """Notes that the model has begun anew."""
        self.context_is_full = False
        self._hand_out([Stamp(self.frame, wall_s).event(ContextRefreshed)])

    @property
    def is_over(self) -> bool:
        """Whether the tail after the end of the input has been heard, to the end of what the bot says.

        Input that still waits is not known here.
        """
        return self.is_finished and self._tail.is_over(
            self._bot_speaking or self._guide.is_saying or self._lookups.is_busy
        )

    def _is_tail(self, frame: CallFrame | None) -> bool:
        return self.is_finished and not isinstance(frame, InputFrame)

    def end(self, reason: EndReason, wall_s: float, error: str | None = None) -> None:
        """Returns the last events."""
        stamp = Stamp(self.frame, wall_s)
        try:
            words = [stamp.word(word) for word in self._speech.finish(self.frame)]
            heard = [] if self._user_words is None else self._user_words.finish(stamp)
        except Exception as fault:  # whatever has happened to this conversation, it is told that it is over
            _log.exception("session %d: its last words are lost: %s", self.key, fault)
            words, heard = [], []
        last = Ended(frame=stamp.frame, media_s=stamp.media_s, wall_s=wall_s, reason=reason, error=error)
        self._hand_out([*words, *heard, last])

    def _hand_out(self, events: Sequence[Event], inputs_taken: int = 0) -> None:
        for event in events:
            self._transcript.add(event)
        if events or inputs_taken:
            self._outlet(Delivery(events, inputs_taken))

    def _input_events(self, ready: Ready[Key, CallFrame], stamp: Stamp) -> list[Event]:
        events: list[Event] = []
        if ready.begins_stall and not self.is_finished:
            events.append(stamp.event(InputStalled))
        if ready.resumed_after:
            events.append(stamp.event(InputResumed, silent_frames=ready.resumed_after))
        if ready.skipped:
            events.append(stamp.event(InputSkipped, frames=ready.skipped))
        return events

    def _speech_events(self, token: int, spoken: Spoken, stamp: Stamp) -> list[Event]:
        events = self._text_events(spoken.text, token, stamp.frame, stamp)
        events += [stamp.word(word) for word in spoken.words]
        written = self._speech.written(token)
        said = self._guide.advance(written, self._user_speaking, self._bot_speaking)
        return [*events, *(stamp.event(kind, text=sentence) for kind, sentence in said)]

    def _text_events(self, text: str, token: int, written_in: int, stamp: Stamp) -> list[Event]:
        if not text:
            return []
        self._said = (self._said + text)[-_REMEMBERED_CHARACTERS:]
        aligned = self._speech.aligned_frame(written_in)
        return [stamp.event(TextToken, text=text, token=token, aligned_frame=aligned)]

    def _turn_events(self, stamp: Stamp) -> list[Event]:
        user, bot = self._user_speaking, self._bot_speaking
        self._silent_frames = 0 if user or bot else self._silent_frames + 1
        kinds = self._turns.follow(user, bot, ends_sentence(self._said))
        return [stamp.event(kind) for kind in kinds]

    def _lookup_events(self, token: int, stamp: Stamp) -> list[Event]:
        is_asking = token == self._model.reference_token
        events = self._told(self._lookups.follow(is_asking, self._user_speaking), stamp)
        filler = self._lookups.sentence_due()
        if filler is not None:
            self._say_if_it_can(filler)
        return events

    def _tell_lookups(self, told: Sequence[Wanted | Over], stamp: Stamp) -> None:
        self._hand_out(self._told(told, stamp))

    def _told(self, told: Sequence[Wanted | Over], stamp: Stamp) -> list[Event]:
        events: list[Event] = []
        for one in told:
            if isinstance(one, Wanted):
                turns = self._transcript.turns[-_MOST_TURNS_TOLD:]
                events.append(stamp.event(ReferenceWanted, id=one.id, by=one.by, turns=turns))
                continue
            events.append(stamp.event(ReferenceEnded, id=one.id, reason=one.reason, text=one.text))
            apology = self._lookups.apology_for(one)
            if apology is not None:
                self._say_if_it_can(apology)
        return events

    def _say_if_it_can(self, sentence: str) -> None:
        """Says a sentence of the configuration, which is known to be no good only now."""
        try:
            self._guide.say(sentence, at_once=True)
        except MoshiAgentError as error:
            _log.warning("session %d: %r is not said: %s", self.key, sentence, error)

    def _audio_events(self, speech: Frame, now: float, stamp: Stamp) -> list[Event]:
        pcm = self._resampler.push(speech)
        events: list[Event] = []
        if self._playout is not None:
            whole, pcm = len(pcm), self._playout.admit(pcm, now)
            if len(pcm) < whole:
                dropped = whole - len(pcm)
                self.metrics.dropped(dropped)
                events.append(stamp.event(OutputDropped, samples=dropped, was_silent=True))
        if len(pcm):
            events.append(stamp.event(AudioChunk, pcm=pcm, sample_rate=self.config.output_sample_rate))
        return events

    def _count(self, ready: Ready[Key, CallFrame], now: float, backlog_s: float) -> None:
        is_input = isinstance(ready.frame, InputFrame)
        self.metrics.frame(
            latency_s=now - ready.frame.complete_at if isinstance(ready.frame, InputFrame) else None,
            waited_s=ready.waited_s if is_input else None,
            skipped=ready.skipped,
            stalled=ready.frame is None and not self.is_finished,
            backlog_s=backlog_s,
        )

    def save(self) -> dict[str, Any]:
        """Returns everything that the next frame depends on, as plain numbers, lists and arrays."""
        return {
            "frame": self.frame,
            "context_is_full": self.context_is_full,
            "turns": self._turns.save(),
            **self._speech.save(),
            **self._guide.save(),
            "lookups": self._lookups.save(),
            "transcript": self._transcript.save(),
            "utterances": self._utterances and self._utterances.save(),
            "said": self._said,
            "user_words": self._user_words and self._user_words.save(),
        }

    def load(self, saved: dict[str, Any]) -> None:
        """Takes what `save` gave."""
        self.frame = saved_value(saved["frame"], int, "frame")
        self.context_is_full = saved_value(saved["context_is_full"], bool, "context_is_full")
        self._speech.load(saved)
        self._turns.load(saved["turns"])
        self._guide.load(saved)
        self._lookups.load(saved["lookups"], self._model.text_card, self._model.dim)
        self._transcript.load(saved["transcript"])
        self._said = saved_value(saved["said"], str, "said")[-_REMEMBERED_CHARACTERS:]
        if self._user_words is not None and saved.get("user_words"):
            self._user_words.load(saved["user_words"])
        if self._utterances is not None and saved.get("utterances"):
            self._utterances.load(saved["utterances"])
        self._outlet(Delivery([], turns=self._transcript.turns))


def _longest_backlog_s(config: SessionConfig) -> float:
    if not config.live:
        return _MOST_FILE_S
    return _LATEST_S if config.when_late == "drop_oldest" else _LONGEST_BACKLOG_S
