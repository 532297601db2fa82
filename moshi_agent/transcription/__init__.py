"""Speech recognition with Kyutai's models: words with times, and pauses, while the audio comes in.

transcriber.py  one stream of audio from beginning to end
formats.py      a transcript as text, JSON and subtitles
"""

from moshi_agent.checkpoint.recogniser import Recogniser
from moshi_agent.text.timed_reader import Pause, PauseConfig, TimedPiece
from moshi_agent.transcription.formats import FORMATS, TranscriptWriter, write_transcript
from moshi_agent.transcription.transcriber import Transcriber, TranscriptPart, transcribe_file

__all__ = [
    "FORMATS",
    "Pause",
    "PauseConfig",
    "Recogniser",
    "TimedPiece",
    "Transcriber",
    "TranscriptPart",
    "TranscriptWriter",
    "transcribe_file",
    "write_transcript",
]
