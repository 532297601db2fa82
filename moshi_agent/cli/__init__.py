"""The `moshi-agent` command. One sub-command per file; none of them loads torch before it has work to do."""

from __future__ import annotations

import click

from moshi_agent._version import __version__
from moshi_agent.cli.annotate import annotate
from moshi_agent.cli.bench import bench
from moshi_agent.cli.command_line import CommandLine
from moshi_agent.cli.convert import convert
from moshi_agent.cli.doctor import doctor
from moshi_agent.cli.download import download
from moshi_agent.cli.evaluate import evaluate
from moshi_agent.cli.questions import questions
from moshi_agent.cli.run import run
from moshi_agent.cli.serve import serve
from moshi_agent.cli.talk import talk
from moshi_agent.cli.train import train
from moshi_agent.cli.transcribe import transcribe


@click.group(cls=CommandLine, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="moshi-agent")
def main() -> None:
    """Moshi, the full-duplex speech model: talk to it, serve it, fetch its weights, measure it, train it."""


_COMMANDS = (
    run,
    questions,
    transcribe,
    serve,
    talk,
    download,
    convert,
    bench,
    doctor,
    evaluate,
    annotate,
    train,
)
for command in _COMMANDS:
    main.add_command(command)
