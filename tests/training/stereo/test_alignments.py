"""The words beside a conversation: what is written is read, and what is outside the audio is refused."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.errors import DataError, OutputError
from moshi_agent.training.stereo.alignments import Alignment, read_sidecar, sidecar_path, write_sidecar


def _write(folder: Path, content: object) -> Path:
    path = folder / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_the_words_are_beside_the_audio() -> None:
    assert sidecar_path(Path("calls/a.b.wav")) == Path("calls/a.b.json")


def test_words_are_read_in_the_order_of_their_start(tmp_path: Path) -> None:
    rows = [["world", [1, 1.5], "SPEAKER_MAIN"], ["hello", [0.5, 0.9], "USER"]]
    sidecar = read_sidecar(
        _write(tmp_path, {"alignments": rows, "text_conditions": {"description": "calm"}}), 2.0
    )
    assert sidecar.alignments == (Alignment("hello", 0.5, 0.9, "USER"), Alignment("world", 1.0, 1.5))
    assert sidecar.text_conditions == {"description": "calm"}


@pytest.mark.parametrize(
    "times", [[2.0, 2.1], [9.0, 9.5], [-0.1, 0.5], [1.5, 2.6], [float("nan"), 1.0], [0.0, float("inf")]]
)
def test_a_word_outside_its_file_is_named(tmp_path: Path, times: list[float]) -> None:
    path = _write(
        tmp_path, {"alignments": [["fine", [0.1, 0.2], "SPEAKER_MAIN"], ["lost", times, "SPEAKER_MAIN"]]}
    )
    with pytest.raises(DataError, match=r"a\.json, alignment 2: 'lost' .*outside its file of 2\.00 s"):
        read_sidecar(path, 2.0)


def test_a_last_word_may_seem_to_end_just_after_its_file(tmp_path: Path) -> None:
    path = _write(tmp_path, {"alignments": [["bye", [1.8, 2.3], "SPEAKER_MAIN"]]})
    assert read_sidecar(path, 2.0).alignments[0].end_s == 2.3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "no JSON"),
        ('{"alignments": [', "no JSON"),
        ("[" * 100_000, "no JSON"),
        ([], "wanted is"),
        ({"words": []}, "wanted is"),
        ({"alignments": {}}, "wanted is"),
        ({"alignments": ["hello"]}, "alignment 1"),
        ({"alignments": [["hello", 0.5, "SPEAKER_MAIN"]]}, "alignment 1"),
        ({"alignments": [["hello", [0.5], "SPEAKER_MAIN"]]}, "alignment 1"),
        ({"alignments": [["hello", ["0.5", "1"], "SPEAKER_MAIN"]]}, "alignment 1"),
        ({"alignments": [["hello", [0.5, 0.9], None]]}, "alignment 1"),
        ({"alignments": [], "text_conditions": "calm"}, "text_conditions"),
        ({"alignments": [], "text_conditions": {"description": 3}}, "text_conditions"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, content: object, said: str) -> None:
    with pytest.raises(DataError, match=rf"(?s)a\.json.*{said}"):
        read_sidecar(_write(tmp_path, content), 2.0)


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="moshi-agent annotate"):
        read_sidecar(tmp_path / "a.json", 2.0)


TIMES = st.integers(0, 5000).map(lambda ms: ms / 1000)
WORDS = st.lists(
    st.builds(Alignment, st.text(max_size=10), TIMES, TIMES, st.text(min_size=1, max_size=5)), max_size=8
)


@given(WORDS, st.none() | st.dictionaries(st.text(max_size=3), st.text(max_size=3)), st.booleans())
def test_what_is_written_is_read_back(
    tmp_path_factory: pytest.TempPathFactory,
    words: list[Alignment],
    conditions: dict[str, str] | None,
    greets: bool,
) -> None:
    path = tmp_path_factory.getbasetemp() / "written.json"
    write_sidecar(path, words, conditions, greets=greets)
    sidecar = read_sidecar(path, 6.0)
    assert list(sidecar.alignments) == sorted(words, key=lambda word: word.start_s)
    assert (sidecar.text_conditions, sidecar.greets) == (conditions, greets)


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["alignments", "text_conditions", "greets"]), inner)
    ),
    max_leaves=12,
)


@given(JSON)
def test_any_json_is_words_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, content: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    path.write_text(json.dumps(content))
    try:
        read_sidecar(path, 1.0)
    except DataError as error:
        assert "any.json" in str(error)


def test_a_full_disk_leaves_the_words_of_before(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_sidecar(path, [Alignment("before", 0.1, 0.2)])
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.json"):
            write_sidecar(path, [Alignment("much", 0.1, 0.2)] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
