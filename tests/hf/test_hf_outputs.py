"""Outputs by attribute, by key, by index, as a tuple and as keyword arguments."""

from __future__ import annotations

import pytest
import torch

from moshi_agent.hf.outputs import MoshiCausalLMOutputWithPast, MoshiUnconditionalInput


def test_fields_that_are_none_are_no_part_of_it() -> None:
    logits = torch.zeros(1, 2, 3)
    output = MoshiCausalLMOutputWithPast(logits=logits)
    assert list(output) == list(output.keys()) == ["logits"]
    assert output["logits"] is output[0] is output.logits is logits
    assert output.to_tuple() == output[:] == (logits,)
    assert output.loss is None and "loss" not in output and output.get("loss") is None
    assert len(output) == 1
    with pytest.raises(KeyError):
        output["loss"]


def test_it_can_be_spread_over_keyword_arguments() -> None:
    given = MoshiUnconditionalInput(input_ids=torch.ones(1, 1))
    assert dict(**given) == {"input_ids": given.input_ids}
