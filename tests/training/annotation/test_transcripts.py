"""Transcripts of several forms: what they say is found by the name of the audio, and damage is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.errors import ConfigError, DataError
from moshi_agent.training.annotation.transcripts import Cue, open_transcripts, read_transcript

SRT = """1
00:00:01,000 --> 00:00:02,500
<i>Hello</i> there.

2
00:01:00,000 --> 00:01:01,250
Bye
for now.
"""
VTT = """WEBVTT

NOTE not said

00:01.000 --> 00:02.500
Hello there.

00:01:00.000 --> 00:01:01.250
Bye for now.
"""


@pytest.mark.parametrize(("suffix", "text"), [(".srt", SRT), (".vtt", VTT)])
def test_subtitles_are_read_with_their_times(tmp_path: Path, suffix: str, text: str) -> None:
    pytest.importorskip("pysubs2")
    path = tmp_path / f"a{suffix}"
    path.write_text("\ufeff" + text, encoding="utf-8")
    cues = read_transcript(path)
    assert [(cue.start_s, cue.end_s) for cue in cues] == [(1.0, 2.5), (60.0, 61.25)]
    assert [cue.text.split() for cue in cues] == [["Hello", "there."], ["Bye", "for", "now."]]


def test_the_lines_of_a_text_are_cues_without_times(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("Hello there.\n\n  Bye.\n")
    assert [cue.text.strip() for cue in read_transcript(tmp_path / "a.txt")] == ["Hello there.", "Bye."]


def test_a_transcript_is_found_beside_the_audio_in_a_folder_or_in_a_list(tmp_path: Path) -> None:
    audio = tmp_path / "calls" / "deep" / "a.wav"
    texts = tmp_path / "texts" / "deep"
    for folder in (audio.parent, texts):
        folder.mkdir(parents=True)
    audio.with_suffix(".txt").write_text("beside")
    (texts / "a.txt").write_text("in a folder")
    (tmp_path / "texts.jsonl").write_text('{"path": "calls/deep/a.wav", "text": "in a list\\nof lines"}\n')
    root = tmp_path / "calls"
    assert open_transcripts("beside", root).of(audio) == [Cue("beside")]
    assert open_transcripts(str(tmp_path / "texts"), root).of(audio) == [Cue("in a folder")]
    listed = open_transcripts(str(tmp_path / "texts.jsonl"), root)
    assert listed.of(audio) == [Cue("in a list"), Cue("of lines")]
    other = audio.with_name("b.wav")
    for transcripts in (open_transcripts("beside", root), listed):
        with pytest.raises(DataError, match="b"):
            transcripts.of(other)
    with pytest.raises(ConfigError, match="'nowhere'"):
        open_transcripts("nowhere", root)


def test_a_line_of_another_form_is_named_by_its_number(tmp_path: Path) -> None:
    for line in ('{"path": 1, "text": ""}', "[]", "{", '{"path": "a.wav"}'):
        (tmp_path / "texts.jsonl").write_text('{"path": "a.wav", "text": ""}\n' + line)
        with pytest.raises(DataError, match="line 2"):
            open_transcripts(str(tmp_path / "texts.jsonl"), tmp_path)


def test_what_is_no_transcript_is_named(tmp_path: Path) -> None:
    pytest.importorskip("pysubs2")
    (tmp_path / "a.srt").write_text("Dear reader,\nthis has no times.")
    with pytest.raises(DataError, match=r"a\.srt has no subtitles"):
        read_transcript(tmp_path / "a.srt")
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"a\.txt cannot be read"):
        read_transcript(tmp_path / "a.txt")


@given(st.text(st.sampled_from("0123:,.-> \nWEBVT{}<i>x"), max_size=80), st.sampled_from(["srt", "vtt"]))
def test_any_text_is_subtitles_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, text: str, suffix: str
) -> None:
    pytest.importorskip("pysubs2")
    path = tmp_path_factory.getbasetemp() / f"any.{suffix}"
    path.write_text(text)
    try:
        cues = read_transcript(path)
    except DataError as error:
        assert "any." in str(error)
    else:
        assert all(cue.start_s is not None and cue.end_s is not None for cue in cues)
