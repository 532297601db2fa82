"""`moshi-agent run`: what it writes and says, and what it refuses.

The model here answers each frame with what it heard in the frame before, so that the output can be told
exactly. The built-in model has the last tests.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile as sf
from click.testing import CliRunner, Result

from moshi_agent import cli
from moshi_agent.audio.files import read_audio
from moshi_agent.cli import answering, main
from moshi_agent.errors import CheckpointError
from moshi_agent.questions import sample_questions
from moshi_agent.text.word_tracker import TimedWord
from tests.translation_model import write_translation_checkpoint

ASSETS = Path(cli.__file__).parents[1] / "assets"


class Echo:
    """A conversation in which the bot says what the caller said one frame before."""

    text = "Hello caller."
    words = (TimedWord("Hello", 0.08, 0.4), TimedWord("caller.", 0.4, 0.8))
    translates = False

    def __init__(self, fail_at: int | None = None, error: BaseException | None = None) -> None:
        self.fail_at = fail_at
        self.error = error
        self._number = 0
        self._before = np.zeros(1920, np.float32)

    def step(self, frame: np.ndarray) -> SimpleNamespace:
        if self._number == self.fail_at and self.error is not None:
            raise self.error
        assert frame.shape == (1920,)
        said, self._before = self._before, frame
        self._number += 1
        return SimpleNamespace(frame=self._number - 1, audio=said, text="", step_ms=float(self._number))


@pytest.fixture
def echo(monkeypatch: pytest.MonkeyPatch) -> list[answering.Run]:
    """Puts the echo in the model's place, and collects the runs that it was asked for."""
    runs: list[answering.Run] = []

    def open_conversation(run: answering.Run) -> Echo:
        runs.append(run)
        return Echo()

    monkeypatch.setattr(answering, "open_conversation", open_conversation)
    monkeypatch.setattr("moshi_agent.checkpoint.recogniser.is_recogniser", lambda model: False)
    return runs


@pytest.fixture
def question(tmp_path: Path) -> Path:
    """A second and a bit of sound: 16 whole frames need a 17th for the rest."""
    path = tmp_path / "question.wav"
    samples = np.random.default_rng(0).integers(-8000, 8000, 16 * 1920 + 100).astype(np.int16)
    sf.write(path, samples, 24_000)
    return path


def _run(*args: object) -> Result:
    return CliRunner().invoke(main, ["run", *map(str, args)])


def test_the_answer_is_as_long_as_the_question_and_its_tail(
    question: Path, tmp_path: Path, echo: list
) -> None:
    result = _run(question, "--out", tmp_path / "answer.wav", "--tail", "0.5")
    assert result.exit_code == 0, result.output
    heard, said = read_audio(question), read_audio(tmp_path / "answer.wav")
    assert len(said) == len(heard) + 12_000
    assert np.array_equal(said[1920 : 1920 + len(heard)], heard)


def test_stereo_has_the_caller_left_and_the_bot_right(question: Path, tmp_path: Path, echo: list) -> None:
    assert _run(question, "--out", tmp_path / "answer.wav", "--stereo", "--tail", "0").exit_code == 0
    samples, rate_hz = sf.read(tmp_path / "answer.wav", dtype="float32")
    assert rate_hz == 24_000
    assert np.array_equal(samples[:, 0], read_audio(question))
    assert np.array_equal(samples[1920:, 1], samples[:-1920, 0])


def test_the_text_file_has_the_words_their_times_and_the_figures(
    question: Path, tmp_path: Path, echo: list
) -> None:
    path = tmp_path / "answer.json"
    args = ("--out", tmp_path / "a.wav", "--text", path, "--tail", "0", "--seed", "7", "--greedy")
    assert _run(question, *args).exit_code == 0
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["text"] == "Hello caller."
    assert content["words"] == [
        {"word": "Hello", "start": 0.08, "end": 0.4},
        {"word": "caller.", "start": 0.4, "end": 0.8},
    ]
    figures = content["figures"]
    assert (figures["frames"], figures["model"], figures["seed"], figures["greedy"]) == (17, "tiny", 7, True)
    assert figures["step_ms_median"] == 9.0  # the echo's steps take 1 to 17 ms
    assert 16 < figures["step_ms_p99"] < 17
    assert figures["real_time_factor"] == pytest.approx(9 / 80, abs=1e-4)


def test_it_ends_with_the_text_and_a_line_of_figures(question: Path, tmp_path: Path, echo: list) -> None:
    lines = _run(question, "--out", tmp_path / "a.wav", "--tail", "0").stdout.splitlines()
    assert lines[0] == "Hello caller."
    assert lines[-1] == "17 frames, step 9.0 ms median, 16.8 ms p99, real-time factor 0.113"


def test_the_options_reach_the_model(question: Path, tmp_path: Path, echo: list[answering.Run]) -> None:
    _run(question, "--out", tmp_path / "a.wav", "--model", "some/repo", "--greedy", "--seed", "3")
    assert (echo[0].model, echo[0].device, echo[0].greedy, echo[0].seed) == ("some/repo", "cpu", True, 3)
    assert (echo[0].cfg_coef, echo[0].conditions) == (None, {})


def test_guidance_and_conditions_reach_the_model(question: Path, tmp_path: Path, echo: list) -> None:
    conditions = ("--condition", "description=good", "--condition", "mood=so=so")
    result = _run(question, "--out", tmp_path / "a.wav", "--cfg-coef", "3", *conditions)
    assert result.exit_code == 0, result.output
    assert echo[0].cfg_coef == 3.0
    assert echo[0].conditions == {"description": "good", "mood": "so=so"}


def test_live_takes_as_long_as_the_speech(question: Path, tmp_path: Path, echo: list) -> None:
    start = time.monotonic()
    assert _run(question, "--out", tmp_path / "a.wav", "--tail", "0", "--live").exit_code == 0
    assert time.monotonic() - start >= 17 * 0.08


def _wav(path: Path, samples: np.ndarray) -> None:
    sf.write(path, samples, 24_000, subtype="FLOAT")


def _truncated(path: Path) -> None:
    _wav(path, np.zeros(4800))
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.write_text("a letter to the editor"), "cannot be read as audio"),
        (lambda path: path.touch(), "is empty"),
        (lambda path: None, "there is no file"),
        (lambda path: path.mkdir(), "is no file"),
        (_truncated, "truncated"),
        (lambda path: _wav(path, np.full(4800, np.nan)), "no finite number"),
        (lambda path: _wav(path, np.zeros(0)), "no audio in it"),
    ],
)
def test_a_bad_question_is_one_line_and_leaves_no_file(
    tmp_path: Path, echo: list, make, message: str
) -> None:
    path = tmp_path / "in" / "question.wav"
    path.parent.mkdir()
    make(path)
    result = _run(path, "--out", tmp_path / "answer.wav", "--text", tmp_path / "answer.json")
    _assert_one_line(result, 1, message)
    assert "question.wav" in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["in"]
    assert echo == []


@pytest.mark.parametrize("option", ["--out", "--text"])
@pytest.mark.parametrize(
    ("target", "message"), [("missing/answer", "there is no folder"), (".", "it is a folder")]
)
def test_an_unwritable_output_shows_before_the_model_is_loaded(
    question: Path, tmp_path: Path, echo: list, option: str, target: str, message: str
) -> None:
    args = {"--out": tmp_path / "answer.wav", option: tmp_path / target}
    result = _run(question, *(part for pair in args.items() for part in pair))
    _assert_one_line(result, 1, message)
    assert [entry.name for entry in tmp_path.iterdir()] == ["question.wav"]
    assert echo == []


@pytest.mark.parametrize(
    "error", [CheckpointError("the weights are gone"), KeyboardInterrupt(), ValueError()]
)
def test_whatever_happens_on_the_way_leaves_no_file(
    question: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    monkeypatch.setattr(answering, "open_conversation", lambda run: Echo(fail_at=5, error=error))
    result = _run(question, "--out", tmp_path / "answer.wav", "--text", tmp_path / "answer.json")
    assert result.exit_code == (130 if isinstance(error, KeyboardInterrupt) else 1)
    assert [entry.name for entry in tmp_path.iterdir()] == ["question.wav"]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--tail", "-1"),
        ("--tail", "nan"),
        ("--tail", "inf"),
        ("--tail", "soon"),
        ("--seed", "-1"),
        ("--seed", "1.5"),
        ("--seed", str(2**63)),
        ("--device", "toaster"),
        ("--cfg-coef", "nan"),
        ("--cfg-coef", "-1"),
        ("--condition", "description"),
        ("--condition", "=good"),
        ("--condition", "description="),
    ],
)
def test_a_wrong_value_is_one_line_that_names_option_and_value(
    question: Path, tmp_path: Path, echo: list, option: str, value: str
) -> None:
    result = _run(question, "--out", tmp_path / "answer.wav", option, value)
    _assert_one_line(result, 2, option)
    assert value in result.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["question.wav"]


def test_the_question_is_not_replaced_by_its_answer(question: Path, echo: list) -> None:
    before = question.read_bytes()
    _assert_one_line(_run(question, "--out", question), 2, "must be different files")
    assert question.read_bytes() == before


def test_a_file_and_a_sample_question_at_once_are_refused(question: Path, echo: list) -> None:
    _assert_one_line(_run(question, "--question", "1"), 2, "one question at a time")


def test_a_condition_is_given_once(question: Path, echo: list) -> None:
    twice = ("--condition", "mood=sad", "--condition", "mood=merry")
    _assert_one_line(_run(question, *twice), 2, "once for each name")


@pytest.fixture
def hibiki(tmp_path: Path) -> Path:
    """A model that translates, with weights that mean nothing; it draws its tokens."""
    return write_translation_checkpoint(tmp_path / "models" / "hibiki", {"lm_gen_config": {}})


def test_a_translation_is_written_with_its_source_beside_it(hibiki: Path, tmp_path: Path) -> None:
    """From an mp3, to the end of the tail where the model does not end by itself."""
    speech = (0.1 * np.random.default_rng(0).standard_normal(8 * 1920 + 100)).astype(np.float32)
    source, out = tmp_path / "speech.mp3", tmp_path / "a.wav"
    sf.write(source, speech, 24_000)
    result = _run(source, "--model", hibiki, "--out", out, "--stereo", "--tail", "0.1", "--seed", "1")
    assert result.exit_code == 0, result.output
    assert "Cut off: the translation went on for more than 0.1 s" in result.stderr
    heard = read_audio(source)
    samples, _ = sf.read(out, dtype="float32")
    assert len(samples) == len(heard) + 2400
    np.testing.assert_allclose(samples[: len(heard), 0], heard, atol=1e-4)
    assert not samples[len(heard) :, 0].any()
    assert samples[:, 1].any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--condition", "mood=sad"), "no condition mood; the model has: description"),
        (("--condition", "description=fair"), "accepted: very_bad, bad, neutral, good, very_good"),
    ],
)
def test_conditions_that_the_model_has_not_are_one_line(
    question: Path, hibiki: Path, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    result = _run(question, "--model", hibiki, "--out", tmp_path / "a.wav", *options)
    _assert_one_line(result, 1, message)
    assert not (tmp_path / "a.wav").exists()


def test_a_model_without_conditions_is_not_guided(question: Path, tmp_path: Path) -> None:
    result = _run(question, "--out", tmp_path / "a.wav", "--cfg-coef", "2")
    _assert_one_line(result, 1, "without conditions")


def _assert_one_line(result: Result, exit_code: int, message: str) -> None:
    assert result.exit_code == exit_code, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert message in result.stderr
    assert result.stdout == ""


def test_the_questions_are_listed_by_number() -> None:
    lines = _run("--list-questions").stdout.splitlines()
    assert [line.split(maxsplit=1)[1] for line in lines] == [question.text for question in sample_questions()]


def test_without_a_file_the_first_sample_question_is_asked(tmp_path: Path, echo: list[answering.Run]) -> None:
    result = _run("--out", tmp_path / "answer.wav")
    assert result.exit_code == 0, result.output
    assert echo[0].question == sample_questions()[0].path


@pytest.mark.parametrize("number", [1, 2, 3])
def test_the_built_in_model_gives_the_right_answer(tmp_path: Path, number: int) -> None:
    exchanges = json.loads((ASSETS / "tiny" / "exchanges.json").read_text(encoding="utf-8"))
    answers = {exchange["question"]: exchange["answer"] for exchange in exchanges}
    result = _run(
        "--question", number, "--greedy", "--out", tmp_path / "a.wav", "--text", tmp_path / "a.json"
    )
    assert result.exit_code == 0, result.output
    content = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert content["text"] == answers[sample_questions()[number - 1].text]
    assert " ".join(word["word"] for word in content["words"]) == content["text"]
    said = read_audio(tmp_path / "a.wav")
    start, end = content["words"][0]["start"], content["words"][-1]["end"]
    assert abs(said[round(start * 24_000) : round(end * 24_000)]).max() > 0.05
