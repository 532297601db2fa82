"""Work beside the steps: on a stream of its own, waited for before anybody reads what came of it."""

from __future__ import annotations

from contextlib import nullcontext
from unittest import mock

import numpy as np
import pytest
import torch

from moshi_agent.engine.prompt.prompt import PromptSource, compile_prompt
from moshi_agent.nn.side_stream import side_stream
from tests.engine.step.test_runners import _checkpoint


def test_elsewhere_than_on_cuda_nothing_is_different() -> None:
    with (
        mock.patch.object(torch.cuda, "Stream", side_effect=AssertionError),
        side_stream(torch.device("cpu")),
    ):
        assert torch.ones(2).sum() == 2


@pytest.mark.parametrize("fails", [False, True])
def test_what_is_asked_for_waits_for_what_was_and_is_waited_for(fails: bool) -> None:
    calls = mock.Mock()
    calls.stream.return_value = calls.device.return_value = nullcontext()
    names = {name: getattr(calls, name) for name in ("Stream", "stream", "device", "current_stream")}
    with (
        mock.patch.multiple(torch.cuda, **names),
        pytest.raises(ValueError, match="of its own") if fails else nullcontext(),
        side_stream(torch.device("cuda", 1)),
    ):
        calls.work()
        if fails:
            raise ValueError("of its own")
    made = [name for name, *_ in calls.mock_calls]
    wanted = ["device", "Stream", "current_stream", "Stream().wait_stream", "stream", "work"]
    assert made == [*wanted, *([] if fails else ["Stream().synchronize"])]
    assert calls.Stream.call_args == mock.call(torch.device("cuda", 1), priority=0)


def test_a_prompt_is_encoded_there() -> None:
    """Its tokens are those of the codec."""
    checkpoint = _checkpoint()
    audio = np.random.default_rng(0).normal(0, 0.1, 5_000).astype(np.float32)
    with mock.patch("moshi_agent.engine.prompt.prompt.side_stream") as aside:
        prompt = compile_prompt(PromptSource(audio=audio), checkpoint)
    assert aside.call_args == mock.call(torch.device("cpu"))
    codes = checkpoint.mimi.encode(torch.from_numpy(audio)[None, None])[0].numpy()
    np.testing.assert_array_equal(prompt.tokens[:, 1], codes[0])
