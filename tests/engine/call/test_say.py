"""Sentences that the bot was asked to speak."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moshi_agent.engine.call.say import GuidedText, SayQueue
from moshi_agent.errors import BacklogFull, InputError
from moshi_agent.text.pieces import Tokenizer
from moshi_agent.text.sentences import words_to_say
from moshi_agent.training.tiny.phrases import load_phrases
from moshi_agent.training.tiny.tokenizer import word_pieces
from tests.text_tokenizers import END_OF_PADDING, PADDING, byte_tokenizer, shipped_tokenizer

SENTENCE = "My name is Moshi, and I am a tiny talking model."


def guided_text(text: str, tokenizer: Tokenizer | None = None, **patience: Any) -> GuidedText:
    """A sentence in the pieces of a tokenizer, by default the built-in model's."""
    return GuidedText(text, words_to_say(tokenizer or shipped_tokenizer(), text), **patience)


def spoken(guided: GuidedText) -> list[int]:
    """The tokens of a model that takes every piece at once."""
    tokens: list[int] = []
    while not guided.done:
        tokens.append(guided.next_piece)
        guided.advance(tokens[-1])
    return tokens


@pytest.mark.parametrize("text", load_phrases().spoken)
def test_the_pieces_are_those_the_model_was_trained_on(text: str) -> None:
    pieces = word_pieces(shipped_tokenizer(), text)
    assert spoken(guided_text(text)) == [piece for word in pieces for piece in word]


def test_whitespace_only_parts_words() -> None:
    """Line ends and tabs are no text, though the tokenizer has no pieces for them."""
    plain = spoken(guided_text("hello there"))
    assert spoken(guided_text("\n hello\t\nthere  ")) == plain


def test_characters_without_a_piece_are_said_in_bytes() -> None:
    tokens = spoken(guided_text("the \u20acuro", byte_tokenizer()))
    assert byte_tokenizer().decode(tokens) == "the \u20acuro"


@pytest.mark.parametrize("text", ["", " \n", "\u2581"])
def test_an_empty_sentence_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="empty"):
        guided_text(text)


@pytest.mark.parametrize(
    ("text", "named"), [("I say \u4f60\u597d today", "'\u4f60\u597d'"), ("one \ud800 two", r"'\\ud800'")]
)
def test_a_word_without_pieces_is_refused_by_name(text: str, named: str) -> None:
    with pytest.raises(InputError, match=named):
        guided_text(text)


def test_a_checkpoint_without_tokenizer_is_refused() -> None:
    with pytest.raises(InputError, match="no tokenizer"):
        words_to_say(None, SENTENCE)


def test_a_piece_is_forced_when_patience_ends() -> None:
    """Padding and end of padding are waiting; other patience for the first word than for the next."""
    guided = guided_text("the the the", patience_frames=3, first_patience_frames=5)
    waited: list[int] = []
    while not guided.done:
        waited.append(0)
        while not guided.must:
            guided.advance(PADDING if waited[-1] % 2 else END_OF_PADDING)
            waited[-1] += 1
        guided.advance(guided.next_piece)
    assert waited == [5, 3, 3]
    assert not guided.must


def test_a_word_that_has_begun_is_not_left_hanging() -> None:
    """Its pieces are forced one after the other, as they stand in what models are trained on."""
    guided = guided_text("hello the")
    pieces = word_pieces(shipped_tokenizer(), "hello the")
    assert len(pieces[0]) > 1
    forced: list[bool] = []
    while not guided.done:
        forced.append(guided.must)
        guided.advance(guided.next_piece)
    assert forced == [piece > 0 for word in pieces for piece in range(len(word))]


def test_without_patience_every_piece_is_forced() -> None:
    guided = guided_text(SENTENCE, patience_frames=0, first_patience_frames=0)
    while not guided.done:
        assert guided.must
        guided.advance(guided.next_piece)


def test_a_forced_piece_that_is_not_taken_is_still_forced() -> None:
    """Forcing goes by what comes out of the model, so that no piece is skipped."""
    guided = guided_text("the", first_patience_frames=1)
    piece = guided.next_piece
    for _ in range(5):
        guided.advance(PADDING)
        assert guided.must and guided.next_piece == piece
    guided.advance(piece)
    assert guided.done


def test_tokens_after_the_end_change_nothing() -> None:
    guided = guided_text("the")
    guided.advance(guided.next_piece)
    guided.advance(PADDING)
    assert guided.done and not guided.must and len(guided) == 0


def test_sentences_follow_one_another() -> None:
    """The second one begins when the first is done, and each is told once."""
    queue = SayQueue(shipped_tokenizer())
    assert queue.current is None and queue.advance(PADDING) is None
    sentences, tokens, done = ["Hello there.", SENTENCE], [], []
    for sentence in sentences:
        queue.add(sentence)
    while queue.current is not None:
        for token in (PADDING, queue.current.next_piece):
            tokens.append(token)
            done.append(queue.advance(token))
    assert [sentence for sentence in done if sentence] == sentences and len(queue) == 0
    assert [token for token in tokens if token != PADDING] == [
        token for sentence in sentences for token in spoken(guided_text(sentence))
    ]


def test_a_word_of_its_own_comes_to_its_end_first() -> None:
    """At the next padding the sentence is due; one who never pauses is not waited for."""
    tokenizer = shipped_tokenizer()
    (piece, *_) = tokenizer.encode("Moshi")
    for pieces, pause in ((2, True), (30, False)):
        queue = SayQueue(tokenizer)
        for _ in range(pieces):
            assert queue.advance(piece) is None
        queue.add("the")
        if pause:
            assert queue.current is None and len(queue) == 1
            queue = _restored(queue)
            assert queue.advance(piece) is None and queue.current is None
            assert queue.advance(PADDING) is None
        assert queue.current is not None
        assert queue.advance(queue.current.next_piece) == "the"


def _restored(queue: SayQueue) -> SayQueue:
    restored = SayQueue(shipped_tokenizer())
    restored.load(json.loads(json.dumps(queue.save())))
    return restored


def test_a_refused_sentence_leaves_the_queue_as_it_was() -> None:
    """Whether it cannot be said or would make too much wait; room comes back as pieces are taken."""
    queue = SayQueue(shipped_tokenizer(), most_pieces=3)
    queue.add("the the")
    with pytest.raises(InputError):
        queue.add("na\u00efve")
    with pytest.raises(BacklogFull, match="7 characters of text to say; accepted: 5 at once"):
        queue.add("the the")
    queue = SayQueue(shipped_tokenizer(), most_pieces=4)
    queue.add("the the")
    with pytest.raises(BacklogFull, match="3 pieces of text to say, and 2 wait already; at most 4"):
        queue.add("a a a")
    assert len(queue) == 1 and queue.current is not None
    queue.advance(queue.current.next_piece)
    queue.add("the the")
    assert len(queue) == 2


def test_a_text_that_has_no_room_is_refused_before_it_is_tokenised() -> None:
    tokenised: list[str] = []

    class Listening:
        def __getattr__(self, name: str) -> Any:
            return getattr(shipped_tokenizer(), name)

        def encode(self, input: str) -> Any:
            tokenised.append(input)
            return shipped_tokenizer().encode(input)

    queue = SayQueue(Listening())
    with pytest.raises(BacklogFull, match="16320 characters"):
        queue.add("the " * 4080)
    assert not tokenised
    queue.add("the the")
    assert tokenised


@given(st.lists(st.sampled_from(["piece", "padding"]), max_size=40), st.integers(0, 40))
def test_a_queue_restored_from_json_goes_on(acts: list[str], pause: int) -> None:
    """At any place of any sentence, with the patience it has left."""
    whole, resumed = SayQueue(shipped_tokenizer()), SayQueue(shipped_tokenizer())
    for queue in (whole, resumed):
        queue.add(SENTENCE)
        queue.add("Hello there.")
    for number, act in enumerate(acts):
        if number == pause:
            saved = json.loads(json.dumps(resumed.save()))
            resumed = SayQueue(shipped_tokenizer())
            resumed.load(saved)
        assert whole.save() == resumed.save()
        current, other = whole.current, resumed.current
        if current is None or other is None:
            assert current is other
            break
        assert (current.must, current.next_piece) == (other.must, other.next_piece)
        token = current.next_piece if act == "piece" else PADDING
        assert whole.advance(token) == resumed.advance(token)
