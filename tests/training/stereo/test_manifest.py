"""The list of conversations: what is written is read, and a line of another form is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.errors import DataError, OutputError
from moshi_agent.training.stereo.manifest import ManifestEntry, list_audio, read_manifest, write_manifest


def test_paths_are_relative_to_the_folder_of_the_manifest(tmp_path: Path) -> None:
    manifest = tmp_path / "data.jsonl"
    manifest.write_text('{"path": "calls/a.wav", "duration": 2.5}\n\n{"path": "/b.wav", "duration": 3}\n')
    assert read_manifest(manifest) == [
        ManifestEntry(tmp_path / "calls" / "a.wav", 2.5),
        ManifestEntry(Path("/b.wav"), 3.0),
    ]


def test_a_compressed_manifest_is_read(tmp_path: Path) -> None:
    manifest = tmp_path / "data.jsonl.gz"
    manifest.write_bytes(gzip.compress(b'{"path": "a.wav"}\n'))
    assert read_manifest(manifest) == [ManifestEntry(tmp_path / "a.wav", None)]
    whole = gzip.compress(b'{"path": "a.wav"}\n' * 100)
    for damaged in (whole[:-12], whole[:12] + b"\xff" * 8 + whole[20:]):
        manifest.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be read"):
            read_manifest(manifest)


def test_the_audio_of_a_folder_is_all_below_it_and_of_a_manifest_what_it_lists(tmp_path: Path) -> None:
    (tmp_path / "calls" / "folder.wav").mkdir(parents=True)
    for name in ("b.FLAC", "calls/a.au", "notes.txt"):
        (tmp_path / name).touch()
    assert list_audio(tmp_path) == [tmp_path / "b.FLAC", tmp_path / "calls" / "a.au"]
    (tmp_path / "data.jsonl").write_text('{"path": "z.wav"}\n{"path": "a.wav"}\n')
    assert list_audio(tmp_path / "data.jsonl") == [tmp_path / "z.wav", tmp_path / "a.wav"]


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    entries = [
        ManifestEntry(tmp_path / "naïve dir" / "a b.wav", 1.25),
        ManifestEntry(Path("/elsewhere/c.wav"), 9.0),
    ]
    write_manifest(tmp_path / "data.jsonl", entries)
    assert read_manifest(tmp_path / "data.jsonl") == entries
    assert "naïve dir" in json.loads((tmp_path / "data.jsonl").read_text().splitlines()[0])["path"]
    with pytest.raises(OutputError):
        write_manifest(tmp_path / "missing" / "data.jsonl", entries)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"path": "a.wav", "duration": 1', "no JSON"),
        ("[1, 2]", "no JSON object"),
        ('"a.wav"', "no JSON object"),
        ('{"duration": 2}', "the path is None"),
        ('{"path": "", "duration": 2}', "the path is ''"),
        ('{"path": 3, "duration": 2}', "the path is 3"),
        ('{"path": "a.wav", "duration": 0}', "the duration is 0"),
        ('{"path": "a.wav", "duration": -1.5}', "the duration is -1.5"),
        ('{"path": "a.wav", "duration": "2"}', "the duration is '2'"),
        ('{"path": "a.wav", "duration": true}', "the duration is True"),
        ('{"path": "a.wav", "duration": NaN}', "the duration is nan"),
        ('{"path": "a.wav", "duration": Infinity}', "the duration is inf"),
    ],
)
def test_a_line_of_another_form_is_named_by_its_number(tmp_path: Path, line: str, said: str) -> None:
    manifest = tmp_path / "data.jsonl"
    manifest.write_text('{"path": "a.wav", "duration": 1}\n\n' + line + "\n")
    with pytest.raises(DataError, match=f"line 3: .*{said}"):
        read_manifest(manifest)


@pytest.mark.parametrize("content", [b"", b"\n \n", b"\xff\xfe\x00"])
def test_a_manifest_that_lists_nothing_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"data\.jsonl"):
        read_manifest(tmp_path / "data.jsonl")
    with pytest.raises(DataError, match=r"missing\.jsonl"):
        read_manifest(tmp_path / "missing.jsonl")


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["path", "duration", "x"]), inner)
    ),
    max_leaves=6,
)


@given(JSON | st.text(max_size=30))
def test_any_line_is_an_entry_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    manifest = tmp_path_factory.getbasetemp() / "any.jsonl"
    line = content if isinstance(content, str) else json.dumps(content)
    manifest.write_bytes(line.encode("utf-8", "surrogatepass") + b'\n{"path": "a.wav"}')
    try:
        entries = read_manifest(manifest)
    except DataError as error:
        assert "any.jsonl" in str(error)
    else:
        assert entries[-1].path.name == "a.wav"
