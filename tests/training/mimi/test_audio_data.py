"""The pieces that a codec hears: of any file, from anywhere in it, and the same every time."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

from moshi_agent import ConfigError, DataError
from moshi_agent.training.mimi.audio_data import BatchReader, DataConfig, Pieces, find_audio, open_data
from moshi_agent.training.stereo.problems import Problems
from tests.small_models import small_mimi_config
from tests.training.mimi.codec_material import write_recordings

SAMPLES = 4 * 1920


def pieces(folder: Path, problems: Problems | None = None) -> Pieces:
    problems = Problems() if problems is None else problems
    return Pieces(find_audio(folder, problems), SAMPLES, small_mimi_config(), problems)


def ramp(path: Path, seconds: float, rate_hz: int = 24_000, channels: int = 1) -> None:
    """Samples that tell their time: a second is 0.01."""
    time = np.arange(int(seconds * rate_hz)) / rate_hz * 0.01
    sf.write(path, np.stack([time] * channels, axis=1).astype(np.float32), rate_hz, subtype="FLOAT")


def test_a_piece_is_the_stretch_of_its_place(tmp_path: Path) -> None:
    ramp(tmp_path / "a.wav", 20)
    samples, place = pieces(tmp_path).draw(3)
    assert samples.shape == (SAMPLES,) and samples.dtype == np.float32
    assert 0 < place.start_s < 20 - SAMPLES / 24_000
    assert samples[100] == pytest.approx((place.start_s + 100 / 24_000) * 0.01, abs=1e-5)


@pytest.mark.parametrize(("rate_hz", "channels"), [(8_000, 1), (44_100, 2), (48_000, 1)])
def test_other_rates_and_channels_are_resampled_and_mixed(
    tmp_path: Path, rate_hz: int, channels: int
) -> None:
    ramp(tmp_path / "a.wav", 5, rate_hz, channels)
    samples, place = pieces(tmp_path).draw(1)
    assert len(samples) == SAMPLES
    middle = place.start_s + SAMPLES / 2 / 24_000
    assert samples[SAMPLES // 2] == pytest.approx(middle * 0.01, abs=2e-5)


def test_a_recording_shorter_than_a_piece_ends_in_silence(tmp_path: Path) -> None:
    ramp(tmp_path / "a.wav", 0.1)
    samples, place = pieces(tmp_path).draw(0)
    assert place.start_s == 0
    assert samples[2399] > 0 and not samples[2400:].any()


def test_every_second_is_as_likely_as_any_other(tmp_path: Path) -> None:
    """A recording nine times as long is drawn nine times as often."""
    ramp(tmp_path / "long.wav", 9)
    ramp(tmp_path / "short.wav", 1)
    drawn = pieces(tmp_path)
    counts = Counter(drawn.draw(index)[1].path.name for index in range(200))
    assert 165 <= counts["long.wav"] <= 195


def test_damaged_files_are_left_out_and_named(tmp_path: Path) -> None:
    """What the header shows at once, what shows only when it is read later; neither changes other pieces."""
    write_recordings(tmp_path, 3)
    before = pieces(tmp_path).batch(6, 0)
    (tmp_path / "broken.wav").write_bytes(b"RIFF and nothing else")
    (tmp_path / "empty.flac").write_bytes(b"")
    problems = Problems()
    after = pieces(tmp_path, problems).batch(6, 0)
    assert {path.name for path in problems.skipped} == {"broken.wav", "empty.flac"}
    assert [place.path for place in after.places] == [place.path for place in before.places]

    nan = np.full(48_000, np.nan, np.float32)
    sf.write(tmp_path / "tone_1.wav", nan, 24_000, subtype="FLOAT")
    late = Problems()
    names = {place.path.name for place in pieces(tmp_path, late).batch(20, 0).places}
    assert names == {"tone_0.wav", "tone_2.wav"}
    assert "tone_1.wav" in late.report() and "no finite number" in late.report()


def test_nothing_that_can_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no recording"):
        find_audio(tmp_path, Problems())
    with pytest.raises(DataError, match="there is no file or folder"):
        find_audio(tmp_path / "none", Problems())
    sf.write(tmp_path / "nan.wav", np.full(9000, np.nan, np.float32), 24_000, subtype="FLOAT")
    with pytest.raises(DataError, match=r"in a row cannot be read\n1 file left out:\n.*nan\.wav"):
        pieces(tmp_path).draw(0)


def test_a_manifest_lists_the_recordings(tmp_path: Path) -> None:
    write_recordings(tmp_path / "speech", 3)
    manifest = tmp_path / "list.jsonl"
    lines = [{"path": "speech/tone_0.wav", "duration": 1.5}, {"path": "speech/gone.wav"}]
    manifest.write_text("".join(json.dumps(line) + "\n" for line in lines))
    problems = Problems()
    files = find_audio(manifest, problems)
    assert [(file.path.name, file.duration_s) for file in files] == [("tone_0.wav", 1.5)]
    assert [path.name for path in problems.skipped] == ["gone.wav"]


def test_some_recordings_are_held_out_unless_others_are_named(tmp_path: Path) -> None:
    write_recordings(tmp_path / "a", 10)
    write_recordings(tmp_path / "b", 1)
    train, valid = open_data(DataConfig(train=tmp_path / "a", valid_share=0.3), Problems())
    assert len(valid) == 3 and len(train) == 7
    assert not {file.path for file in train} & {file.path for file in valid}
    assert (train, valid) == open_data(DataConfig(train=tmp_path / "a", valid_share=0.3), Problems())
    train, valid = open_data(DataConfig(train=tmp_path / "a", valid=tmp_path / "b"), Problems())
    assert (len(train), len(valid)) == (10, 1)
    with pytest.raises(DataError, match="one recording only"):
        open_data(DataConfig(train=tmp_path / "b"), Problems())
    with pytest.raises(ConfigError, match="valid_share=1"):
        DataConfig(train=tmp_path, valid_share=1.0)


def test_a_batch_follows_from_its_number_alone(tmp_path: Path) -> None:
    """Read ahead or out of order, by one thread or several."""
    drawn = pieces(write_recordings(tmp_path))
    ordered, jumping = BatchReader(drawn, 3, (5, 0), workers=2), BatchReader(drawn, 3, (5, 0), workers=1)
    other = BatchReader(drawn, 3, (5, 1), workers=1)
    first = [ordered.batch(number) for number in range(4)]
    for number in (3, 0, 2):
        assert jumping.batch(number).audio.equal(first[number].audio)
    assert not other.batch(0).audio.equal(first[0].audio)
    for reader in (ordered, jumping, other):
        reader.close()
