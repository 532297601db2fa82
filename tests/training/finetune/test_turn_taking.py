"""How a model in training takes turns."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch

from moshi_agent import Engine, SessionConfig, load_checkpoint
from moshi_agent.audio.files import read_audio
from moshi_agent.config import SamplingConfig
from moshi_agent.errors import DataError
from moshi_agent.evaluation.answering import answer_samples
from moshi_agent.evaluation.samples import Sample
from moshi_agent.evaluation.small_suite import make_small_suite
from moshi_agent.evaluation.words import read_words
from moshi_agent.training.finetune.run import finetune
from moshi_agent.training.finetune.turn_taking import answer
from tests.training.finetune.finetune_material import Echoes, configuration, metrics


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A turn and a pause of the small suite, each a second long, with an old output."""
    root = tmp_path_factory.mktemp("suite")
    make_small_suite(root / "whole")
    for task in ("smooth_turn_taking", "pause_handling"):
        shutil.move(root / "whole" / task / "0", root / "samples" / task / "0")
        path = root / "samples" / task / "0" / "input.wav"
        sf.write(path, sf.read(path)[0][:24_000], 24_000)
        sf.write(path.with_name("output.wav"), np.zeros(24_000), 24_000)
    return root / "samples"


def test_a_training_measures_turns_between_its_steps(checkpoint: Path, data: Path, tmp_path: Path) -> None:
    config = configuration(checkpoint, tmp_path / "run", max_steps=4, turns_freq=2, turns_data=data)
    path = finetune(config, train=Echoes())
    lines = metrics(config.run_dir, "turns")
    assert [line["step"] for line in lines] == [2, 4]
    assert {"pause_handling/take-over_rate", "smooth_turn_taking/take-over_rate"} <= set(lines[0])
    assert (config.run_dir / "turn_taking" / "step_000002.html").exists()
    answered = config.run_dir / "turn_taking" / "smooth_turn_taking" / "0"
    assert sf.info(answered / "output.wav").frames == 24_000
    assert not read_audio(data / "smooth_turn_taking" / "0" / "output.wav").any(), "the data stays as it is"
    # To measure changes nothing of the training.
    plain = finetune(configuration(checkpoint, tmp_path / "plain", max_steps=4), train=Echoes())
    assert path is not None and plain is not None
    weights = [torch.load(one / "training.pt", weights_only=True)["weights"] for one in (path, plain)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[1])


def test_samples_that_are_not_there_are_named_before_the_training(checkpoint: Path, tmp_path: Path) -> None:
    config = configuration(checkpoint, tmp_path / "run", turns_freq=2, turns_data=tmp_path)
    with pytest.raises(DataError, match="no samples in it"):
        finetune(config, train=Echoes())


def test_the_answer_is_that_of_an_engine(tmp_path: Path) -> None:
    """Greedy, the same words at the same times and the same sound, but for rounding."""
    make_small_suite(tmp_path)
    folder = tmp_path / "smooth_turn_taking" / "0"
    sampling = SessionConfig(sampling=SamplingConfig(greedy=True))
    with Engine.load("tiny", shared=False, capacity=1, admit_by_time=False) as engine:
        answer_samples(engine, [Sample(folder, "smooth_turn_taking")], sampling)
    checkpoint = dataclasses.replace(load_checkpoint("tiny"), lm_gen_config={"use_sampling": False})
    assert checkpoint.lm is not None
    [mine] = answer(
        checkpoint, checkpoint.lm, [read_audio(folder / "input.wav")], dtype=torch.float32, seed=0
    )
    theirs = read_words(folder / "output_monologue.json")
    assert theirs and [word.text for word in mine.words] == [word.text for word in theirs]
    assert [word.start_s for word in mine.words] == pytest.approx([word.start_s for word in theirs])
    assert np.corrcoef(mine.sound, read_audio(folder / "output.wav"))[0, 1] > 0.99
