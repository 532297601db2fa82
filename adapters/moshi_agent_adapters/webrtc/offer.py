"""Offers as browsers and gateways make them, in the form that aiortc takes, and the answers to them.

aiortc wants of every section ICE and DTLS attributes, a direction and a codec, and knows no rejected ones. So
it is given the usable sections alone, completed; the others get port 0 in the answer, in their places.
What is left out has its meaning from RFC 3264 and 8829 (rejected sections), 8866 (directions), 8843 (BUNDLE),
4145 (setup) and 8841 (data channels).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from aiortc import sdp
from aiortc.codecs import CODECS
from aiortc.rtcpeerconnection import find_common_codecs

from moshi_agent import InputError

_LONGEST_SDP = 65_536  # characters
_MEDIA_LINE = re.compile(r"m=(\S+) (\d{1,5})(?:/\d+)? (\S+) (\S.*)")
_DIRECTIONS = ("sendrecv", "sendonly", "recvonly", "inactive")
_TRANSPORT = (
    "ice-ufrag",
    "ice-pwd",
    "fingerprint",
    "setup",
)  # of the first section of a bundle for all of it
_CANDIDATES = ("candidate", "end-of-candidates")
# What a medium can do without: a line of these that cannot be read is as good as none.
_OPTIONAL = ("fmtp", "ssrc", "ssrc-group", "rtcp", "rtcp-fb", "rtpmap", "extmap", "candidate")
_SETUPS = ("actpass", "active", "passive")
_DATA = ("UDP/DTLS/SCTP", "TCP/DTLS/SCTP", "DTLS/SCTP")
_ACCEPTED = "accepted: SDP with Opus audio, ICE, DTLS and rtcp-mux"


class OfferError(InputError):
    """An SDP offer that cannot be answered."""


@dataclass(frozen=True)
class Section:
    """One section of an offer, from its m= line on."""

    kind: str
    port: int
    protocol: str
    formats: str
    lines: tuple[str, ...]  # after the m= line
    mid: str
    names_mid: bool  # whether the offer has the mid, or we gave it one

    @property
    def is_rtp(self) -> bool:
        """Whether packets of sound or pictures go through it."""
        return self.kind in ("audio", "video")

    def has(self, *names: str) -> bool:
        """Whether it has one of these attributes."""
        return bool(_attributes(self.lines, *names))

    def text(self) -> str:
        """The section as SDP."""
        return _joined([f"m={self.kind} 9 {self.protocol} {self.formats}", *self.lines])

    def rejection(self) -> list[str]:
        """Its lines in an answer that does not take it."""
        lines = [f"m={self.kind} 0 {self.protocol} {self.formats}", "c=IN IP4 0.0.0.0"]
        return lines + ["a=inactive"] * self.is_rtp + [f"a=mid:{self.mid}"] * self.names_mid


@dataclass(frozen=True)
class Offer:
    """An offer that has been read.

    Args:
        session: its lines before the first section.
        sections: all of them, as they were offered.
        bundle: the mids that share one transport; the first is the one whose transport it is.
        given: the sections that aiortc is given, completed, in the order in which it came to know them.
        live: the mids of those that are offered now. aiortc never forgets a section: others stay inactive.
    """

    session: tuple[str, ...]
    sections: tuple[Section, ...]
    bundle: tuple[str, ...]
    given: tuple[Section, ...]
    live: frozenset[str]

    @property
    def sdp(self) -> str:
        """The offer as aiortc takes it."""
        bundle = [mid for mid in self.bundle if mid in {section.mid for section in self.given}]
        session = [line for line in self.session if not line.startswith("a=group:")]
        session += [f"a=group:BUNDLE {' '.join(bundle)}"] * bool(bundle)
        return _joined(session) + "".join(section.text() for section in self.given)

    def answer(self, given: str) -> str:
        """The answer to the offer, from the one that aiortc gives to its `sdp`."""
        session, sections = sdp.grouplines(given)
        by_mid = dict(zip([section.mid for section in self.given], sections, strict=True))
        bundle = [mid for mid in self.bundle if mid in self.live]
        lines = [line for line in session if not line.startswith("a=group:")]
        lines += [f"a=group:BUNDLE {' '.join(bundle)}"] * bool(bundle)
        for section in self.sections:
            taken = by_mid[section.mid] if section.mid in self.live else section.rejection()
            lines += [line for line in taken if section.names_mid or not line.startswith("a=mid:")]
        return _joined(lines)


def read_offer(
    text: str, before: Offer | None = None, admits: Callable[[str], bool] = lambda _: True
) -> Offer:
    """Reads an offer and completes what aiortc takes of it.

    Args:
        text: the SDP.
        before: the last offer of the same peer that was answered.
        admits: tells for a line `a=candidate:...` whether it is kept.

    Raises:
        OfferError: no SDP, or no audio that can be taken, or not the audio of before.
    """
    session, sections = _split(text)
    groups = [value.split() for value in _attributes(session, "group")]
    bundle = next((tuple(group[1:]) for group in groups if group[:1] == ["BUNDLE"]), ())
    offered = [s for s in sections if s.port or (s.has("bundle-only") and s.mid in bundle[1:])]
    tag = next((s for s in offered if s.mid in bundle), None)
    completed = [_completed(s, session, tag if s.mid in bundle else None, admits) for s in offered]
    audio = _audio(completed, session, before)
    usable = [s for s in completed if s is audio or _fault(s, session) is None]
    data = [s.mid for s in usable if s.kind == "application"]
    known = {s.mid: s for s in before.given} if before is not None else {}
    kept_data = next((mid for mid in known if known[mid].kind == "application"), data[0] if data else None)
    live = {s.mid: s for s in usable if s.kind != "application" or s.mid == kept_data}
    asleep = {mid: _asleep(s, audio) for mid, s in known.items() if mid not in live}
    for mid, section in known.items():
        if mid in live and live[mid].kind != section.kind:
            raise OfferError(
                f"the medium {mid!r} was {section.kind} and is {live[mid].kind}; accepted: the same"
            )
    order = dict.fromkeys([*known, audio.mid, *live])
    given = tuple((live | asleep)[mid] for mid in order)
    return Offer(tuple(session), tuple(sections), bundle, given, frozenset(live))


def _split(text: str) -> tuple[list[str], list[Section]]:
    if len(text) > _LONGEST_SDP:
        raise OfferError(f"an offer of {len(text)} characters; accepted: at most {_LONGEST_SDP}")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise OfferError(f"the offer has half of a surrogate pair in it; {_ACCEPTED}")
    session, media = sdp.grouplines(text)
    sections = [_section(number, lines) for number, lines in enumerate(media)]
    mids = [section.mid for section in sections]
    if len(mids) != len(set(mids)):
        raise OfferError(f"two media of the offer have the same mid; {_ACCEPTED}")
    return [line.rstrip() for line in session], sections


def _section(number: int, lines: list[str]) -> Section:
    match = _MEDIA_LINE.fullmatch(lines[0].rstrip())
    if match is None:
        raise OfferError(f"the offer's line {lines[0][:80]!r} is none of SDP's; {_ACCEPTED}")
    kind, port, protocol, formats = match.groups()
    rest = tuple(line.rstrip() for line in lines[1:])
    mids = _attributes(rest, "mid")
    mid = mids[0] if mids and mids[0] else f"unnamed-{number}"
    return Section(kind, int(port), protocol, formats, rest, mid, names_mid=bool(mids and mids[0]))


def _completed(
    section: Section, session: list[str], tag: Section | None, admits: Callable[[str], bool]
) -> Section:
    """The section with what its session, its bundle or a rule says where it says nothing itself."""
    lines = list(section.lines)
    for name in _TRANSPORT:
        if tag is not None and not section.has(name) and not _attributes(session, name):
            lines += _lines(tag.lines, name)
    if tag is not None and not section.has("candidate"):
        lines += _lines(tag.lines, *_CANDIDATES)
    if not _attributes(session, "setup") and not _attributes(lines, "setup"):
        lines.append("a=setup:active")
    if section.is_rtp:
        lines += [] if section.has(*_DIRECTIONS) else [f"a={_direction(session)}"]
        lines += ["a=rtcp-mux"] * (not section.has("rtcp-mux") and tag is not None and tag.has("rtcp-mux"))
    elif section.protocol in _DATA:
        lines += ["a=sctp-port:5000"] * (section.protocol != "DTLS/SCTP" and not section.has("sctp-port"))
        lines += ["a=max-message-size:65536"] * (not section.has("max-message-size"))
    lines += [f"a=mid:{section.mid}"] * (not section.names_mid)
    kept = [line for line in lines if not line.startswith("a=candidate:") or admits(line)]
    return _readable(replace(section, lines=tuple(kept)), session)


def _readable(section: Section, session: list[str]) -> Section:
    """The section without optional lines that cannot be read, as RFC 8866 has it for what is not known."""
    if not section.is_rtp or _parsed(section, session) is not None:
        return section
    optional = _lines(section.lines, *_OPTIONAL)
    bare = [line for line in section.lines if line not in optional]
    codecs = [line for line in optional if line.startswith("a=rtpmap:") and _reads(section, bare, line)]
    broken = [line for line in optional if line not in codecs and not _reads(section, bare + codecs, line)]
    return replace(section, lines=tuple(line for line in section.lines if line not in broken))


def _reads(section: Section, others: list[str], line: str) -> bool:
    """Whether a section of these lines can be read with one more."""
    return _parsed(replace(section, lines=(*others, line)), []) is not None


def _direction(session: list[str]) -> str:
    return next((line[2:] for line in session if line[2:] in _DIRECTIONS), "sendrecv")


def _asleep(section: Section, audio: Section) -> Section:
    """A section that aiortc knows and that is offered no more."""
    dropped = (*_TRANSPORT, *_CANDIDATES, *_DIRECTIONS)
    lines = [line for line in section.lines if not _lines([line], *dropped)]
    lines += _lines(audio.lines, *_TRANSPORT)
    lines += ["a=inactive"] * section.is_rtp
    return replace(section, lines=tuple(lines))


def _audio(completed: list[Section], session: list[str], before: Offer | None) -> Section:
    """The section in which the conversation is held. Raises OfferError where there is none."""
    audios = [section for section in completed if section.kind == "audio"]
    if before is not None:
        mid = before.given[0].mid
        audios = [section for section in audios if section.mid == mid]
        if not audios:
            raise OfferError(
                f"the renewed offer has no audio with the mid {mid!r}; accepted: with what it had"
            )
    if not audios:
        raise OfferError("the offer has no audio; accepted: an SDP offer with one audio track")
    faults = [_fault(section, session, "audio/opus") for section in audios]
    good = [audio for audio, fault in zip(audios, faults, strict=True) if fault is None]
    if not good:
        raise OfferError(f"the audio of the offer {faults[0]}; {_ACCEPTED}")
    return next((audio for audio in good if not audio.has("inactive")), good[0])


def _fault(section: Section, session: list[str], codec: str = "") -> str | None:
    """Why a completed section cannot be taken, as the end of a sentence about it."""
    described = [*session, *section.lines]
    if not (_attributes(described, "ice-ufrag") and _attributes(described, "ice-pwd")):
        return "has no ICE credentials (a=ice-ufrag, a=ice-pwd)"
    if not _attributes(described, "fingerprint"):
        return "has no DTLS fingerprint (a=fingerprint)"
    setups = _attributes(described, "setup")
    if not set(setups) <= set(_SETUPS):
        return f"has a=setup:{setups[-1][:20]}, which is none of {', '.join(_SETUPS)}"
    if section.is_rtp and not section.has("rtcp-mux"):
        return "has RTCP on a port of its own (no a=rtcp-mux)"
    if not section.is_rtp:
        return None if section.protocol in _DATA and _parsed(section, session) else "is of no kind known here"
    media = _parsed(section, session)
    if media is None:
        return "has a line that cannot be read"
    common = find_common_codecs(CODECS[section.kind], media.rtp.codecs)
    if not any(codec in one.mimeType.lower() for one in common):
        return "has no codec known here" if not codec else "has no Opus"
    return None


def _parsed(section: Section, session: list[str]) -> sdp.MediaDescription | None:
    try:
        (media,) = sdp.SessionDescription.parse(_joined(session) + section.text()).media
    except Exception:  # the parser fails in many ways, each of them the offer's fault
        return None
    return media


def _lines(lines: Iterable[str], *names: str) -> list[str]:
    """The lines with these attributes."""
    return [line for line in lines if line[:2] == "a=" and line[2:].partition(":")[0] in names]


def _attributes(lines: Iterable[str], *names: str) -> list[str]:
    """The values of these attributes, "" for those that have none."""
    return [line.partition(":")[2].strip() for line in _lines(lines, *names)]


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\r\n" for line in lines)
