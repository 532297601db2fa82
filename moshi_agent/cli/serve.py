"""`moshi-agent serve`: the options. The server is an adapter, which is imported when it is to run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moshi_agent.cli.adapters import load_adapter
from moshi_agent.cli.delegation_options import DELEGATION, delegation_options
from moshi_agent.cli.options import (
    cuda_graphs_option,
    dtype_option,
    kv_cache_option,
    lora_option,
    model_option,
    threads_option,
)
from moshi_agent.cli.replica_options import replica_options, replicas_of
from moshi_agent.cli.serve_limits import LIMITS, WEBRTC_LIMITS, limit_options
from moshi_agent.cli.whole_text import WholeText

_ELSEWHERE = ("gradio_tunnel", "tunnel_token", "on_ray")  # options that are none of the server's
_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command()
@model_option
@lora_option
@click.option(
    "--transcribe",
    metavar="REPO|FOLDER|NAME",
    help="What writes down what callers say: a model such as kyutai/stt-1b-en_fr, or whisper[:MODEL], "
    "pocketsphinx, MODULE:NAME or FILE.py:NAME.",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@threads_option
@dtype_option
@kv_cache_option
@cuda_graphs_option
@click.option("--capacity", type=click.IntRange(1, 4096), default=8, show_default=True, help="Calls at once.")
@click.option(
    "--overcommit", is_flag=True, help="Take so many calls even if a measured step is too slow for them."
)
@click.option(
    "--hang-seconds",
    "hang_s",
    type=click.FloatRange(1, 86_400),
    default=30.0,
    show_default=True,
    help="An engine that answers nothing for so long is started again.",
)
@click.option("--no-process", is_flag=True, help="Run the engine in the server's own process.")
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8998, show_default=True)
@click.option(
    "--token",
    "tokens",
    multiple=True,
    envvar="MOSHI_AGENT_TOKEN",
    type=WholeText(),
    help="A secret that every client has to bring. Needed for any host but this machine; may be repeated.",
)
@click.option("--token-file", type=_FILE, help="A file with one token on each line.")
@click.option("--insecure-no-auth", is_flag=True, help="Let everybody in, on any host.")
@click.option(
    "--allow-origin", "origins", multiple=True, metavar="URL", help="A web page elsewhere that may connect."
)
@click.option("--ssl-cert", type=_FILE, help="A certificate for TLS, and those above it.")
@click.option("--ssl-key", type=_FILE, help="Its key.")
@click.option("--ssl-self-signed", is_flag=True, help="Make a certificate, about which browsers warn.")
@click.option("--trust-proxy", "proxies", metavar="ADDRESS", help="Believe this proxy who its clients are.")
@click.option(
    "--ice-server",
    "ice_servers",
    multiple=True,
    envvar="MOSHI_AGENT_ICE_SERVER",
    type=WholeText(),
    metavar="URL[,USERNAME,CREDENTIAL]",
    help="A STUN or TURN server for WebRTC, which callers learn with its credential; may be repeated.",
)
@limit_options
@click.option(
    "--webrtc-private-candidates/--no-webrtc-private-candidates",
    "webrtc_private_candidates",
    default=None,
    help="Send packets to private addresses that callers name. [default: to those who call from one]",
)
@click.option("--voices", type=_FOLDER, help="A folder of voices for callers to choose from.")
@click.option("--roles", is_flag=True, help="The model takes roles and voices, though it is no PersonaPlex.")
@click.option("--voice", metavar="NAME", help="Of callers who choose none.")
@click.option("--role", metavar="TEXT", help="What the bot is to be for callers who do not say.")
@click.option("--greet", is_flag=True, help="The bot speaks first, if the model was trained so.")
@click.option("--say-commentary", is_flag=True, help="Speak GPT-Live's commentary, word by word.")
@click.option(
    "--record",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write every call into this folder: sound, words, events. Callers' consent is up to you.",
)
@delegation_options
@replica_options
@click.option("--gradio-tunnel", "--tunnel", is_flag=True, hidden=True)
@click.option("--gradio-tunnel-token", "tunnel_token", hidden=True)
@click.option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"], case_sensitive=False),
    default="warning",
    show_default=True,
    help="What to log, on stderr: info has a line for each call that ends.",
)
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Lines for people, or a JSON object a line for programs.",
)
@click.pass_context
def serve(context: click.Context, gradio_tunnel: bool, tunnel_token: str | None, **options: Any) -> None:
    """Serve a model to many callers at once, each a conversation of its own.

    Speaks Kyutai's websocket protocol at /api/chat and OpenAI's GPT-Live at /v1/live/sessions. Talk to it
    with `moshi-agent talk`. A model for speech recognition, such as kyutai/stt-1b-en_fr, writes down what it
    is sent, at /v1/audio/transcriptions and /v1/realtime.
    """
    if gradio_tunnel or tunnel_token is not None:
        raise click.ClickException(_no_tunnel(options["port"]))
    asked, replicas = asked_for(context)
    if replicas is None:
        load_adapter("server.command", "server").serve(asked)
    else:
        load_adapter("ray.command", "ray").serve(asked, replicas)


def asked_for(context: click.Context) -> tuple[Any, Any]:
    """Returns the `Serve` of the parsed options, and the `Replicas` of it, None where it is to be one server.

    Args:
        context: of this command.
    """
    options = {name: value for name, value in context.params.items() if name not in _ELSEWHERE}
    replicas = replicas_of(context, options)
    return _server(**options), replicas


def _server(model: str, token_file: Path | None, no_process: bool, **options: Any) -> Any:
    """The `Serve` of these options."""
    command = load_adapter("server.command", "server")
    tokens = options.pop("tokens") + (command.read_tokens(token_file) if token_file else ())
    names = ("host", "port", "origins", "voice", "role", "greet", "say_commentary", *DELEGATION)
    backend = command.backend(*(options.pop(f"backend_{name}") for name in ("url", "model", "key")))
    options["personas"] = options.pop("roles") or None
    config = command.ServerConfig(
        model_name=Path(model).name if Path(model).is_dir() else model,
        tokens=tokens,
        no_auth=options.pop("insecure_no_auth"),
        ice_servers=command.ice_servers(options.pop("ice_servers")),
        webrtc=_webrtc(command, options),
        backend=backend,
        look_up=command.look_up(options.pop("look_up")),
        **{limit.field: options.pop(limit.field) for limit in LIMITS},
        **{name: options.pop(name) for name in names},
    )
    return command.Serve(model=model, server=config, process=not no_process, **options)


def _webrtc(command: Any, options: dict[str, Any]) -> Any:
    """The `ConnectionConfig` of these options, which it takes out of them."""
    fields = ["private_candidates", *(limit.field for limit in WEBRTC_LIMITS)]
    return command.webrtc_limits(**{field: options.pop(f"webrtc_{field}") for field in fields})


def _no_tunnel(port: int) -> str:
    """What Kyutai's own server has an option for."""
    return (
        "this server opens no tunnel; accepted: to run one beside it, such as `cloudflared tunnel --url "
        f"http://localhost:{port}` or `ngrok http {port}`, and to give the server a --token"
    )
