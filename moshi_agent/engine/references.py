"""The text of a reference as the model takes it, made off the thread that takes the steps."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moshi_agent.checkpoint import Checkpoint
from moshi_agent.engine.commands import GiveReference, Refer
from moshi_agent.engine.step.step_tensors import Reference
from moshi_agent.errors import InputError, MoshiAgentError
from moshi_agent.nn.side_stream import side_stream
from moshi_agent.text.pieces import pieces_of
from moshi_agent.text.sentences import words_to_say

# Encodes a text -> [n, row_dim]. It is called by one thread at a time.
EncodeReference = Callable[[str], NDArray[np.float32] | Tensor]

_MOST_FRAMES = 1000  # of a reference, a token or a row in each
_NONE_TAKEN = (
    "this checkpoint was not trained to take references; accepted: `Session.say`, or "
    'SessionConfig(references="say"), which says each of them as it is'
)


class References:
    """Reads the texts of references for a checkpoint.

    Args:
        checkpoint: of the model.
        encode: for one that takes rows.
    """

    def __init__(self, checkpoint: Checkpoint, encode: EncodeReference | None) -> None:
        lm = checkpoint.lm
        assert lm is not None  # the engine has looked at its kind
        self._lm = lm
        self._tokenizer = checkpoint.tokenizer
        self._kind = lm.takes_references
        self._encode = encode
        self._threads: ThreadPoolExecutor | None = None

    def refer(self, command: Refer, request: Callable[[GiveReference], Future[Any]]) -> Future[Any]:
        """Reads a text and hands it on; returns the `Referral` to come.

        Args:
            command: of a session.
            request: to the thread that takes the steps.
        """
        answer: Future[Any] = Future()
        if self._kind == "rows" and command.text and not command.as_sentence:
            if self._threads is None:
                self._threads = ThreadPoolExecutor(1, "moshi-references")
            self._threads.submit(self._refer, command, request, answer)
        else:
            self._refer(command, request, answer)
        return answer

    def _refer(
        self, command: Refer, request: Callable[[GiveReference], Future[Any]], answer: Future[Any]
    ) -> None:
        try:
            given = self._read(command)
        except Exception as error:  # of an encoder that is not ours, too
            told = str(error) if isinstance(error, MoshiAgentError) else f"{type(error).__name__}: {error}"
            given = GiveReference(command.key, command.for_id, command.text, refusal=told)
        request(given).add_done_callback(lambda done: _pass_on(done, answer))

    def _read(self, command: Refer) -> GiveReference:
        given = GiveReference(command.key, command.for_id, command.text)
        if command.text is None:
            return given
        if command.as_sentence:
            return replace(given, words=words_to_say(self._tokenizer, command.text))
        if self._kind is None:
            return GiveReference(command.key, command.for_id, command.text, refusal=_NONE_TAKEN)
        reference = self._tokens(command.text) if self._kind == "tokens" else self._rows(command.text)
        if len(reference) > _MOST_FRAMES:
            raise InputError(f"a reference of {len(reference)} frames; accepted: {_MOST_FRAMES}")
        return GiveReference(command.key, command.for_id, command.text, reference=reference)

    def _tokens(self, text: str) -> Reference:
        """A new reference begins with the token that every text begins with; then its words, one by one."""
        if len(text) > 100 * _MOST_FRAMES:
            raise InputError(f"a reference of {len(text)} characters; accepted: {100 * _MOST_FRAMES}")
        return (self._lm.text_card, *pieces_of(self._tokenizer, text))

    def _rows(self, text: str) -> Reference:
        """[n, dim] of the model."""
        if self._encode is None:
            raise InputError(
                "this checkpoint takes the rows of an encoder; accepted: an engine with one "
                "(EngineConfig.reference_encoder)"
            )
        with torch.inference_mode(), side_stream(self._lm.device):
            encoded = torch.as_tensor(self._encode(text))
            return self._lm.project_references(encoded).float().cpu().numpy()

    def stop(self) -> None:
        """Reads nothing more."""
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)


def _pass_on(done: Future[Any], answer: Future[Any]) -> None:
    error = done.exception()
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(done.result())
