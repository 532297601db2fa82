"""The conditions of a conversation: what the caller says, and else what the model was released with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from moshi_agent.errors import InputError
from moshi_agent.models.generator import Generator
from moshi_agent.models.guidance import Guidance, split_conditions
from moshi_agent.models.lm import LMModel
from moshi_agent.nn.conditioners import (
    ConditionAttributes,
    Conditioner,
    ConditionTensors,
    LutConditioner,
    TensorCondition,
)

Condition = str | TensorCondition | None  # of a lookup table, of a tensor conditioner, or not given


@dataclass(frozen=True)
class _Released:
    """Conditions a kind of model is used with, and those that guidance moves away from."""

    wanted: Mapping[str, str] = field(default_factory=dict[str, str])
    unwanted: Mapping[str, str] = field(default_factory=dict[str, str])


# By the `model_type` of config.json. Hibiki was trained on translations graded by how alike the voices are.
_RELEASED = {"hibiki": _Released({"description": "very_good"}, {"description": "very_bad"})}
# MoshiRAG says nothing of its type. It is served with the model as the one who speaks first.
_OTHERS = _Released({"first_speaker": "SPEAKER_MAIN"})


@torch.no_grad()
def choose_conditions(
    model: LMModel,
    model_type: str = "moshi",
    given: Mapping[str, Condition] | None = None,
    guided: bool = False,
) -> ConditionTensors | None:
    """Chooses the conditions of one conversation, as `LMGen` takes them; None for a model without any.

    Args:
        model_type: as `config.json` says it; a translation model needs no conditions to be given.
        given: by the names of the model's conditioners.
        guided: adds the row that classifier-free guidance moves away from: what the model was released
            with, and no value where it was released with none.

    Raises:
        InputError: a condition that the model needs is not given, one that it has not is, or its value is
            none of those accepted; or guidance of a model without conditions.
    """
    given, provider = given or {}, model.condition_provider
    has = {} if provider is None else provider.whole
    unknown = sorted(set(given) - set(has))
    if unknown:
        raise InputError(f"no condition {', '.join(unknown)}; the model has: {', '.join(has) or 'none'}")
    if provider is None or not has:
        if guided:
            raise InputError("guidance (cfg_coef) of a model without conditions; accepted: cfg_coef 1")
        return None
    released = _RELEASED.get(model_type, _OTHERS)
    wanted = dict(released.wanted) | dict(given)
    missing = [_described(one) for name, one in has.items() if name not in wanted]
    if missing:
        raise InputError(f"the model needs conditions: {'; '.join(missing)}")
    rows = [{name: wanted[name] for name in has}]
    if guided:
        rows.append({name: released.unwanted.get(name) for name in has})
    return provider.prepare_and_provide([_attributes(has, row) for row in rows])


def conditioned_generator(
    model: LMModel, model_type: str, given: Mapping[str, Condition], cfg_coef: float, history: int = 0
) -> Generator:
    """Makes a generator with the same conditions in all rows, guided unless `cfg_coef` is 1.

    Args:
        history: as `Generator` has it.

    Raises:
        InputError: as `choose_conditions`.
    """
    guided = cfg_coef != 1.0
    conditions = model.fuse(choose_conditions(model, model_type, given, guided))
    if not guided:
        return Generator(model, conditions, history=history)
    wanted, unwanted = split_conditions(conditions)
    return Generator(model, wanted, Guidance(coef=cfg_coef, conditions=unwanted), history)


def _attributes(has: Mapping[str, Conditioner], values: Mapping[str, Condition]) -> ConditionAttributes:
    """Raises InputError for a text where a tensor is needed, or the other way round."""
    attributes = ConditionAttributes()
    for name, conditioner in has.items():
        value, takes_text = values[name], isinstance(conditioner, LutConditioner)
        if takes_text and (value is None or isinstance(value, str)):
            attributes.text[name] = value
        elif not takes_text and not isinstance(value, str):
            attributes.tensor[name] = value or _no_tensor(conditioner.config.dim)
        else:
            accepted = "text" if takes_text else "TensorCondition"
            raise InputError(f"condition {name!r} of type {type(value).__name__}; accepted: {accepted}")
    return attributes


def _no_tensor(dim: int) -> TensorCondition:
    """A tensor condition that is not given."""
    return TensorCondition(torch.zeros(1, 1, dim), torch.zeros(1, 1, dtype=torch.bool))


def _described(conditioner: Conditioner) -> str:
    config = conditioner.config
    if not isinstance(conditioner, LutConditioner):
        return f"{config.name} (a tensor [1, T, {config.dim}])"
    return f"{config.name} ({', '.join(config.possible_values or ('any text',))})"
