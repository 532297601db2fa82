"""Offers as browsers and gateways make them: what aiortc is given of them, and what the answer says."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator

import pytest

pytest.importorskip("aiortc")

from aiortc import RTCPeerConnection, RTCSessionDescription
from hypothesis import given, settings
from hypothesis import strategies as st

from moshi_agent import Engine
from moshi_agent_adapters.webrtc import MoshiConnection, OfferError
from moshi_agent_adapters.webrtc.candidates import Candidates
from moshi_agent_adapters.webrtc.offer import read_offer
from tests.adapters.webrtc.webrtc_peer import Caller

FINGERPRINT = "a=fingerprint:sha-256 " + ":".join(["F2"] * 32)
TRANSPORT = ["a=ice-ufrag:XSmV", "a=ice-pwd:Ss5xY4RMFEJASRvK5TIPgLN9", FINGERPRINT, "a=setup:actpass"]
OPUS = ["a=rtpmap:111 opus/48000/2"]


def offer(*sections: list[str], bundle: str = "", session: tuple[str, ...] = ()) -> str:
    lines = ["v=0", "o=- 8148572839875102105 2 IN IP4 127.0.0.1", "s=-", "t=0 0", *session]
    lines += [f"a=group:BUNDLE {bundle}"] if bundle else []
    return "\r\n".join([*lines, *[line for section in sections for line in section]]) + "\r\n"


def audio(
    mid: str, *more: str, port: int = 9, direction: str = "sendrecv", leave_out: str = "-"
) -> list[str]:
    lines = [f"m=audio {port} UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", *TRANSPORT, f"a=mid:{mid}"]
    lines += [f"a={direction}", "a=rtcp-mux", *OPUS, *more]
    return [line for line in lines if not re.match(leave_out, line)]


def video(mid: str, *more: str, port: int = 9, codec: str = "VP8/90000", transport: bool = True) -> list[str]:
    lines = [f"m=video {port} UDP/TLS/RTP/SAVPF 96", "c=IN IP4 0.0.0.0", *(TRANSPORT if transport else [])]
    return [*lines, f"a=mid:{mid}", "a=sendrecv", "a=rtcp-mux", f"a=rtpmap:96 {codec}", *more]


def data(mid: str, *more: str, port: int = 9) -> list[str]:
    lines = [f"m=application {port} UDP/DTLS/SCTP webrtc-datachannel", "c=IN IP4 0.0.0.0", *TRANSPORT]
    return [*lines, f"a=mid:{mid}", *more]


REJECTED_VIDEO = ["m=video 0 UDP/TLS/RTP/SAVPF 120", "c=IN IP4 0.0.0.0", "a=inactive", "a=mid:1"]
BUNDLED = audio("1", "a=bundle-only", port=0, leave_out="a=(ice|fingerprint|setup|rtcp-mux)")
# Name: (the offer, the answer's sections: kind, whether the port is not 0, direction; and its bundle)
OFFERS = {
    "audio": (offer(audio("0"), bundle="0"), "audio+sendrecv", "0"),
    "not bundled": (offer(audio("0"), data("1")), "audio+sendrecv application+", None),
    "rejected video without ICE": (
        offer(audio("0"), REJECTED_VIDEO, bundle="0"),
        "audio+sendrecv video-inactive",
        "0",
    ),
    "rejected video with ICE": (
        offer(audio("0"), video("1", port=0), bundle="0 1"),
        "audio+sendrecv video-inactive",
        "0",
    ),
    "no direction": (offer(audio("0", leave_out="a=sendrecv"), bundle="0"), "audio+sendrecv", "0"),
    "direction of the session": (
        offer(audio("0", leave_out="a=sendrecv"), session=("a=sendonly",)),
        "audio+recvonly",
        None,
    ),
    "receives alone": (offer(audio("0", direction="recvonly")), "audio+sendonly", None),
    "no setup": (offer(audio("0", leave_out="a=setup"), bundle="0"), "audio+sendrecv", "0"),
    "transport of the session": (
        offer(audio("0", leave_out="a=(ice|fing|setup)"), session=tuple(TRANSPORT)),
        "audio+sendrecv",
        None,
    ),
    "rejected audio, then live audio": (
        offer(audio("0", port=0, direction="inactive"), audio("1"), bundle="1"),
        "audio-inactive audio+sendrecv",
        "1",
    ),
    "inactive audio, then live audio": (
        offer(audio("0", direction="inactive"), audio("1"), bundle="0 1"),
        "audio+inactive audio+sendrecv",
        "0 1",
    ),
    "audio without Opus, then with": (
        offer([line.replace("opus/48000/2", "PCMU/8000") for line in audio("0")], audio("1")),
        "audio+inactive audio+sendrecv",
        None,
    ),
    "data first": (offer(data("0"), audio("1"), bundle="0 1"), "application+ audio+sendrecv", "0 1"),
    "data of old": (
        offer(
            audio("0"),
            ["m=application 9 DTLS/SCTP 5000", "c=IN IP4 0.0.0.0", *TRANSPORT, "a=mid:1"],
        ),
        "audio+sendrecv application+",
        None,
    ),
    "video first, audio in its bundle alone": (
        offer(video("0"), BUNDLED, bundle="0 1"),
        "video+inactive audio+sendrecv",
        "0 1",
    ),
    "bundle-only outside of a bundle": (
        offer(audio("0"), audio("1", "a=bundle-only", port=0), bundle="0"),
        "audio+sendrecv audio-inactive",
        "0",
    ),
    "a codec that nobody knows": (
        offer(audio("0"), video("1", codec="AV1/90000"), bundle="0 1"),
        "audio+sendrecv video-inactive",
        "0",
    ),
    "other media": (
        offer(["m=message 9 TCP/MSRP *", "a=mid:m"], audio("0"), ["m=application 9 UDP/BFCP *", "a=mid:f"]),
        "message- audio+sendrecv application-",
        None,
    ),
    "two data channels' sections": (
        offer(audio("0"), data("1"), data("2"), bundle="0 1 2"),
        "audio+sendrecv application+ application-",
        "0 1",
    ),
    "a damaged video": (
        offer(audio("0"), video("1"), bundle="0 1").replace("SAVPF 96", "SAVPF 96 x"),
        "audio+sendrecv video-inactive",
        "0",
    ),
    "damaged lines that it can do without": (
        offer(
            audio(
                "0", "a=fmtp:111 ", "a=ssrc:12", "a=rtcp-fb:111", "a=extmap:x", "a=rtpmap:9 foo", "a=fmtp:q x"
            ),
            video("1", "a=ssrc:twelve cname:x"),
            bundle="0 1",
        ),
        "audio+sendrecv video+inactive",
        "0 1",
    ),
    "a damaged candidate": (offer(audio("0", "a=candidate:1 1 udp")), "audio+sendrecv", None),
    "no mids": (
        offer(audio("0", leave_out="a=mid"), ["m=video 0 RTP/AVP 31"]),
        "audio+sendrecv video-inactive",
        None,
    ),
}
REFUSED = {
    "all rejected": (offer(audio("0", port=0)), "no audio"),
    "no media": (offer(), "no audio"),
    "no ICE": (offer(audio("0", leave_out="a=ice-pwd")), "no ICE credentials"),
    "no DTLS": (offer(audio("0", leave_out="a=fingerprint")), "no DTLS fingerprint"),
    "setup of another kind": (
        offer(audio("0", "a=setup:holdconn", leave_out="a=setup:actpass")),
        "a=setup:holdconn",
    ),
    "no rtcp-mux": (offer(audio("0", leave_out="a=rtcp-mux")), "no a=rtcp-mux"),
    "no Opus": (offer([line.replace("opus/48000/2", "G722/8000") for line in audio("0")]), "no Opus"),
    "one mid twice": (offer(audio("0"), audio("0")), "the same mid"),
    "no SDP": ("m=audio nine", "none of SDP's"),
    "a damaged line": (offer(audio("0")).replace("SAVPF 111", "SAVPF 111 x"), "cannot be read"),
    "half a surrogate pair": (offer(audio("0", "a=msid:\ud800")), "surrogate"),
    "too long": (offer(audio("0", *["a=x"] * 20_000)), "at most 65536"),
}


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    with Engine.load("tiny", capacity=2, admit_by_time=False, shared=False) as engine:
        yield engine


def told(sdp: str) -> str:
    """An answer's sections as OFFERS tells them."""
    sections = re.split(r"^(?=m=)", sdp, flags=re.MULTILINE)[1:]
    parts: list[str] = []
    for section in sections:
        kind, port = re.match(r"m=(\w+) (\d+)", section).groups()  # type: ignore[union-attr]
        direction = re.search(r"^a=(sendrecv|sendonly|recvonly|inactive)\r$", section, re.MULTILINE)
        parts.append(kind + ("+" if int(port) else "-") + (direction[1] if direction else ""))
    return " ".join(parts)


@pytest.mark.parametrize("name", OFFERS)
def test_an_offer_is_answered_section_by_section(engine: Engine, name: str) -> None:
    sdp, expected, bundle = OFFERS[name]

    async def talk() -> str:
        connection = MoshiConnection(engine)
        try:
            return await connection.answer(sdp)
        finally:
            await connection.close()

    answer = asyncio.run(asyncio.wait_for(talk(), 60))
    assert told(answer) == expected
    group = re.search(r"^a=group:BUNDLE (.*)\r$", answer, re.MULTILINE)
    assert (group and group[1]) == bundle
    assert re.findall(r"a=mid:(.*)\r", answer) == re.findall(r"a=mid:(.*)\r", sdp)
    setups = {"passive"} if "a=setup" not in sdp else {"active"}
    assert set(re.findall(r"a=setup:(.*)\r", answer)) == setups


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_answered_is_refused_in_our_words(name: str) -> None:
    sdp, reason = REFUSED[name]
    with pytest.raises(OfferError, match=reason) as refusal:
        read_offer(sdp)
    assert "accepted" in str(refusal.value)


@given(st.sampled_from(sorted(OFFERS)), st.data())
@settings(max_examples=200)
def test_any_damage_is_read_or_refused(name: str, drawn: st.DataObject) -> None:
    lines = OFFERS[name][0].splitlines()
    for _ in range(drawn.draw(st.integers(1, 4))):
        at = drawn.draw(st.integers(0, len(lines) - 1))
        damaged = st.sampled_from(["", lines[at][:-3], lines[at] * 2, "a=", "a=mid:", "m=audio 0 X 1"])
        lines[at] = drawn.draw(damaged | st.text(max_size=20))
    try:
        assert read_offer("\r\n".join(lines) + "\r\n").sdp.count("m=audio") >= 1
    except OfferError as refusal:
        assert "accepted" in str(refusal)


@pytest.mark.real_time
def test_a_stopped_section_and_a_new_one_in_its_place_keep_the_call(engine: Engine) -> None:
    """A browser stops its camera, and takes the place for a screen later (RFC 8829, 5.2.2)."""

    async def talk() -> None:
        connection = MoshiConnection(engine)
        both, stopped = ["0", "1"], ["m=video 0 UDP/TLS/RTP/SAVPF 0", "c=IN IP4 0.0.0.0", "a=mid:0"]
        await connection.answer(offer(video("0"), audio("1"), bundle=" ".join(both)))
        answer = await connection.answer(offer(stopped, audio("1"), data("2"), bundle="1 2"))
        assert told(answer) == "video-inactive audio+sendrecv application+"
        answer = await connection.answer(offer(video("3"), audio("1"), data("2"), bundle="1 2 3"))
        assert told(answer) == "video+inactive audio+sendrecv application+"
        answer = await connection.answer(offer(video("0"), audio("1"), data("2"), bundle="1 2 0"))
        assert told(answer) == "video+inactive audio+sendrecv application+"
        with pytest.raises(OfferError, match="no audio with the mid '1'"):
            await connection.answer(offer(video("0"), audio("7"), data("2"), bundle="7 2 0"))
        with pytest.raises(OfferError, match="was application and is video"):
            await connection.answer(offer(audio("1"), video("2"), bundle="1 2"))
        await connection.close()

    asyncio.run(asyncio.wait_for(talk(), 60))


@pytest.mark.real_time
def test_a_peer_with_a_rejected_section_is_connected_and_heard(engine: Engine) -> None:
    """aiortc's own offer with a section in front that it does not have: as of a gateway without video."""

    async def talk() -> None:
        connection, caller = MoshiConnection(engine), Caller()
        session, *own = re.split(r"^(?=m=)", await caller.offer(), flags=re.MULTILINE)
        rejected = "m=video 0 UDP/TLS/RTP/SAVPF 120\r\nc=IN IP4 0.0.0.0\r\na=mid:gone\r\n"
        bare = [re.sub(r"a=sendrecv\r\n|a=setup:actpass\r\n", "", section) for section in own]
        answer = await connection.answer(session + rejected + "".join(bare))
        assert told(answer) == "video-inactive audio+sendrecv application+"
        await caller.accept(re.sub(r"m=video 0(.|\n)*?(?=m=)", "", answer))
        await caller.wait_for(lambda: caller.has("stats"))
        await caller.hang_up()
        await connection.wait_closed()

    asyncio.run(asyncio.wait_for(talk(), 120))


def test_sections_without_a_bundle_are_connected_each_by_itself(engine: Engine) -> None:
    async def talk() -> None:
        connection, peer = MoshiConnection(engine), RTCPeerConnection()
        peer.addTransceiver("audio")
        await peer.setLocalDescription(await peer.createOffer())
        alone = re.sub(r"a=group:BUNDLE.*\r\n", "", peer.localDescription.sdp)
        answer = await connection.answer(alone)
        assert "BUNDLE" not in answer
        await peer.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        assert peer.signalingState == "stable"
        await peer.close()
        await connection.close()

    asyncio.run(asyncio.wait_for(talk(), 60))


def candidate(address: str, port: int = 5000, transport: str = "udp") -> str:
    return f"a=candidate:1 1 {transport} 2130706431 {address} {port} typ host"


@pytest.mark.parametrize(
    ("caller", "admitted"),
    [
        ("8.8.4.4", ["8.8.8.8", "2001:4860:4860::8888"]),
        ("192.168.1.2", ["8.8.8.8", "2001:4860:4860::8888", "10.0.0.1", "fe80::1", "a1b2.local"]),
        (
            "127.0.0.1",
            ["8.8.8.8", "2001:4860:4860::8888", "10.0.0.1", "fe80::1", "a1b2.local", "::1", "127.0.0.1"],
        ),
    ],
)
def test_a_caller_names_addresses_that_are_no_nearer_than_its_own(caller: str, admitted: list[str]) -> None:
    named = ["8.8.8.8", "2001:4860:4860::8888", "10.0.0.1", "fe80::1", "a1b2.local", "::1", "127.0.0.1"]
    named += ["224.0.0.251", "0.0.0.0", "255.255.255.255", "ff02::1", "example.org"]
    candidates = Candidates(caller)
    assert [address for address in named if candidates.admits(candidate(address))] == admitted


def test_the_option_goes_before_the_caller() -> None:
    assert not Candidates("127.0.0.1", allow_private=False).admits(candidate("10.0.0.1"))
    assert Candidates("8.8.8.8", allow_private=True).admits(candidate("127.0.0.1"))
    assert Candidates().admits(candidate("127.0.0.1"))
    assert not Candidates("8.8.8.8").admits(candidate("::ffff:127.0.0.1"))


def test_thirty_addresses_of_an_offer_are_taken() -> None:
    candidates = Candidates("127.0.0.1")
    many = [candidate("127.0.0.1", port) for port in range(1, 60)]
    text = offer(
        audio("0", *many, candidate("127.0.0.1", 5, "tcp"), candidate("127.0.0.1", 99_999)), data("1", *many)
    )
    read = read_offer(text, admits=candidates.admits)
    assert read.sdp.count("a=candidate:") == 60 and len(set(re.findall(r"127.0.0.1 \d+ typ", read.sdp))) == 30
