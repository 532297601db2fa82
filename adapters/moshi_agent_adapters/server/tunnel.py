"""A public address for a server on this machine, through Gradio's relay."""

from __future__ import annotations

import importlib
import inspect
import secrets

from moshi_agent.errors import ConfigError

WARNING = (
    "The tunnel makes this server reachable for everybody on the internet who knows the address, through a "
    "relay of Gradio's that carries all of it: audio, text and tokens."
)


def open_tunnel(port: int) -> str:
    """The public URL of a port of this machine, as long as this process runs.

    Raises:
        ConfigError: Gradio is not installed, or its relay cannot be reached.
    """
    try:
        networking = importlib.import_module("gradio.networking")
    except ImportError as error:
        raise ConfigError("a tunnel needs the package gradio: pip install gradio") from error
    arguments: dict[str, object] = {}
    if "share_server_tls_certificate" in inspect.signature(networking.setup_tunnel).parameters:
        arguments["share_server_tls_certificate"] = None
    try:
        return str(networking.setup_tunnel("localhost", port, secrets.token_urlsafe(32), None, **arguments))
    except Exception as error:  # of any kind: this is another project's program
        raise ConfigError(f"the tunnel cannot be opened: {error}") from error
