"""References beside a conversation: KAME's file, and the stream that is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moshi_agent.errors import DataError
from moshi_agent.training.stereo.dataset import StereoConfig, StereoDataset
from moshi_agent.training.stereo.references import (
    Reference,
    ReferenceStream,
    read_references,
    references_path,
)
from tests.small_models import small_mimi
from tests.text_tokenizers import byte_tokenizer
from tests.training.stereo.conversations_on_disk import write_conversation, write_listing

INITIAL, PADDING, RATE = 300, 3, 12.5

# As KAME's tools write them, with all of their keys.
KAME: list[dict[str, Any]] = [
    {
        "timestamp_ms": 500,
        "conversation_context": "B: where is my",
        "prediction": "hello",
        "total_word_count": 3,
        "trigger_word": "my",
        "recent_words": "where is my",
        "current_spoken_ratio": 0.5,
        "channel": 0,
        "hint": "the mat",
    },
    {
        "timestamp_ms": 1500,
        "prediction": "soon",
        "current_spoken_ratio": 1.0,
        "channel": 0,
        "hint": "the cat ",
    },
    {"timestamp_ms": 700, "prediction": "what the user says", "channel": 1},
    {"timestamp_ms": 900, "prediction": " ", "channel": 0},
]


def write_references(audio: Path, entries: object) -> Path:
    path = references_path(audio)
    path.write_text(json.dumps(entries))
    return path


def stream() -> ReferenceStream:
    return ReferenceStream(tokenizer=byte_tokenizer(), frame_rate_hz=RATE, initial=INITIAL, padding=PADDING)


def test_a_file_of_kames_tools_is_read_as_it_is(tmp_path: Path) -> None:
    """The answer that was really given, where all was said before it; nothing of the other side."""
    path = write_references(tmp_path / "call.wav", KAME)
    assert path.name == "call.references.json"
    assert read_references(path, 2.0) == (Reference("hello", 0.5), Reference("the cat", 1.5))
    assert read_references(tmp_path / "none.references.json") == ()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": 1}, "is no list; wanted is"),
        (["hello"], "entry 1: 'hello'; wanted is"),
        ([{"timestamp_ms": 1, "prediction": "a"}, {"timestamp_ms": "1", "prediction": "a"}], "entry 2: "),
        ([{"timestamp_ms": 1}], "entry 1: "),
        ([{"timestamp_ms": 2000, "prediction": "late"}], r"2\.00 s is outside its file of 2\.00 s"),
        ([{"timestamp_ms": -1, "prediction": "early"}], "outside"),
    ],
)
def test_another_form_is_refused_with_the_place(tmp_path: Path, content: object, message: str) -> None:
    path = write_references(tmp_path / "call.wav", content)
    with pytest.raises(DataError, match=message):
        read_references(path, 2.0)


def test_a_reference_is_a_token_a_frame_until_the_next_replaces_it() -> None:
    tokenizer = byte_tokenizer()
    long, short = tokenizer.encode("hello there zebra"), tokenizer.encode("cat")
    assert len(long) > 3
    given = [Reference("hello  there zebra", 0.24), Reference("cat", 0.48)]
    wanted = [PADDING] * 3 + [INITIAL, *long[:2]] + [INITIAL, *short]
    assert stream().tokens(given, 0, 30) == wanted + [PADDING] * (30 - len(wanted))


def test_a_crop_has_what_the_whole_has_there() -> None:
    """Also in the middle of a reference that began before it, or was over."""
    given = [Reference("hello there you", 0.4), Reference("the cat sat on the mat", 1.0)]
    whole = stream().tokens(given, 0, 40)
    for first in range(30):
        assert stream().tokens(given, first, 10) == whole[first : first + 10]


def test_a_data_set_gives_them_beside_the_codes(tmp_path: Path) -> None:
    """A recording without any is one in which nothing is found; a damaged file is named and left out."""
    paths = [write_conversation(tmp_path / f"call{number}.wav") for number in range(3)]
    write_references(paths[0], [{"timestamp_ms": 960, "prediction": "the cat"}])
    write_references(paths[2], [{"timestamp_ms": 960}])
    manifest = write_listing(tmp_path, paths)
    config = StereoConfig(duration_s=2.0, text_initial=INITIAL)
    data = StereoDataset(manifest, byte_tokenizer(), small_mimi(), config)
    assert list(data.problems.skipped) == [paths[2]]
    (batch,) = data.in_order(4)
    assert batch.references is not None and batch.references.shape == (2, 25)
    assert batch.references[0].tolist() == stream().tokens([Reference("the cat", 0.96)], 0, 25)
    assert batch.references[1].tolist() == [PADDING] * 25
    (plain,) = StereoDataset(manifest, byte_tokenizer(), small_mimi(), StereoConfig(duration_s=2.0)).in_order(
        4
    )
    assert plain.references is None


def test_references_that_are_nowhere_are_an_error(tmp_path: Path) -> None:
    manifest = write_listing(tmp_path, [write_conversation(tmp_path / "call.wav")])
    with pytest.raises(DataError, match=r"not one recording has references.*call\.references\.json"):
        StereoDataset(manifest, byte_tokenizer(), small_mimi(), StereoConfig(text_initial=INITIAL))
