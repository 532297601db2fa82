"""One call: a WebRTC peer on one side, a conversation of the engine on the other."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

from aiortc import RTCDataChannel, RTCPeerConnection, RTCRtpSender, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.sdp import candidate_from_sdp

from moshi_agent import (
    AudioChunk,
    Ended,
    Engine,
    EngineFull,
    Event,
    InputError,
    MoshiAgentError,
    Session,
    SessionClosed,
    SessionConfig,
)
from moshi_agent.audio.framing import SAMPLE_RATE_HZ
from moshi_agent.engine.reference_desk import OnReference
from moshi_agent_adapters.allowance import Allowance
from moshi_agent_adapters.call_log import CallLog, one_line
from moshi_agent_adapters.protocols.event_json import event_to_json
from moshi_agent_adapters.webrtc.candidates import Candidates
from moshi_agent_adapters.webrtc.config import ConnectionConfig
from moshi_agent_adapters.webrtc.event_channel import EventChannel
from moshi_agent_adapters.webrtc.ice_restart import follow_ice_restart
from moshi_agent_adapters.webrtc.input_track import CallerAudio
from moshi_agent_adapters.webrtc.offer import Offer, OfferError, read_offer
from moshi_agent_adapters.webrtc.output_track import OutputTrack
from moshi_agent_adapters.webrtc.packet_order import set_prefetch

_log = logging.getLogger("moshi_agent.webrtc")
_OFFERS_AT_ONCE = 10
_LONGEST_CANDIDATE = 500  # characters
_WATCH_INTERVAL_S = 0.25
_LAST_WORDS_S = 0.5  # for the last events to leave


class TooManyCalls(MoshiAgentError):
    """Refuses a caller who has more calls than one may have."""


class TooManyOffers(MoshiAgentError):
    """One call is renegotiated again and again."""


class MoshiConnection:
    """Answers offers of one peer and holds a conversation with it until either side ends it.

    The conversation begins, and takes a row of the engine, when the peer is connected. It ends, and its row
    is free, when the peer closes the connection, when nothing is heard of it for `silence_timeout_s`, and
    with `close`. Belongs to the event loop it was made in.

    Args:
        engine: a started one.
        session: how the conversation is set up; always live, at the model's sample rate.
        config: of the connection.
        on_event: called with every event of the conversation, audio chunks too.
        address: of the peer, if it is known: it decides which ICE candidates are taken, see `Candidates`.
        admit: awaited when the peer is connected. Raises a MoshiAgentError where it is not to be served.
        resume: the snapshot of a conversation to go on with.
        on_reference: looks up what is asked for, as for `Engine.session`.
    """

    def __init__(
        self,
        engine: Engine,
        session: SessionConfig | None = None,
        config: ConnectionConfig | None = None,
        on_event: Callable[[Event], object] | None = None,
        address: str = "",
        admit: Callable[[], Awaitable[object]] | None = None,
        resume: bytes | None = None,
        on_reference: OnReference | None = None,
    ) -> None:
        self.config = config or ConnectionConfig()
        self.session: Session | None = None  # once the peer is connected
        self.address = address
        self.is_admitted = False
        self.reason = ""  # why the call is over, once it is
        self.moved_to: str | None = None  # the token for which the conversation goes on elsewhere
        self._admit, self._resume = admit, resume
        self.channel = EventChannel(
            self.config.messages_per_second,
            self.config.says_per_second,
            on_flood=lambda: self._start_closing("too many messages on the data channel"),
        )
        self.caller_audio: CallerAudio | None = None
        self.track = OutputTrack(self.config.bit_rate, self.config.expected_loss_percent)
        self._engine = engine
        # What a stalled network brings all at once is caught up with; who it is too old for is told.
        self._session_config = replace(session or SessionConfig(), when_late="drop_oldest")
        if not self._session_config.live or self._session_config.output_sample_rate != SAMPLE_RATE_HZ:
            raise InputError(f"a session for WebRTC is live and puts out {SAMPLE_RATE_HZ} Hz")
        self._on_event = on_event
        self._on_reference = on_reference
        self._call_log = CallLog(over="webrtc")
        self._peer = RTCPeerConnection(self.config.rtc_configuration())
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing: asyncio.Task[None] | None = None
        self._closed = asyncio.Event()
        self._negotiating = asyncio.Lock()
        self._offer: Offer | None = None  # the last that was answered
        self._candidates = Candidates(address, self.config.private_candidates)
        self._renewals = Allowance(self.config.offers_per_second, _OFFERS_AT_ONCE)
        self._has_offer = self._was_connected = False
        self._prepare_peer()

    def _prepare_peer(self) -> None:
        transceiver = self._peer.addTransceiver(self.track, "sendrecv")
        codecs = RTCRtpSender.getCapabilities("audio").codecs
        transceiver.setCodecPreferences([codec for codec in codecs if codec.mimeType == "audio/opus"])
        if self.config.prefetch is not None:
            set_prefetch(transceiver.receiver, self.config.prefetch)
        self._audio = transceiver
        self._peer.on("datachannel", self._take_channel)
        self._peer.on("connectionstatechange", self._on_state)

    # What the application calls

    async def answer(self, offer_sdp: str) -> str:
        """Returns the SDP answer to an offer: the first one, or a renewed one of a running call.

        Raises:
            OfferError: no usable SDP, no audio, no Opus. A first offer like that ends the connection.
            EngineFull: there is no room for one more conversation.
            SessionClosed: the connection is closed.
            TooManyOffers: the offer is renewed too often. The call goes on as it was.
        """
        if self._has_offer and not self._renewals.spend(1, time.monotonic()):
            raise TooManyOffers("the offer is renewed too often; accepted: fewer renewals a minute")
        async with self._negotiating:
            if self._closing is not None:
                raise SessionClosed("the connection is closed; make another one")
            is_first, self._has_offer = not self._has_offer, True
            try:
                self._candidates = Candidates(self.address, self.config.private_candidates)
                offer = read_offer(offer_sdp, self._offer, self._candidates.admits)
                if is_first:
                    await self._check_room()
                answer = await self._negotiate(offer)
                self._offer = offer
            except BaseException as error:
                if is_first:
                    self._start_closing(f"refused, {error}")
                else:
                    self._note(logging.INFO, "a renewed offer is refused, the call goes on", error)
                raise
            if is_first:
                self._run(self._watch())
            return answer

    async def add_candidate(self, line: str) -> None:
        """Takes one more address of the peer, which it found after its offer.

        An address that the peer may not name, as `Candidates` has it, is left out.

        Args:
            line: as browsers give it: `candidate:...`.

        Raises:
            OfferError: it is no candidate, or no offer has been answered yet.
        """
        if self._offer is None:
            raise OfferError("a candidate before an offer that was answered; accepted: after it")
        if len(line) > _LONGEST_CANDIDATE or not line.startswith("candidate:"):
            raise OfferError(f"the candidate {line[:80]!r}; accepted: candidate:... as in SDP")
        if not self._candidates.admits(f"a={line}"):
            return
        try:
            candidate = candidate_from_sdp(line.partition(":")[2])
            candidate.sdpMid = self._offer.given[0].mid  # of the audio, whose transport all media share
            await self._peer.addIceCandidate(candidate)
        except Exception as error:  # the parser fails in many ways, each of them the candidate's fault
            raise OfferError(f"the candidate {line[:80]!r} cannot be read") from error

    async def close(self, reason: str = "closed") -> None:
        """Ends the call and the conversation, for a reason that the log tells. May be called again."""
        self._start_closing(reason)
        await self._closed.wait()

    async def wait_closed(self) -> None:
        """Waits for the end of the call."""
        await self._closed.wait()

    @property
    def is_closed(self) -> bool:
        """Whether the call is over, or is just being ended."""
        return self._closing is not None

    def _note(self, level: int, what: str, error: BaseException | None = None, **options: Any) -> None:
        message = f"{self._call_log.name}: {what}" + ("" if error is None else f": {error}")
        _log.log(level, one_line(message), extra=self._call_log.facts, **options)

    # Negotiation

    async def _check_room(self) -> None:
        refusal = (await self._engine.capacity_async()).refusal
        if refusal is not None:
            raise EngineFull(refusal)

    async def _negotiate(self, offer: Offer) -> str:
        try:
            await self._peer.setRemoteDescription(RTCSessionDescription(sdp=offer.sdp, type="offer"))
            for transceiver in self._peer.getTransceivers():
                if transceiver is not self._audio:
                    transceiver.direction = "inactive"  # video, or a second microphone
            await self._peer.setLocalDescription(await self._peer.createAnswer())
        except Exception as error:
            self._note(logging.INFO, "aiortc does not take the offer", error)
            raise OfferError(
                "the offer cannot be answered; accepted: SDP with Opus audio, ICE and DTLS"
            ) from error
        if follow_ice_restart(self._peer, offer.sdp):
            self._note(logging.INFO, "the network path is renewed (ICE restart)")
        return offer.answer(self._peer.localDescription.sdp)

    # The conversation

    def _take_channel(self, channel: RTCDataChannel) -> None:
        self.channel.attach(channel)

    async def _on_state(self) -> None:
        state = self._peer.connectionState
        # Whoever were admitted after the end would be counted for ever.
        if state == "connected" and not (self._was_connected or self.is_closed):
            self._was_connected = True
            self._run(self._converse())
        elif state == "closed":
            self._start_closing("the peer has left")
        elif state == "failed":
            self._start_closing("the connection failed")

    async def _converse(self) -> None:
        """The whole conversation, to its end."""
        try:
            if self._admit is not None:
                await self._admit()
            self.is_admitted = True
            session = self._engine.session(
                self._session_config, resume=self._resume, on_reference=self._on_reference
            )
            await session.open_async()
        except MoshiAgentError as error:
            code = "engine_full" if isinstance(error, EngineFull) else "engine_error"
            code = "too_many_calls" if isinstance(error, TooManyCalls) else code
            self.channel.send_error(str(error), code)
            await asyncio.sleep(_LAST_WORDS_S)
            self._start_closing(f"refused, {error}")
            return
        self.session, self._call_log.session = session, session.key
        if self._closing is not None:  # meanwhile
            session.close()
            return
        self.channel.serve(session)
        self.caller_audio = CallerAudio(session)
        self._run(self._listen(self.caller_audio))
        self._run(self._tell_stats(session))
        reason = "the conversation is over"
        async for event in session:
            if isinstance(event, Ended) and event.reason == "moved":
                return  # whoever has moved it closes the connection, and tells where to
            self._hand_on(event)
            if isinstance(event, Ended):
                reason = event.reason if event.error is None else f"{event.reason}, {event.error}"
        await asyncio.sleep(_LAST_WORDS_S)
        self._start_closing(reason)

    def _hand_on(self, event: Event) -> None:
        if isinstance(event, AudioChunk):
            self.track.push(event)
        else:
            self.channel.send(event_to_json(event))
        if self._on_event is not None:
            self._on_event(event)

    async def _listen(self, audio: CallerAudio) -> None:
        track: MediaStreamTrack = self._audio.receiver.track
        with suppress(MediaStreamError, SessionClosed):
            while True:
                audio.push(await track.recv())

    async def _tell_stats(self, session: Session) -> None:
        """Once a second. What it is acknowledged with also shows that the peer is still there."""
        while True:
            figures = {"type": "stats", **await self._figures(session)}
            self.channel.send(json.dumps(figures, separators=(",", ":")))
            await asyncio.sleep(self.config.stats_interval_s)

    async def _figures(self, session: Session) -> dict[str, float]:
        metrics = await self._engine.metrics_async()
        audio = self.caller_audio
        return {
            "backlog_ms": round(1000 * session.backlog_s, 1),
            "step_ms": round(1000 * metrics.step_s.p50, 1),
            "latency_ms": round(1000 * metrics.latency_s.p50, 1),
            "queued_ms": round(1000 * self.track.pacer.queued_s, 1),
            "concealed_ms": round(1000 * audio.concealed_s, 1) if audio is not None else 0.0,
            "live_sessions": metrics.live_sessions,
        }

    # The end

    async def _watch(self) -> None:
        """Ends the call when nothing comes from the peer any more, or it has taken long enough."""
        received, began_at = 0, time.monotonic()
        heard_at = began_at
        while True:
            await asyncio.sleep(_WATCH_INTERVAL_S)
            now, packets = time.monotonic(), await self._packets_received()
            if packets != received:
                received, heard_at = packets, now
            connected = self._was_connected and received
            limit_s = self.config.silence_timeout_s if connected else self.config.connect_timeout_s
            if now - heard_at > limit_s:
                self._start_closing(f"nothing was heard of the peer for {limit_s:g} s")
            elif now - began_at > self.config.longest_call_s:
                self._start_closing(f"the longest call takes {self.config.longest_call_s:g} s")

    async def _packets_received(self) -> int:
        report = await self._peer.getStats()
        return sum(stats.packetsReceived for stats in report.values() if stats.type == "transport")

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._report)

    def _report(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._note(logging.ERROR, "the call fails", error, exc_info=error)
            self._start_closing(f"failed, {error}")

    def _start_closing(self, reason: str) -> None:
        if self._closing is None:
            self.reason = reason
            line, facts = self._call_log.ended(reason)
            _log.info(line, extra=facts)
            self._closing = asyncio.ensure_future(self._close())

    async def _close(self) -> None:
        # The row first: the peer may take its time, and may be gone.
        if self.session is not None:
            self.session.close()
        for task in list(self._tasks):
            task.cancel()
        self.track.stop()
        try:
            await self._peer.close()
        except Exception as error:
            self._note(logging.ERROR, "the peer connection could not be closed", error, exc_info=error)
        self._closed.set()
