"""What a call has to know of its checkpoint."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from moshi_agent.audio.framing import FRAME_S
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.recogniser import Recogniser
from moshi_agent.checkpoint.translation import Ends
from moshi_agent.config import ReferenceKind
from moshi_agent.engine.call.utterances import Utterance
from moshi_agent.engine.commands import Key
from moshi_agent.models.prefill import MOST_POSITIONS
from moshi_agent.text.pieces import Tokenizer
from moshi_agent.text.timed_reader import Hearing

_POSITIONS_ON_CPU = 16  # of a prompt at once: there, time goes with their number


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """Holds the facts of a checkpoint that its calls go by."""

    tokenizer: Tokenizer | None
    num_streams: int
    max_delay: int  # frames by which a piece is written before it is said
    context: int | None
    text_padding: int = 3  # the text token of frames in which no word begins
    reference_token: int | None = None  # the one by which the model asks for a reference
    takes_references: ReferenceKind | None = None
    is_told_ahead: bool = False  # in place of references, it takes the next piece of what it is told to say
    dim: int = 0  # of a row of a reference
    text_card: int = 0  # the largest token of one
    delay_s: float  # by which the text is later than what it is about
    ends: Ends | None = None  # of a translation
    hearing: Hearing | None = None  # of the recogniser that hears the user
    write_down: Callable[[Key, Utterance], None] | None = None  # gives it to one of the application's own
    most_positions: int = MOST_POSITIONS  # of a prompt that are read at once
    hears_only: bool = False  # it is itself the recogniser
    silent_frames: int = 0  # that it wants to hear before anything else


def recogniser_model_of(checkpoint: Checkpoint) -> Model:
    """Reads the facts of a recogniser. Raises ConfigError for any other kind of checkpoint."""
    recogniser = Recogniser.of(checkpoint)
    lm, tokenizer = checkpoint.lm, checkpoint.tokenizer
    assert lm is not None and tokenizer is not None
    return Model(
        tokenizer=tokenizer,
        num_streams=lm.num_codebooks,
        max_delay=lm.config.max_delay,
        context=lm.config.temporal.context,
        text_padding=lm.config.text_padding_id,
        delay_s=recogniser.delay_s,
        hearing=Hearing(tokenizer=tokenizer, delay_s=recogniser.delay_s),
        hears_only=True,
        silent_frames=math.ceil(recogniser.prefix_s / FRAME_S),
    )


def model_of(
    checkpoint: Checkpoint,
    hearing: Hearing | None = None,
    write_down: Callable[[Key, Utterance], None] | None = None,
) -> Model:
    """Reads the facts of a checkpoint. Raises ConfigError for one that holds no conversation."""
    lm = checkpoint.conversation_lm()
    return Model(
        tokenizer=checkpoint.tokenizer,
        num_streams=lm.num_codebooks,
        max_delay=lm.config.max_delay,
        context=lm.config.temporal.context,
        text_padding=lm.config.text_padding_id,
        reference_token=checkpoint.reference_token_id,
        takes_references=lm.takes_references,
        is_told_ahead=lm.is_told_ahead,
        dim=lm.config.temporal.dim,
        text_card=lm.text_card,
        delay_s=checkpoint.text_delay_s,
        ends=checkpoint.ends,
        hearing=hearing,
        write_down=write_down,
        most_positions=_POSITIONS_ON_CPU if lm.device.type == "cpu" else MOST_POSITIONS,
    )
