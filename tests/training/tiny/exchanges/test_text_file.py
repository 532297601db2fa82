"""Exchanges as somebody writes them down."""

from __future__ import annotations

from pathlib import Path

import pytest

from moshi_agent.errors import DataError
from moshi_agent.training.tiny.exchanges.text_file import extended, read_exchanges
from moshi_agent.training.tiny.phrases import Exchange, load_phrases
from moshi_agent.training.tiny.tokenizer import load_tokenizer

CAFE = Path(__file__).parents[4] / "examples" / "cafe.txt"


def _file(folder: Path, text: str) -> Path:
    path = folder / "exchanges.txt"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_line_is_a_question_and_its_answer(tmp_path: Path) -> None:
    """Comments and empty lines are passed over, and a question without a mark gets one."""
    path = _file(tmp_path, "# a comment\n\n May I sit here | Please do. \nTell me more! | Gladly.\n")
    assert read_exchanges(path) == (
        Exchange(question="May I sit here?", answer="Please do."),
        Exchange(question="Tell me more!", answer="Gladly."),
    )


def test_two_questions_may_have_one_answer(tmp_path: Path) -> None:
    """Which is how other words for the same thing are taught."""
    path = _file(tmp_path, "Are you open? | We are.\nIs it open? | We are.\n")
    assert len(read_exchanges(path)) == 2


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line"),
        ("# only a comment\n", "no line"),
        ("A? | B.\nWhat is this?\n", "line 2.*wanted"),
        ("What is this? |\n", "wanted"),
        ("| This.\n", "wanted"),
        ("?! | This.\n", "wanted"),
        ("What? | This. | That.\n", "wanted"),
        ("What is it? | This.\nwhat is it | That.\n", "line 2.*already"),
    ],
)
def test_a_line_of_another_form_is_named(tmp_path: Path, text: str, said: str) -> None:
    """With its number and what is wanted."""
    with pytest.raises(DataError, match=said):
        read_exchanges(_file(tmp_path, text))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    """And so is one that is no text."""
    with pytest.raises(DataError, match=r"nothing\.txt"):
        read_exchanges(tmp_path / "nothing.txt")
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00 | \xff")
    with pytest.raises(DataError, match="cannot be read"):
        read_exchanges(tmp_path / "binary.txt")


def test_the_example_has_ten_exchanges_that_tiny_can_learn() -> None:
    """They come behind those that it knows, and are none of them."""
    old, new = load_phrases(), read_exchanges(CAFE)
    phrases = extended(old, new, load_tokenizer())
    assert len(new) == 10
    assert phrases.exchanges == (*old.exchanges, *new)
    assert (phrases.greeting, phrases.default) == (old.greeting, old.default)


def test_what_the_model_knows_or_cannot_write_is_refused() -> None:
    """Before any speech is made."""
    old, tokenizer = load_phrases(), load_tokenizer()
    with pytest.raises(DataError, match="own exchanges"):
        extended(old, (Exchange(question="tell me a joke?", answer="No."),), tokenizer)
    with pytest.raises(DataError, match=r"'café,' .* cannot write"):
        extended(old, (Exchange(question="Where?", answer="In the café, of course."),), tokenizer)
