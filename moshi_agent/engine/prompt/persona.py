"""PersonaPlex's hybrid prompt: a voice, a silence, a role, a silence, frame by frame.

    text    padding          padding   <system> role <system>   padding
    bot     the voice        silence   silence                  silence
    user    a tone           a tone    a tone                   a tone

Source: https://github.com/NVIDIA/personaplex (`LMGen.step_system_prompts`). Of the first frame nothing is
read, there as here, since initial tokens stand in its place. Theirs takes the acoustic codes of the last
frame in the first step of the conversation; here that step belongs to the prompt, and all else in it is the
model's own choice.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from moshi_agent.audio.framing import SAMPLE_RATE_HZ, Samples
from moshi_agent.audio.loudness import at_loudness
from moshi_agent.checkpoint import Checkpoint
from moshi_agent.checkpoint.voices import VoiceFile
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.engine.prompt.prompt import Prompt, encode_aside
from moshi_agent.errors import InputError
from moshi_agent.nn.embedding import UNGENERATED_TOKEN
from moshi_agent.nn.own_precision import own_precision
from moshi_agent.text.pieces import has_surrogates

_SILENT_FRAMES = 6  # half a second
_LOUDNESS_LUFS = -24.0
_TONE_HZ = 440.0
_TONE_AMPLITUDE = 0.5
_MARK = "<system>"
# What the published codec makes of silence and of the tone, as NVIDIA's package has them.
_SILENCE = (948, 243, 1178, 546, 1736, 1030, 1978, 2008)
_TONE = (430, 1268, 381, 1611, 1095, 1495, 56, 472)

Codes = NDArray[np.int64]


@dataclass(frozen=True)
class Still:
    """The codes of a prompt's two sides when nobody speaks."""

    bot: Codes  # [dep_q] silence
    user: Codes  # [n_q - dep_q] a tone


class PersonaFrames:
    """Puts hybrid prompts together for one model."""

    def __init__(self, config: MoshiConfig, still: Still) -> None:
        self._config = config
        self._still = still

    def prompt(self, voice: Codes | VoiceFile | None, pieces: list[int]) -> Prompt:
        """Makes the prompt of a voice, as codes [dep_q, frames] or a file of theirs, and of a role.

        Raises:
            InputError: a voice of another model.
        """
        lengths = [_frames_in(voice), _SILENT_FRAMES, len(pieces), _SILENT_FRAMES]
        frames = self._still_frames(sum(lengths))
        begin = lengths[0] + _SILENT_FRAMES
        frames[begin : begin + len(pieces), 0] = pieces
        embeddings = None
        if isinstance(voice, VoiceFile):
            self._check(voice)
            self._put_last_tokens(frames[: lengths[0]], voice)
            embeddings = voice.embeddings.float().numpy()
        elif voice is not None:
            frames[: lengths[0], 1 : 1 + self._config.dep_q] = voice.T
        return Prompt(self._steps(frames), embeddings, is_whole=True)

    def _still_frames(self, count: int) -> Codes:
        """[count, streams] in which nobody speaks."""
        frame = [self._config.text_padding_id, *self._still.bot.tolist(), *self._still.user.tolist()]
        return np.tile(np.array(frame, np.int64), (count, 1))

    def _check(self, voice: VoiceFile) -> None:
        config = self._config
        wanted = config.num_streams, config.max_delay + 3
        if voice.embeddings.shape[1] != config.temporal.dim or voice.tokens.shape != wanted:
            raise InputError(
                f"a voice file with embeddings of {voice.embeddings.shape[1]} and a cache of "
                f"{list(voice.tokens.shape)}; this model's have {config.temporal.dim} and {list(wanted)}"
            )
        if not bool((voice.tokens >= 0).all()) or bool((voice.tokens[1:] > config.card).any()):
            raise InputError("a voice file with tokens that this model does not have")
        if bool((voice.tokens[0] > config.text_card).any()):
            raise InputError("a voice file with text that this model does not have")

    def _put_last_tokens(self, frames: Codes, voice: VoiceFile) -> None:
        """The last frames of a voice file, [frames, streams]: of those before only embeddings are known.

        A token of frame f stands at position f + delay of its ring, and the ring holds a few positions.
        """
        ring, delays = voice.tokens.numpy(), np.array(self._config.delays)
        streams = np.arange(len(delays))
        for frame in range(max(0, len(frames) - 1 - self._config.max_delay), len(frames)):
            frames[frame] = ring[streams, (frame + delays) % ring.shape[1]]

    def _steps(self, frames: Codes) -> Codes:
        """What each step is given: [frames, streams], undelayed -> the same, as `Prompt` has it.

        A step chooses the bot's tokens for the position after its own; the user's it takes as they come.
        """
        steps = frames.copy()
        for stream, delay in enumerate(self._config.delays[: 1 + self._config.dep_q]):
            ahead = 1 - delay
            if ahead > 0:
                steps[:-ahead, stream] = frames[ahead:, stream]
                steps[-ahead:, stream] = UNGENERATED_TOKEN
            elif ahead < 0:
                steps[-ahead:, stream] = frames[:ahead, stream]  # initial tokens are read before
        return steps


def _frames_in(voice: Codes | VoiceFile | None) -> int:
    if voice is None:
        return 0
    # Of the first frame there are no embeddings: it is never read.
    return 1 + len(voice.embeddings) if isinstance(voice, VoiceFile) else voice.shape[1]


@own_precision()
@torch.inference_mode()
def compile_persona(checkpoint: Checkpoint, voice: Samples | VoiceFile | None, role: str | None) -> Prompt:
    """Makes the prompt of a voice and a role, either of which may be missing.

    Args:
        voice: a recording, [N] at 24 kHz, of any loudness; or a voice file.
        role: what the bot is to be, in words.

    Raises:
        InputError: a voice of another model, a role that is not text, or both together longer than the model
            remembers.
        AudioError: a recording that is silent or too short.
    """
    lm, tokenizer = checkpoint.lm, checkpoint.tokenizer
    assert lm is not None and tokenizer is not None, "whoever takes personas has been asked"
    if role is not None and has_surrogates(role):
        raise InputError("a role that is not Unicode text; accepted: no surrogates")
    pieces: list[int] = [] if role is None else tokenizer.encode(marked(role))
    known = voice if isinstance(voice, VoiceFile) else None
    if voice is not None and not isinstance(voice, VoiceFile):
        # Before it is encoded: the codec's memory grows with the square of the length.
        _check_length(len(voice) // checkpoint.mimi.frame_size, lm.config)
        known = encode_aside(checkpoint.mimi, at_loudness(voice, _LOUDNESS_LUFS, SAMPLE_RATE_HZ))[: lm.dep_q]
    prompt = PersonaFrames(lm.config, still_codes(checkpoint)).prompt(known, pieces)
    _check_length(len(prompt.tokens), lm.config)
    return prompt


def _check_length(frames: int, config: MoshiConfig) -> None:
    context = config.temporal.context
    if context is not None and frames > context:
        raise InputError(
            f"a voice and a role of {frames} frames; accepted: {context}, as the model remembers"
        )


def marked(role: str) -> str:
    """Returns the role between the marks that PersonaPlex was trained with."""
    role = role.strip()
    return role if role.startswith(_MARK) and role.endswith(_MARK) else f"{_MARK} {role} {_MARK}"


def still_codes(checkpoint: Checkpoint) -> Still:
    """Returns silence and the tone in the codes of this codec."""
    lm = checkpoint.lm
    assert lm is not None
    speaking, hearing = lm.dep_q, lm.config.num_user_codebooks
    if checkpoint.mimi_config == MimiConfig() and max(speaking, hearing) <= len(_SILENCE):
        return Still(np.array(_SILENCE[:speaking]), np.array(_TONE[:hearing]))
    time_s = np.arange(SAMPLE_RATE_HZ) / SAMPLE_RATE_HZ
    tone = (_TONE_AMPLITUDE * np.sin(2 * np.pi * _TONE_HZ * time_s)).astype(np.float32)
    silence = np.zeros(SAMPLE_RATE_HZ, np.float32)
    return Still(
        encode_aside(checkpoint.mimi, silence)[:speaking, -1],
        encode_aside(checkpoint.mimi, tone)[:hearing, -1],
    )
