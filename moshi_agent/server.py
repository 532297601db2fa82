"""`python -m moshi_agent.server`: `moshi-agent serve` by the options of Kyutai's server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from moshi_agent.cli.command_line import SingleCommand
from moshi_agent.cli.kyutai_files import GivenFiles, as_model, file_options
from moshi_agent.cli.serve import serve

_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.command(cls=SingleCommand, context_settings={"help_option_names": ["-h", "--help"]})
@file_options
@click.option("--lora-weight", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--host", default="localhost", show_default=True)
@click.option("--port", type=click.IntRange(0, 65_535), default=8998, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--cfg-coef", type=click.FloatRange(0, 100), help="Classifier-free guidance; 1 is none.")
@click.option("--ssl", type=_FOLDER, help="A folder with key.pem and cert.pem: https instead of http.")
@click.option("--no_fuse_lora", is_flag=True, help="Changes nothing: updates are added to the weights.")
@click.option("--half", is_flag=True, help="Refused: a GPU computes in bfloat16, a CPU in float32.")
@click.option("--static", metavar="FOLDER", help="Refused: the web page is a part of the server.")
@click.option("--gradio-tunnel", is_flag=True, help="Refused: cloudflared and ngrok open tunnels.")
@click.option("--gradio-tunnel-token", metavar="TOKEN", help="Refused, likewise.")
def main(
    lora_weight: Path | None,
    host: str,
    port: int,
    device: str,
    cfg_coef: float | None,
    ssl: Path | None,
    no_fuse_lora: bool,
    half: bool,
    static: str | None,
    gradio_tunnel: bool,
    gradio_tunnel_token: str | None,
    **files: Any,
) -> None:
    """Serve Moshi to a browser and to `python -m moshi_agent.client`.

    The options are those of Kyutai's server. `moshi-agent serve` has more: tokens, limits, and so on.
    What it takes from the environment (MOSHI_AGENT_TOKEN) works here, too.
    """
    _refuse(half, static, gradio_tunnel or gradio_tunnel_token is not None, port)
    arguments = ["--host", host, "--port", str(port), "--device", device]
    if lora_weight is not None:
        arguments += ["--lora", str(lora_weight)]
    if ssl is not None:
        arguments += ["--ssl-key", str(ssl / "key.pem"), "--ssl-cert", str(ssl / "cert.pem")]
    with as_model(GivenFiles(**files), cfg_coef) as model:
        serve.main(["--model", model, *arguments], prog_name="moshi-agent serve", standalone_mode=False)


def _refuse(half: bool, static: str | None, tunnel: bool, port: int) -> None:
    """Raises UsageError for what cannot be done any more; says what does it."""
    if half:
        raise click.UsageError("--half: a GPU computes in bfloat16 here, and a CPU in float32; leave it out")
    if static not in (None, "none"):
        raise click.UsageError(
            "--static: the web page is a part of the server; serve yours from anywhere, and let it connect "
            "with `moshi-agent serve --allow-origin URL`"
        )
    if tunnel:
        raise click.UsageError(
            "--gradio-tunnel: no tunnel is opened here; start the server with a secret in MOSHI_AGENT_TOKEN, "
            f"then run `cloudflared tunnel --url http://localhost:{port}` or `ngrok http {port}`"
        )


if __name__ == "__main__":
    main(prog_name="moshi_agent.server")
