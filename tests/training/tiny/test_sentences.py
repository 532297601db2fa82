"""The sentences that the model does not know."""

from __future__ import annotations

from moshi_agent.training.tiny.held_out_sentences import HELD_OUT_SENTENCES
from moshi_agent.training.tiny.phrases import load_phrases, plain
from moshi_agent.training.tiny.sentences import grammar_words, unknown_sentences

# Words that carry no topic; a held-out sentence cannot do without them.
FUNCTION_WORDS = (
    "a an the i my your our us me you he she they we this that there is are was were do does did has have "
    "had can could would will shall what which who where when why how in on at to of from for with under by "
    "than and or not no any some so too again please put make makes let lets whats theres id give"
)


def test_sentences_are_many_and_the_same_for_the_same_seed() -> None:
    """Thousands of different sentences; a seed decides which."""
    sentences = unknown_sentences(4000, 1)
    assert len({plain(sentence) for sentence in sentences}) == 4000
    assert sentences[:50] == unknown_sentences(50, 1)
    assert sentences[:50] != unknown_sentences(50, 2)
    assert not any("{" in sentence for sentence in sentences)


def test_no_unknown_sentence_is_a_known_question_or_held_out() -> None:
    """What gets the default answer in training is neither known nor kept for measuring."""
    made = {plain(sentence) for sentence in unknown_sentences(6000, 3)}
    known = {plain(exchange.question) for exchange in load_phrases().exchanges}
    held_out = {plain(sentence) for sentence in HELD_OUT_SENTENCES}
    assert not made & known
    assert not made & held_out
    assert not held_out & known


def test_held_out_sentences_use_other_words() -> None:
    """48 held-out sentences, and of their topic words at least three in four are not in the grammar."""
    words = {word for sentence in HELD_OUT_SENTENCES for word in plain(sentence).split()}
    words -= set(FUNCTION_WORDS.split())
    assert len(set(HELD_OUT_SENTENCES)) == 48
    assert len(words - grammar_words()) / len(words) >= 0.75


def test_known_questions_are_short_and_different() -> None:
    """At least 24 exchanges with different questions of two to eight words and different answers."""
    exchanges = load_phrases().exchanges
    assert len({plain(exchange.question) for exchange in exchanges}) == len(exchanges) >= 24
    assert len({exchange.answer for exchange in exchanges}) == len(exchanges)
    assert all(2 <= len(exchange.question.split()) <= 8 for exchange in exchanges)
