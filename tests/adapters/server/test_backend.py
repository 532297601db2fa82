"""The server's client of a language model, against an endpoint of this machine."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

pytest.importorskip("openai", reason="the openai package is not installed")
pytest.importorskip("av", reason="needs the extra `server`: pip install moshi-agent[server]")

from moshi_agent import ConfigError
from moshi_agent_adapters.protocols.live_responses import BackendFailed, Completion
from moshi_agent_adapters.server.backend import Backend, BackendConfig
from tests.adapters.language_model import Answer, language_model

MESSAGES = [{"role": "user", "content": "Where is my order?"}]
TOOL = {"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}


def _complete(answer: Answer, request_s: float = 20.0, **settings: Any) -> tuple[Completion, dict[str, Any]]:
    async def ask(url: str) -> Completion:
        backend = Backend(BackendConfig(url=url, model="m", request_s=request_s))
        try:
            return await backend.complete(MESSAGES, settings)
        finally:
            await backend.aclose()

    with language_model(lambda body: answer) as endpoint:
        return asyncio.run(ask(endpoint.url)), endpoint.asked[0]


def test_a_text_comes_with_its_tokens() -> None:
    completion, asked = _complete(" It is here. ")
    assert completion == Completion("It is here.", (), 7, 3)
    assert asked == {"model": "m", "messages": MESSAGES}


def test_tools_of_responses_become_those_of_chat_completions() -> None:
    settings = {"tools": [TOOL], "tool_choice": {"type": "function", "name": "find"}, "max_output_tokens": 50}
    completion, asked = _complete(("find", {"order": 4}), **settings)
    assert [(call.name, call.arguments) for call in completion.calls] == [("find", '{"order": 4}')]
    function = {"name": "find", "parameters": TOOL["parameters"]}
    assert asked["tools"] == [{"type": "function", "function": function}]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "find"}}
    assert asked["max_tokens"] == 50


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (400, "out of order"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [{"message": null}]}', "no chat completion"),
        (b'"sorry"', "no chat completion"),
    ],
)
def test_an_endpoint_that_is_out_of_order_is_a_failure_that_says_so(answer: Answer, why: str) -> None:
    with pytest.raises(BackendFailed, match=why):
        _complete(answer)


def test_an_endpoint_that_hangs_is_given_up() -> None:
    with pytest.raises(BackendFailed, match=r"no answer within 0\.2 s"):
        _complete(30.0, request_s=0.2)


@pytest.mark.parametrize("changes", [{"url": "localhost:11434"}, {"model": ""}, {"request_s": 0}])
def test_a_back_end_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="accepted"):
        BackendConfig(**{"url": "http://localhost/v1", "model": "m"} | changes)


def test_a_key_is_not_shown() -> None:
    assert "secret" not in repr(BackendConfig(url="http://localhost/v1", model="m", key="secret"))
