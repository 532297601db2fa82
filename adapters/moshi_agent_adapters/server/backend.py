"""The language model behind the server: any endpoint that speaks OpenAI's Chat Completions."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from moshi_agent.errors import ConfigError
from moshi_agent.events import ReferenceWanted
from moshi_agent_adapters.protocols.json_events import Json
from moshi_agent_adapters.protocols.live_responses import (
    SPOKEN,
    BackendFailed,
    Completion,
    FunctionCall,
    chat_message,
)

if TYPE_CHECKING:
    from openai.types.chat import ChatCompletion

_log = logging.getLogger("moshi_agent.server")
_LONGEST_MESSAGE = 300  # characters, of an error of the endpoint's
_MOST_CALLS = 32  # of tools, in one response


@dataclass(frozen=True, kw_only=True)
class BackendConfig:
    """Says where the language model is."""

    url: str  # such as http://localhost:11434/v1
    model: str
    key: str = field(default="none", repr=False)
    request_s: float = 30.0  # for one completion, after which it counts as failed

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"the back end {self.url!r}; accepted: a URL like http://localhost:11434/v1")
        if not self.model:
            raise ConfigError("a back end without a model; accepted: its name there (--backend-model)")
        if not self.request_s > 0:
            raise ConfigError(f"request_s={self.request_s}; accepted: more than 0")


class Backend:
    """Completes conversations over HTTP.

    Raises:
        ConfigError: the package `openai` is missing.
    """

    def __init__(self, config: BackendConfig) -> None:
        try:
            import openai
        except ImportError as error:
            message = "a back end needs the package openai; accepted: pip install 'moshi-agent[backend]'"
            raise ConfigError(message) from error
        self._openai = openai
        self._config = config
        # Who waits is on the telephone: one more try, and no longer than the time of one.
        self._client = openai.AsyncOpenAI(
            base_url=config.url, api_key=config.key, timeout=config.request_s, max_retries=1
        )

    @property
    def name(self) -> str:
        """Returns the model's name there."""
        return self._config.model

    async def complete(self, messages: list[Json], settings: Mapping[str, Any]) -> Completion:
        """Answers messages in the form of Chat Completions. Raises BackendFailed."""
        request: Any = {"model": self.name, "messages": messages, **_options(settings)}
        try:
            return _completion(await self._client.chat.completions.create(**request))
        except self._openai.APITimeoutError as error:
            raise BackendFailed(f"no answer within {self._config.request_s:g} s") from error
        except self._openai.OpenAIError as error:
            raise BackendFailed(str(error)[:_LONGEST_MESSAGE]) from error
        except (AttributeError, IndexError, TypeError, ValueError) as error:
            raise BackendFailed(f"its answer is no chat completion: {error}"[:_LONGEST_MESSAGE]) from error

    async def look_up(self, wanted: ReferenceWanted) -> str | None:
        """Answers what was said in a conversation, without tools; None where it cannot."""
        said = [chat_message(turn) for turn in wanted.turns if turn.text]
        try:
            completion = await self.complete([{"role": "system", "content": SPOKEN}, *said], {})
        except BackendFailed as error:
            _log.warning("the back end has no answer: %s", error)
            return None
        return completion.text or None

    async def aclose(self) -> None:
        """Closes its connections."""
        await self._client.close()


def _options(settings: Mapping[str, Any]) -> Json:
    """What Responses and Chat Completions say in different words; other settings have no effect."""
    options: Json = {}
    tools = [
        {"type": "function", "function": {name: value for name, value in tool.items() if name != "type"}}
        for tool in settings.get("tools", ())
    ]
    if tools:
        options["tools"] = tools
        choice = settings.get("tool_choice", "auto")
        if isinstance(choice, dict):
            choice = {"type": "function", "function": {"name": choice.get("name")}}
        options["tool_choice"] = choice
        if "parallel_tool_calls" in settings:
            options["parallel_tool_calls"] = settings["parallel_tool_calls"]
    if "max_output_tokens" in settings:
        options["max_tokens"] = settings["max_output_tokens"]
    return options


def _completion(answer: ChatCompletion) -> Completion:
    message, usage = answer.choices[0].message, answer.usage
    calls = [
        FunctionCall(call.id, call.function.name, call.function.arguments or "{}")
        for call in message.tool_calls or ()
        if call.type == "function"
    ]
    return Completion(
        text=(message.content or "").strip(),
        calls=tuple(calls[:_MOST_CALLS]),
        input_tokens=usage.prompt_tokens if usage else 0,
        output_tokens=usage.completion_tokens if usage else 0,
    )
