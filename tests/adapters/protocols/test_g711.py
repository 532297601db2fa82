"""mu-law and A-law beside another implementation of G.711."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from moshi_agent_adapters.protocols import g711

_LAWS: list[Literal["mu", "a"]] = ["mu", "a"]


def _ffmpeg(law: str, pcm: NDArray[np.int16]) -> bytes:
    av = pytest.importorskip("av", reason="needs the extra `server`: pip install moshi-agent[server]")
    codec = av.CodecContext.create({"mu": "pcm_mulaw", "a": "pcm_alaw"}[law], "w")
    codec.sample_rate, codec.layout, codec.format = 8000, "mono", "s16"
    codec.open()
    frame = av.AudioFrame.from_ndarray(pcm[None], format="s16", layout="mono")
    frame.sample_rate = 8000
    return b"".join(bytes(packet) for packet in codec.encode(frame))


@pytest.mark.parametrize("law", _LAWS)
def test_every_code_stands_for_itself(law: Literal["mu", "a"]) -> None:
    codes = bytes(range(256))
    levels = g711.decode(codes, law)
    again = g711.decode(g711.encode(levels, law), law)
    assert np.array_equal(again, levels)


@pytest.mark.parametrize("law", _LAWS)
def test_samples_are_coded_as_ffmpeg_codes_them(law: Literal["mu", "a"]) -> None:
    pcm = np.arange(-32768, 32768, 7, dtype=np.int16)
    ours, theirs = g711.decode(g711.encode(pcm, law), law), g711.decode(_ffmpeg(law, pcm), law)
    exact = pcm.astype(np.int32)
    # Where they differ, it is a sample between two levels; the one chosen here is at least as near.
    assert (np.abs(ours - exact) <= np.abs(theirs - exact)).all()
    assert np.mean(ours == theirs) > 0.95


@pytest.mark.parametrize("law", _LAWS)
@given(st.integers(-32_000, 32_000))
def test_a_sample_comes_back_within_a_part_of_itself(law: Literal["mu", "a"], sample: int) -> None:
    back = int(g711.decode(g711.encode(np.array([sample], np.int16), law), law)[0])
    assert abs(back - sample) <= max(16, abs(sample) * 0.04)
