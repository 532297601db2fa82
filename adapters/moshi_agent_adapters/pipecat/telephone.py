"""Streams of telephone providers: a message that cannot be read is left out, and the call goes on.

Pipecat's serializers raise at audio that is no base64, and its transport takes that for the end of the call.
"""

from __future__ import annotations

import logging

from pipecat.frames.frames import Frame
from pipecat.processors.frame_processor import FrameProcessorSetup
from pipecat.serializers.base_serializer import FrameSerializer
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams
from pydantic import field_validator

_log = logging.getLogger("moshi_agent.pipecat")


class TelephoneParams(FastAPIWebsocketParams, validate_assignment=True):
    """Sets up a provider's stream as `FastAPIWebsocketParams` does; bad messages do not end it."""

    @field_validator("serializer")
    @classmethod
    def _made_patient(cls, serializer: FrameSerializer | None) -> FrameSerializer | None:
        if serializer is None or isinstance(serializer, _PatientSerializer):
            return serializer
        return _PatientSerializer(serializer)


class _PatientSerializer(FrameSerializer):
    """Speaks a protocol as another serializer does, and leaves out what that cannot read."""

    def __init__(self, serializer: FrameSerializer) -> None:
        super().__init__()
        self._serializer = serializer
        self._has_warned = False

    async def setup(self, setup: FrameProcessorSetup) -> None:
        await self._serializer.setup(setup)

    async def serialize(self, frame: Frame) -> str | bytes | None:
        return await self._serializer.serialize(frame)

    async def deserialize(self, data: str | bytes) -> Frame | None:
        try:
            return await self._serializer.deserialize(data)
        except Exception as error:  # whatever a stranger's message makes another's code raise
            if not self._has_warned:
                self._has_warned = True
                _log.warning("a message cannot be read (%r): such messages are left out", error)
            return None
