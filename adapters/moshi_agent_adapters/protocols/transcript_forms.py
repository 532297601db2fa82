"""A transcript in the forms of OpenAI's `/v1/audio/transcriptions`."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass, field
from typing import Literal

from moshi_agent.events import Event, UserSaid, UserWord
from moshi_agent.text.word_tracker import TimedWord
from moshi_agent.transcription.formats import write_transcript
from moshi_agent_adapters.protocols.json_events import Json

TranscriptForm = Literal["json", "text", "srt", "verbose_json", "vtt"]
# A segment has these in the protocol. Kyutai's models give none of them.
_NOT_KNOWN = {
    "seek": 0,
    "tokens": [],
    "temperature": 0.0,
    "avg_logprob": 0.0,
    "compression_ratio": 1.0,
    "no_speech_prob": 0.0,
}


@dataclass
class WholeTranscript:
    """Collects what a recogniser writes of one recording."""

    utterances: list[UserSaid] = field(default_factory=list[UserSaid])
    words: list[TimedWord] = field(default_factory=list[TimedWord])
    audio_s: float = 0.0  # of the recording

    def add(self, event: Event) -> None:
        """Takes what is written; anything else is passed over."""
        match event:
            case UserSaid():
                self.utterances.append(event)
            case UserWord():
                self.words.append(TimedWord(event.text, event.start, event.end))
            case _:
                pass

    @property
    def text(self) -> str:
        """Returns all of it in one line."""
        return " ".join(one.text for one in self.utterances)

    def as_json(self) -> str:
        """Returns the form `json`."""
        return json.dumps({"text": self.text, "usage": self.usage})

    def as_verbose_json(self, language: str, *, segments: bool, words: bool) -> str:
        """Returns the form `verbose_json`.

        Args:
            language: as the client has named it.
            segments, words: whether their times are told.
        """
        body: Json = {"task": "transcribe", "language": language, "duration": round(self.audio_s, 3)}
        body |= {"text": self.text, "usage": self.usage}
        if segments:
            body["segments"] = [
                {"id": number, "start": one.start, "end": one.end, "text": one.text, **_NOT_KNOWN}
                for number, one in enumerate(self.utterances)
            ]
        if words:
            body["words"] = [{"word": one.word, "start": one.start, "end": one.end} for one in self.words]
        return json.dumps(body)

    def as_text(self, form: Literal["text", "srt", "vtt"]) -> str:
        """Returns plain text, or subtitles."""
        if form == "text":
            return self.text + "\n"
        subtitles = io.StringIO()
        write_transcript(self.words, subtitles, form)
        return subtitles.getvalue()

    @property
    def usage(self) -> Json:
        """Returns how much was heard, as the protocol tells it."""
        return {"type": "duration", "seconds": round(self.audio_s, 3)}
