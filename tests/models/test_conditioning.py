"""Which conditions a conversation is under."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from moshi_agent.config import ConditionerConfig, FuserConfig
from moshi_agent.errors import InputError
from moshi_agent.models.conditioning import Condition, choose_conditions
from moshi_agent.models.guidance import split_conditions
from moshi_agent.models.lm import Conditions, LMModel
from moshi_agent.nn.attention import CrossAttention, CrossSource
from moshi_agent.nn.conditioners import ConditionAttributes, TensorCondition
from tests.small_models import small_lm, small_lm_config

GRADES = ("very_bad", "bad", "neutral", "good", "very_good")


def _model(*conditioners: ConditionerConfig, cross: tuple[str, ...] = ()) -> LMModel:
    """A model with these conditions, summed unless they are attended to."""
    torch.manual_seed(1)
    summed = tuple(one.name for one in conditioners if one.name not in cross)
    config = small_lm_config()
    temporal = replace(config.temporal, cross_attention=bool(cross))
    fuser = FuserConfig(sum=summed, cross=cross)
    model = LMModel(replace(config, temporal=temporal, conditioners=conditioners, fuser=fuser))
    model.init_weights()
    return model.eval()


def _description() -> ConditionerConfig:
    return ConditionerConfig(name="description", kind="lut", dim=4, n_bins=9, possible_values=GRADES)


def _hibiki() -> LMModel:
    return _model(_description())


def _speech_synthesizer() -> LMModel:
    """The kinds of conditions that Kyutai's speech synthesis has."""
    strength = ConditionerConfig(name="cfg", kind="lut", dim=4, n_bins=9, possible_values=("1.0", "2.0"))
    voice = ConditionerConfig(name="speaker_wavs", kind="tensor", dim=5)
    return _model(strength, voice, cross=("speaker_wavs",))


def test_a_translation_model_is_told_what_it_was_released_with() -> None:
    model = _hibiki()
    assert model.condition_provider is not None
    wanted = [ConditionAttributes(text={"description": grade}) for grade in ("very_good", "very_bad")]
    theirs = model.condition_provider.prepare_and_provide(wanted)
    ours = choose_conditions(model, "hibiki", guided=True)
    assert ours is not None
    assert torch.equal(ours["description"].condition, theirs["description"].condition)
    alone = choose_conditions(model, "hibiki")
    assert alone is not None
    assert torch.allclose(alone["description"].condition, theirs["description"].condition[:1])


def test_the_callers_condition_goes_before_the_released_one() -> None:
    model = _hibiki()
    given, released = (choose_conditions(model, "hibiki", one) for one in ({"description": "bad"}, {}))
    assert given is not None and released is not None
    assert not torch.equal(given["description"].condition, released["description"].condition)


def test_a_model_without_conditions_has_none() -> None:
    assert choose_conditions(small_lm()) is None


def test_guidance_moves_away_from_no_voice_and_no_value() -> None:
    """Where a model was released with nothing, its unwanted half is told nothing."""
    model, voice = _speech_synthesizer(), torch.randn(1, 3, 5)
    assert model.condition_provider is not None
    given = {"cfg": "2.0", "speaker_wavs": TensorCondition.from_tensor(voice)}
    chosen = choose_conditions(model, "tts", given, guided=True)
    assert chosen is not None
    strength, speaker = chosen["cfg"], chosen["speaker_wavs"]
    assert strength.mask.tolist() == [[True], [False]]
    assert speaker.mask.tolist() == [[True] * 3, [False] * 3]
    padding = model.condition_provider.conditioners["speaker_wavs"].learnt_padding
    assert torch.equal(speaker.condition[1], padding[0].expand(3, -1))  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, r"needs conditions: cfg \(1\.0, 2\.0\); speaker_wavs \(a tensor \[1, T, 5\]\)"),
        ({"cfg": "1.0", "speaker_wavs": "anna"}, "accepted: TensorCondition"),
        ({"cfg": "9.0", "speaker_wavs": None}, "accepted: 1.0, 2.0"),
        ({"cfg": "1.0", "speaker_wavs": None, "mood": "sad"}, "no condition mood; the model has: cfg, speak"),
    ],
)
def test_what_does_not_fit_is_named(given: dict[str, Condition], message: str) -> None:
    with pytest.raises(InputError, match=message):
        choose_conditions(_speech_synthesizer(), "tts", given)


def test_a_text_condition_takes_no_tensor() -> None:
    with pytest.raises(InputError, match="accepted: text"):
        choose_conditions(
            _hibiki(), "hibiki", {"description": TensorCondition.from_tensor(torch.zeros(1, 1, 4))}
        )


def test_guidance_needs_conditions() -> None:
    with pytest.raises(InputError, match="without conditions"):
        choose_conditions(small_lm(), "hibiki", guided=True)


def test_what_is_attended_to_is_projected_once_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    """By each layer, for each half of guided rows; and in every call where gradients may be wanted."""
    model = _speech_synthesizer()
    layers = len(model.transformer.layers)
    counts: list[int] = []
    project = CrossAttention.project

    def counted(layer: CrossAttention, source: Tensor) -> Tensor:
        counts.append(len(source))
        return project(layer, source)

    monkeypatch.setattr(CrossAttention, "project", counted)
    source, tokens = torch.randn(2, 5, 16), torch.randint(0, 30, (2, 5, 6))
    halves = split_conditions(Conditions(cross=CrossSource(source)))
    with torch.no_grad():
        for conditions, row in zip(halves, source, strict=True):
            known, anew = model.init_state(2), model.init_state(2)
            counts.clear()
            for step in range(6):
                now = tokens[:, :, step, None]
                got = model.temporal(now, known, conditions=conditions)[1]
                wanted = model.temporal(now, anew, conditions=Conditions(cross=CrossSource(row[None])))[1]
                assert torch.equal(got, wanted)
            assert counts == [1] * (layers * 7)  # of which one conversation needs one for each layer
    counts.clear()
    for _ in range(2):
        model.temporal(tokens, conditions=halves[0])[1].sum().backward()
    assert len(counts) == 2 * layers
