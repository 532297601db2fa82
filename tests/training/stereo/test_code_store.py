"""Codes are made once, and made anew when the file or the codec is another."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from moshi_agent.models.mimi import MimiModel
from moshi_agent.training.stereo import code_store
from moshi_agent.training.stereo import encode as encoding
from moshi_agent.training.stereo.code_store import CodeStore
from moshi_agent.training.stereo.codec_digest import codec_digest
from moshi_agent.training.stereo.recording import Recording
from tests.small_models import small_mimi
from tests.training.stereo.conversations_on_disk import write_conversation


def _encoded(mimi: MimiModel, path: Path) -> torch.Tensor:
    return encoding.encode(mimi, [encoding.read_stereo(path, mimi)], "whole")[0]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_conversation(tmp_path / "a.wav", seconds=1.0)


def test_codes_are_read_from_disk_the_second_time(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    codes = CodeStore(small_mimi(), folder=folder).codes(path)
    (kept,) = folder.iterdir()
    assert codes.dtype == torch.int16 and list(codes.shape) == [2, 4, 13]
    written = kept.stat().st_mtime_ns
    again = CodeStore(small_mimi(), folder=folder).codes(path)
    assert torch.equal(again, codes)
    assert [file.stat().st_mtime_ns for file in folder.iterdir()] == [written]


def test_another_file_encoding_or_codec_has_codes_of_its_own(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "codes"
    CodeStore(small_mimi(), folder=folder).codes(path)
    CodeStore(small_mimi(), folder=folder, encoding="live").codes(path)
    narrow = small_mimi()
    narrow.set_num_codebooks(2)
    assert CodeStore(narrow, folder=folder).codes(path).shape[1] == 2
    os.utime(path, ns=(0, 0))
    CodeStore(small_mimi(), folder=folder).codes(path)
    assert len(list(folder.iterdir())) == 4


def test_damaged_codes_are_made_anew(path: Path, tmp_path: Path) -> None:
    store = CodeStore(small_mimi(), folder=tmp_path / "codes")
    codes = store.codes(path)
    (kept,) = (tmp_path / "codes").iterdir()
    kept.write_bytes(kept.read_bytes()[:-7])
    assert torch.equal(CodeStore(small_mimi(), folder=tmp_path / "codes").codes(path), codes)
    assert torch.equal(CodeStore(small_mimi(), folder=tmp_path / "codes").codes(path), codes)


def test_a_folder_that_cannot_be_written_costs_only_time(path: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    codes = CodeStore(small_mimi(), folder=tmp_path / "file" / "codes").codes(path)
    assert torch.equal(codes, _encoded(small_mimi(), path))


def test_memory_is_bounded(tmp_path: Path) -> None:
    paths = [write_conversation(tmp_path / f"{name}.wav", seconds=0.4) for name in "abc"]
    store = CodeStore(small_mimi(), memory_bytes=100)  # a file has 80
    for path in paths:
        store.codes(path)
    assert list(store._kept) == paths[2:]


def test_a_long_recording_goes_through_in_pieces(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mimi = small_mimi()
    whole = _encoded(mimi, path)
    monkeypatch.setattr(encoding, "_PIECE_FRAMES", 5)
    monkeypatch.setattr(encoding, "_LEAD_FRAMES", 8)  # more than the 12 positions and the convolutions see
    assert torch.equal(_encoded(mimi, path), whole)
    monkeypatch.setattr(encoding, "_LEAD_FRAMES", 0)
    assert not torch.equal(_encoded(mimi, path), whole)


def test_the_digest_is_that_of_the_weights_that_encode() -> None:
    digest = codec_digest(small_mimi())
    assert digest == codec_digest(small_mimi())
    other = small_mimi()
    with torch.no_grad():
        next(other.decoder.parameters()).add_(1)
    assert codec_digest(other) == digest
    with torch.no_grad():
        next(other.encoder.parameters()).add_(1e-4)
    assert codec_digest(other) != digest
    packed = small_mimi()
    packed.pack("float32")
    assert len(codec_digest(packed)) == 16


def test_files_side_by_side_have_the_codes_of_each_alone(tmp_path: Path) -> None:
    lengths_s = [0.5, 1.2, 0.2, 0.5]
    recordings = [
        Recording(write_conversation(tmp_path / f"{number}.wav", seconds=seconds), seconds)
        for number, seconds in enumerate(lengths_s)
    ]
    (tmp_path / "2.wav").write_text("damaged")
    store = CodeStore(small_mimi(), encoding="live", folder=tmp_path / "codes")
    outcomes = dict(store.prepare(recordings))
    assert [path.name for path, error in outcomes.items() if error is not None] == ["2.wav"]
    for recording in (recordings[0], recordings[1], recordings[3]):
        alone = CodeStore(small_mimi(), encoding="live").codes(recording.path)
        assert alone.shape[-1] == -(-recording.duration_s // 0.08)
        assert (store.codes(recording.path) == alone).float().mean() > 0.99


def test_an_interrupted_preparation_ends_with_the_same_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "_GROUP_FILES", 2)
    recordings = [Recording(write_conversation(tmp_path / f"{n}.wav", seconds=0.4), 0.4) for n in range(5)]

    def prepare(folder: Path, files: int) -> dict[str, torch.Tensor]:
        store = CodeStore(small_mimi(), encoding="live", folder=folder)
        for _ in zip(range(files), store.prepare(recordings), strict=False):
            pass
        return {file.name: load_file(file)["codes"] for file in folder.iterdir()}

    whole = prepare(tmp_path / "whole", 5)
    assert len(prepare(tmp_path / "cut", 3)) == 3
    resumed = prepare(tmp_path / "cut", 5)
    assert resumed.keys() == whole.keys() and len(whole) == 5
    assert all(torch.equal(codes, whole[name]) for name, codes in resumed.items())
