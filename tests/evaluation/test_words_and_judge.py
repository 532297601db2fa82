"""Words as files, and a judge that answers badly."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moshi_agent.errors import DataError
from moshi_agent.evaluation.judge import Judge
from moshi_agent.evaluation.words import SpokenWord, read_words, write_words
from tests.evaluation.judge_server import judge_server

RATED = "Fine.\nI would rate the AI's response as 4"


def test_words_are_read_as_they_were_written(tmp_path: Path) -> None:
    words = [SpokenWord("Hello,", 0.4, 0.8), SpokenWord("you", 0.8, None)]
    write_words(tmp_path / "output.json", words)
    assert read_words(tmp_path / "output.json") == words
    assert json.loads((tmp_path / "output.json").read_text())["text"] == "Hello, you"


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"chunks": 1}', '{"chunks": [{"text": "a"}]}', '{"chunks": ["a"]}']
)
def test_other_words_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "output.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"output\.json"):
        read_words(path)


def test_a_word_without_a_start_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "output.json"
    path.write_text(
        '{"text": "a b", "chunks": [{"text": "a", "timestamp": [null, null]}, '
        '{"text": "b", "timestamp": [1, 2]}]}'
    )
    assert read_words(path) == [SpokenWord("b", 1.0, 2.0)]


def test_a_judge_that_rambles_is_asked_again() -> None:
    with judge_server("Well, well.", RATED) as server:
        assert Judge(url=server.url, model="m").rating("a", "b", "c") == (4, "Fine.")
    seeds = [asked["seed"] for _, _, asked in server.asked]
    assert seeds == [0, 1]
    assert {path for path, _, _ in server.asked} == {"/v1/chat/completions"}


@pytest.mark.parametrize(
    ("told", "said"),
    [((None,), "refuses: 503"), (("?",) * 3, "gives no rating"), (("",) * 3, "gives no rating")],
)
def test_a_judge_that_fails_is_named(told: tuple[str | None, ...], said: str) -> None:
    with judge_server(*told) as server, pytest.raises(DataError, match=said):
        Judge(url=server.url, model="m").rating("a", "b", "c")


def test_a_judge_that_is_not_there_is_named() -> None:
    with judge_server() as server:
        pass
    with pytest.raises(DataError, match="gives no answer"):
        Judge(url=server.url, model="m").behavior({})
