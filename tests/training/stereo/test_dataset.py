"""Crops of conversations: what is in them, their order, and that bad files cost only themselves."""

from __future__ import annotations

import json
import logging
import os
import re
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.audio.files import read_channels
from moshi_agent.errors import ConfigError, DataError
from moshi_agent.training.stereo.dataset import NOTHING, Batch, StereoConfig, StereoDataset
from moshi_agent.training.stereo.draw_order import DrawOrder
from tests.small_models import small_mimi
from tests.text_tokenizers import byte_tokenizer
from tests.training.stereo.conversations_on_disk import write_conversation, write_listing

MIMI = small_mimi()
CODEBOOKS = MIMI.num_codebooks
HELLO = byte_tokenizer().encode("hello")


def _open(manifest: Path, **settings: object) -> StereoDataset:
    return StereoDataset(manifest, byte_tokenizer(), MIMI, StereoConfig(**{"duration_s": 1.0, **settings}))


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three conversations of two seconds, of several rates and formats."""
    calls = tmp_path / "calls"
    paths = [
        write_conversation(calls / "a.wav"),
        write_conversation(calls / "b.flac", rate_hz=44_100),
        write_conversation(calls / "c.wav", rate_hz=8_000),
    ]
    return write_listing(tmp_path, paths)


def test_a_crop_has_the_text_and_the_codes_of_both_sides(manifest: Path) -> None:
    data = _open(manifest)
    assert (len(data), data.frames) == (6, 13)
    audio = torch.from_numpy(read_channels(manifest.parent / "calls" / "a.wav").T.copy())[:, None]
    left, right = MIMI.encode(audio).unbind(0)  # [K, 25]
    first, second = data[0], data[1]
    assert first.codes.dtype == torch.int64 and list(first.codes.shape) == [1 + 2 * CODEBOOKS, 13]
    assert (first.valid_frames, second.valid_frames) == (13, 12)
    assert torch.equal(first.codes[1 : 1 + CODEBOOKS], left[:, :13])
    assert torch.equal(first.codes[1 + CODEBOOKS :], right[:, :13])
    assert torch.equal(second.codes[1 + CODEBOOKS :, :12], right[:, 13:])
    assert not torch.equal(left, right)


def test_the_text_is_where_the_words_are_said(manifest: Path) -> None:
    text = _open(manifest)[0].codes[0].tolist()
    assert text[1] == HELLO[0] and text[7] == HELLO[0]  # at 0.1 and 0.6 s
    assert byte_tokenizer().encode("cat")[0] not in text  # the user says it


def test_frames_that_a_recording_has_not_are_nothing_in_every_row(manifest: Path) -> None:
    crop = _open(manifest, duration_s=3.0)[0]
    assert crop.valid_frames == 25
    assert (crop.codes[:, 25:] == NOTHING).all() and (crop.codes[:, :25] >= 0).all()


def test_both_encodings_give_codes_and_live_ones_are_those_of_a_call(manifest: Path) -> None:
    audio = torch.from_numpy(read_channels(manifest.parent / "calls" / "a.wav").T.copy())[:, None]
    audio = torch.nn.functional.pad(audio, (0, -audio.shape[-1] % MIMI.frame_size))
    with MIMI.streaming(2):
        live = torch.cat([MIMI.encode(frame) for frame in audio.split(MIMI.frame_size, dim=-1)], dim=-1)
    crop = _open(manifest, encoding="live", duration_s=2.0)[0]
    assert torch.equal(crop.codes[1:], live.flatten(0, 1))


def test_the_conditions_of_a_conversation_come_with_its_crops(manifest: Path) -> None:
    sidecar = manifest.parent / "calls" / "b.json"
    sidecar.write_text(json.dumps({"alignments": [], "text_conditions": {"description": "calm"}}))
    assert [_open(manifest)[index].text_conditions for index in (0, 2)] == [None, {"description": "calm"}]


def test_a_conversation_in_which_moshi_was_asked_to_greet_begins_with_the_token_that_asks(
    manifest: Path,
) -> None:
    sidecar = manifest.parent / "calls" / "b.json"
    before = _open(manifest)
    sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"greets": True}))
    after = _open(manifest)
    assert [int(after[index].codes[0, 0]) == 1 for index in range(6)] == [index == 2 for index in range(6)]
    assert torch.equal(after[2].codes[:, 1:], before[2].codes[:, 1:])


def test_a_batch_follows_from_the_seed_the_step_and_the_rank(manifest: Path) -> None:
    def batches(seed: int, steps: range, rank: int = 0) -> list[torch.Tensor]:
        data = _open(manifest, seed=seed, shift_crops=True)
        return [data.batch(step, 2, rank=rank, ranks=2).codes for step in steps]

    whole = batches(5, range(8))
    resumed = batches(5, range(4, 8))
    assert all(torch.equal(a, b) for a, b in zip(whole[4:], resumed, strict=True))
    for other in (batches(6, range(8)), batches(5, range(8), rank=1)):
        assert not all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))


def test_all_ranks_together_see_every_crop_once_in_an_epoch(manifest: Path) -> None:
    data = _open(manifest)
    expected = {tuple(data[index].codes.flatten().tolist()) for index in range(len(data))}
    drawn = [data.batch(step, 1, rank=rank, ranks=2).codes for step in range(3) for rank in range(2)]
    assert len(expected) == 6
    assert {tuple(codes.flatten().tolist()) for codes in drawn} == expected


def test_a_shifted_crop_is_a_piece_of_its_recording_with_the_words_in_place(manifest: Path) -> None:
    data, whole = _open(manifest, shift_crops=True, duration_s=0.8), _open(manifest, duration_s=2.0)
    recordings = {crop.path: crop for crop in map(whole.__getitem__, range(3))}
    starts = set()
    for draw in range(30):
        crop = data._draw(draw)
        first = round(crop.start_s * 12.5)
        starts.add(first)
        source = recordings[crop.path].codes[1:, first : first + crop.valid_frames]
        assert torch.equal(crop.codes[1:, : crop.valid_frames], source)
        says = [frame for frame, token in enumerate(crop.codes[0].tolist()) if token == HELLO[0]]
        at = [int(t * 12.5) - first for t in (0.1, 0.6, 1.1) if crop.start_s <= t]
        assert says == [frame for frame in at if frame < crop.valid_frames]
    assert len(starts) > 8


def test_evaluation_goes_through_all_crops_in_order(manifest: Path) -> None:
    data = _open(manifest)
    batches = list(data.in_order(4))
    assert [len(batch.codes) for batch in batches] == [4, 2]
    assert torch.equal(torch.cat([b.codes for b in batches]), Batch.of([data[i] for i in range(6)]).codes)
    shares = [torch.cat([b.codes for b in data.in_order(4, rank=rank, ranks=2)]) for rank in (0, 1)]
    assert sum(map(len, shares)) == 6


@given(st.integers(1, 50), st.integers(0, 2**31), st.integers(0, 5))
def test_every_epoch_is_a_permutation(items: int, seed: int, epoch: int) -> None:
    order = DrawOrder(items, seed)
    drawn = [order.item(epoch * items + place) for place in range(items)]
    assert sorted(drawn) == list(range(items))
    assert [order.item(epoch * items, later) for later in range(items)] == drawn


# Bad files.


def test_one_corrupt_file_among_many_is_left_out_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = [write_conversation(tmp_path / f"{number:03d}.flac", seconds=0.4) for number in range(120)]
    content = bytearray(paths[77].read_bytes())
    content[len(content) // 2 :] = os.urandom(len(content) - len(content) // 2)
    paths[77].write_bytes(content)
    data = _open(write_listing(tmp_path, paths, seconds=0.4))
    assert len(data) == 120  # its header is fine
    with caplog.at_level(logging.WARNING, "moshi_agent.training"):
        drawn = [crop for step in range(6) for crop in data.batch(step, 20).codes]
    assert len(drawn) == 120
    assert list(data.problems.skipped) == [paths[77]]
    assert data.problems.report().startswith(f"1 file left out:\n  {paths[77]} ")
    assert [record.message for record in caplog.records if "077.flac" in record.message]
    kept = {tuple(codes.flatten().tolist()) for codes in drawn}
    for number in (0, 76, 78, 119):
        assert tuple(data[number].codes.flatten().tolist()) in kept


def test_a_resumed_run_with_a_corrupt_file_draws_the_same(tmp_path: Path) -> None:
    paths = [write_conversation(tmp_path / f"{number}.wav", seconds=0.4) for number in range(6)]
    samples = sf.read(paths[2], dtype="float32")[0]
    samples[3000] = np.nan
    sf.write(paths[2], samples, 24_000, subtype="FLOAT")
    manifest = write_listing(tmp_path, paths, seconds=0.4)
    whole = _open(manifest)
    expected = [whole.batch(step, 2).codes for step in range(9)]
    resumed = _open(manifest)
    assert all(torch.equal(resumed.batch(step, 2).codes, expected[step]) for step in range(5, 9))


def _no_sidecar(path: Path) -> None:
    path.with_suffix(".json").unlink()


def _outside(path: Path) -> None:
    path.with_suffix(".json").write_text('{"alignments": [["late", [99.0, 99.5], "SPEAKER_MAIN"]]}')


def _mono(path: Path) -> None:
    sf.write(path, np.zeros(24_000), 24_000)


def _truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20_000])


def _text(path: Path) -> None:
    path.write_text("not audio at all")


def _gone(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_no_sidecar, "there is no .*b.json"),
        (_outside, "alignment 1: 'late' .* outside its file of 2.00 s"),
        (_mono, "1 channel; needed are two"),
        (_truncated, "truncated"),
        (_text, "cannot be read as audio"),
        (_gone, "there is no file"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_on_opening(tmp_path: Path, harm, said: str) -> None:
    paths = [write_conversation(tmp_path / name) for name in ("a.wav", "b.wav")]
    harm(paths[1])
    data = _open(write_listing(tmp_path, paths))
    assert len(data) == 2
    ((path, reason),) = data.problems.skipped.items()
    assert path == paths[1]
    assert re.search(said, reason), reason


def test_a_duration_that_lies_is_named_and_the_true_one_used(tmp_path: Path) -> None:
    data = _open(write_listing(tmp_path, [write_conversation(tmp_path / "a.wav")], seconds=60.0))
    assert len(data) == 2
    assert data.problems.noted == {tmp_path / "a.wav": "listed with 60.00 s, used for the 2.00 s it has"}
    assert "1 file used with a remark" in data.problems.report()


def test_no_usable_file_is_an_error_that_says_why(tmp_path: Path) -> None:
    path = write_conversation(tmp_path / "a.wav")
    manifest = write_listing(tmp_path, [path])
    _no_sidecar(path)
    with pytest.raises(DataError, match=r"(?s)no recording that can be used.*a\.wav: there is no"):
        _open(manifest)
    path = write_conversation(tmp_path / "a.flac")
    manifest = write_listing(tmp_path, [path])
    content = bytearray(path.read_bytes())
    content[len(content) // 2 :] = b"x" * (len(content) - len(content) // 2)
    path.write_bytes(content)
    for use in (lambda data: data.batch(0, 1), lambda data: data.prepare()):
        with pytest.raises(DataError, match="no recording that can be used"):
            use(_open(manifest))


def test_settings_that_mean_nothing_are_refused() -> None:
    for wrong in ({"duration_s": 0}, {"seed": -1}, {"crowded": "push"}, {"encoding": "fast"}):
        with pytest.raises(ConfigError, match=str(next(iter(wrong)))):
            StereoConfig(**wrong)


def test_a_conversation_that_greets_begins_with_the_token_for_it(manifest: Path) -> None:
    sidecar = manifest.parent / "calls" / "a.json"
    sidecar.write_text(json.dumps({**json.loads(sidecar.read_text()), "greets": True}))
    data = _open(manifest)
    assert data[0].codes[0, 0] == data.config.text_begin
    assert all(data[index].codes[0, 0] != data.config.text_begin for index in (1, 2))
