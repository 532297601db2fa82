"""Voices by name, from files that nobody has to trust."""

from __future__ import annotations

import io
import os
import pickle
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from moshi_agent import ConfigError, InputError, load_checkpoint
from moshi_agent.audio.files import write_audio
from moshi_agent.checkpoint import download_checkpoint
from moshi_agent.checkpoint.kyutai.names import depth_step
from moshi_agent.checkpoint.voices import FilePlace, VoiceFile, find_voices, read_voice_file
from tests.personaplex import voice_file, whole_lm, write_archive, write_personaplex


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (self.command,)


def saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def test_an_archive_gives_its_voices_by_name(tmp_path: Path) -> None:
    write_archive(
        tmp_path / "voices.tgz", {f"voices/{name}.pt": voice_file(0) for name in ("VARM1", "NATF2")}
    )
    voices = find_voices(tmp_path / "voices.tgz")
    assert list(voices) == ["NATF2", "VARM1"]
    voice = voices["NATF2"].read()
    assert (list(voice.embeddings.shape), list(voice.tokens.shape)) == ([9, 16], [5, 4])
    assert os.listdir(tmp_path) == ["voices.tgz"]


def test_of_an_archive_only_plain_voice_files_are_there_and_nothing_is_unpacked(tmp_path: Path) -> None:
    members = {
        "../../outside.pt": voice_file(0),
        "/tmp/absolute.pt": voice_file(0),
        "voices/.hidden.pt": voice_file(0),
        "voices/a b.pt": voice_file(0),
        "voices/readme.txt": b"",
    }
    write_archive(tmp_path / "voices.tgz", members)
    with tarfile.open(tmp_path / "links.tgz", "w:gz") as tar:
        link = tarfile.TarInfo("voices/passwords.pt")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    # A name is only a name, wherever the archive would have put the file.
    assert list(find_voices(tmp_path / "voices.tgz")) == ["absolute", "outside"]
    assert not list(find_voices(tmp_path / "links.tgz"))
    assert sorted(os.listdir(tmp_path)) == ["links.tgz", "voices.tgz"]


def test_a_folder_gives_voice_files_and_recordings(tmp_path: Path) -> None:
    (tmp_path / "NATF2.pt").write_bytes(voice_file(0))
    write_audio(tmp_path / "calm.wav", np.zeros(2400, np.float32))
    (tmp_path / "notes.txt").write_text("no voice")
    (tmp_path / "folder.pt").mkdir()
    voices = find_voices(tmp_path)
    assert list(voices) == ["NATF2", "calm"]
    assert voices["calm"].recording == tmp_path / "calm.wav"
    assert voices["NATF2"].recording is None
    for name in ("../NATF2", "NATF2.pt", str(tmp_path / "NATF2"), ""):
        assert name not in voices


def test_what_is_no_place_of_voices_is_refused(tmp_path: Path) -> None:
    whole = tmp_path / "whole.tgz"
    write_archive(whole, {"voices/A.pt": voice_file(0)})
    (tmp_path / "cut.tgz").write_bytes(whole.read_bytes()[:400])
    (tmp_path / "text.tgz").write_text("text")
    for name in ("missing", "cut.tgz", "text.tgz"):
        with pytest.raises(ConfigError, match=name):
            find_voices(tmp_path / name)


def test_an_archive_with_a_large_header_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "voices.tgz", "w:gz", format=tarfile.PAX_FORMAT) as tar:
        voice = tarfile.TarInfo("voices/A.pt")
        voice.pax_headers = {"comment": "x" * (2 << 20)}
        tar.addfile(voice)
    with pytest.raises(ConfigError, match=r"voices.tgz: not a whole archive of voices .a header of 2 MB"):
        find_voices(tmp_path / "voices.tgz")


def test_a_voice_file_with_code_in_it_is_refused_and_none_of_it_runs(tmp_path: Path) -> None:
    mark = tmp_path / "it_ran"
    for data in (
        saved({"embeddings": torch.zeros(3, 1, 1, 16), "cache": Evil(f"touch {mark}")}),
        pickle.dumps(Evil(f"touch {mark}")),
    ):
        with pytest.raises(InputError, match="no voice file"):
            read_voice_file(io.BytesIO(data), "evil.pt")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.zeros(3), "holds the tensors"),
        ({"embeddings": torch.zeros(3, 16)}, "holds the tensors"),
        ({"embeddings": torch.zeros(16), "cache": torch.zeros(1, 5, 4).long()}, "embeddings of shape"),
        ({"embeddings": torch.zeros(3, 2, 16), "cache": torch.zeros(1, 5, 4).long()}, "embeddings of shape"),
        ({"embeddings": torch.zeros(0, 1, 1, 16), "cache": torch.zeros(1, 5, 4).long()}, "embeddings of"),
        ({"embeddings": torch.ones(3, 16).long(), "cache": torch.zeros(1, 5, 4).long()}, "embeddings of"),
        ({"embeddings": torch.zeros(3, 16), "cache": torch.zeros(1, 5, 4)}, "a cache of shape"),
        ({"embeddings": torch.zeros(3, 16), "cache": torch.zeros(5, 4).long()}, "a cache of shape"),
        ({"embeddings": torch.full((3, 16), torch.nan), "cache": torch.zeros(1, 5, 4).long()}, "finite"),
        (
            {"embeddings": torch.zeros(1).expand(1 << 23, 16), "cache": torch.zeros(1, 5, 4).long()},
            "larger than their file",
        ),
        (
            {"embeddings": torch.eye(3, 16).to_sparse(), "cache": torch.zeros(1, 5, 4).long()},
            "not plain ones",
        ),
        (
            {"embeddings": torch.zeros(3, 16, device="meta"), "cache": torch.zeros(1, 5, 4).long()},
            "not plain ones",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")  # of torch 2.14
def test_a_voice_file_of_another_form_is_refused(value: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_voice_file(io.BytesIO(saved(value)), "voice.pt")


def test_a_small_file_does_not_become_a_large_one() -> None:
    value = {"embeddings": torch.zeros(1 << 20, 17), "cache": torch.zeros(1, 5, 4).long()}
    packed = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(value))) as plain,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as smaller,
    ):
        for name in plain.namelist():
            smaller.writestr(name, plain.read(name))
    assert packed.tell() < 1 << 20
    packed.seek(0)
    with pytest.raises(InputError, match="larger than the file"):
        read_voice_file(packed, "voice.pt")


def test_an_archive_that_was_cut_after_it_was_looked_at_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "voices.tgz"
    write_archive(archive, {"calm.pt": voice_file(0, steps=4000)})
    voices, data = find_voices(archive), archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match=r"calm\.pt in .*: damaged"):
        voices["calm"].read()


def test_a_damaged_or_missing_voice_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cut.pt").write_bytes(voice_file(0)[:500])
    (tmp_path / "empty.pt").touch()
    for name in ("cut.pt", "empty.pt", "missing.pt"):
        with pytest.raises(InputError, match=name):
            FilePlace(tmp_path / name).read()


@settings(max_examples=60)
@given(place=st.integers(0, 1 << 20), value=st.integers(0, 255))
def test_damage_is_told_and_does_nothing_else(place: int, value: int) -> None:
    data = bytearray(voice_file(0))
    data[place % len(data)] = value
    with suppress(InputError):
        assert isinstance(read_voice_file(io.BytesIO(data), "voice.pt"), VoiceFile)


def test_a_personaplex_loads_with_its_voices_and_without_the_users_depth_steps(tmp_path: Path) -> None:
    folder, whole = write_personaplex(tmp_path / "personaplex"), whole_lm()
    checkpoint = load_checkpoint(folder)
    assert checkpoint.lm is not None
    assert (checkpoint.model_type, list(checkpoint.voices)) == ("personaplex", ["NATF0", "NATM1"])
    assert checkpoint.lm.dep_q == 2
    assert not any(depth_step(name) > 1 for name in checkpoint.lm.state_dict())
    assert any(depth_step(name) == 3 for name in whole.state_dict())
    codes = torch.randint(4, 32, (2, 5, 7), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = checkpoint.lm(codes), whole(codes)
    torch.testing.assert_close(ours.logits, theirs.logits[:, :2], equal_nan=True)
    torch.testing.assert_close(ours.text_logits, theirs.text_logits)
    checked = [file.path.name for file in download_checkpoint(folder)]
    assert checked[-1] == "voices.tgz"


def test_voices_of_a_folder_go_before_the_archive(tmp_path: Path) -> None:
    folder = write_personaplex(tmp_path / "personaplex")
    (folder / "voices").mkdir()
    (folder / "voices" / "OTHER.pt").write_bytes(voice_file(0))
    assert list(load_checkpoint(folder).voices) == ["OTHER"]
