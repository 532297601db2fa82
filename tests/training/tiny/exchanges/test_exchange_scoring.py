"""The score of a fine-tuning, from answers whose worth is known."""

from __future__ import annotations

from moshi_agent.training.tiny.evaluation.scoring import AnswerScore, CallScore
from moshi_agent.training.tiny.exchanges.scoring import group_scores, score_table
from moshi_agent.training.tiny.phrases import Exchange, plain

NEW = (Exchange(question="May I bring my dog?", answer="You may."),)


def _answer(
    question: str | None, said: str, *, heard: str = "You may.", share: float = 1.0, known: bool = True
) -> AnswerScore:
    return AnswerScore(
        condition="clean",
        at_s=1.0,
        question=question,
        voice="flite kal",
        known=known,
        after_interruption=False,
        expected="You may.",
        said=said,
        heard=heard,
        text_right=plain(said) == plain("You may."),
        audio_right=False,
        delay_s=0.5,
        sound_s=1.0,
        sound_share=share,
        burst=False,
    )


def _call(*answers: AnswerScore) -> CallScore:
    return CallScore(
        condition="clean",
        answers=list(answers),
        interruptions=[],
        quiet_frames=10,
        quiet_kept=10,
        greeting_asked=False,
        spoke_first=False,
    )


def test_each_answer_counts_for_its_group() -> None:
    """A new question is known by its words, whatever its mark; greetings count for none."""
    calls = [
        _call(_answer(None, "Hello."), _answer("May I bring my dog.", "You may.")),
        _call(_answer("Tell me a joke.", "You may."), _answer("Who wrote Hamlet?", "no", known=False)),
    ]
    new, old, unknown = group_scores(calls, NEW)
    assert [(one.name, one.right.good, one.right.count) for one in (new, old, unknown)] == [
        ("new questions", 1, 1),
        ("old questions", 1, 1),
        ("unknown sentences", 0, 1),
    ]


def test_text_and_sound_have_both_to_be_right() -> None:
    """A sound that is too short, or another answer's, is wrong; that of the same words is right."""
    question = "May I bring my dog?"
    answers = [
        _answer(question, "you may"),
        _answer(question, "You may not."),
        _answer(question, "You may.", share=0.5),
        _answer(question, "You may.", heard="Never."),
    ]
    new = group_scores([_call(*answers)], NEW)[0]
    assert (new.text.good, new.sound.good, new.right.good, new.right.count) == (3, 2, 1, 4)


def test_the_table_has_a_line_for_each_group() -> None:
    """An empty group shows a dash."""
    table = score_table(group_scores([_call(_answer("May I bring my dog?", "You may."))], NEW))
    lines = table.splitlines()
    assert len(lines) == 4
    assert lines[0].split() == ["right", "right", "text", "right", "sound"]
    assert lines[1].startswith("new questions") and "100.0 % (1/1)" in lines[1]
    assert lines[2].split()[-1] == "-"
