"""What clients wish for, against what a model takes."""

from __future__ import annotations

import pytest

from moshi_agent import InputError, SamplingConfig
from moshi_agent.engine.model_facts import ModelFacts
from moshi_agent_adapters.personas import choose_persona

VOICES = ("NATF0", "NATM1", "my.voice")


def model(takes_roles: bool = True) -> ModelFacts:
    return ModelFacts(
        name="persona",
        model_type="personaplex",
        sampling=SamplingConfig(),
        context_s=None,
        text_delay_s=0,
        kind="dialogue",
        takes_roles=takes_roles,
        voices=VOICES if takes_roles else (),
    )


@pytest.mark.parametrize("name", ["NATF0", "NATF0.pt", "NATF0.wav", "my.voice", "my.voice.pt"])
def test_a_voice_is_known_by_its_name_or_its_files(name: str) -> None:
    chosen = choose_persona(model(), "Be brief.", name)
    assert chosen.voice in VOICES and chosen.voice == name.removesuffix(".pt").removesuffix(".wav")
    assert (chosen.role, chosen.left_out) == ("Be brief.", None)


@pytest.mark.parametrize(
    "name", ["NATF9", "natf0", "../NATF0", "voices/NATF0.pt", "/etc/passwd", "", "NATF0.pt.pt"]
)
def test_no_other_name_is_a_voice(name: str) -> None:
    chosen = choose_persona(model(), None, name)
    assert chosen.voice is None
    assert chosen.left_out is not None and "there are: NATF0, NATM1, my.voice" in chosen.left_out


def test_a_model_that_takes_none_gets_none() -> None:
    for role, voice in (("Be brief.", None), (None, "NATF0")):
        chosen = choose_persona(model(takes_roles=False), role, voice)
        assert (chosen.role, chosen.voice) == (None, None)
        assert chosen.left_out is not None and "was not trained" in chosen.left_out
    assert choose_persona(model(takes_roles=False), None, None).left_out is None


def test_a_role_has_a_length() -> None:
    with pytest.raises(InputError, match="accepted: at most 4000"):
        choose_persona(model(), "x" * 4001, None)
