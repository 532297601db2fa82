"""`python -m moshi_agent.training.tiny.evaluation`: plays the calls, prints the table, writes the details."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TypedDict, Unpack

import click
import numpy as np
import torch

from moshi_agent.checkpoint.load import load_checkpoint
from moshi_agent.engine.engine import Engine
from moshi_agent.errors import MoshiAgentError
from moshi_agent.outputs import naming, whole_file
from moshi_agent.training.tiny.evaluation.artefacts import artefact_report
from moshi_agent.training.tiny.evaluation.ear import (
    BUNDLED,
    Spoken,
    ear_report,
    listen,
    open_ear,
    through_codec,
)
from moshi_agent.training.tiny.evaluation.failures import by_voice, failures, wrong_texts
from moshi_agent.training.tiny.evaluation.line import CONDITIONS
from moshi_agent.training.tiny.evaluation.material import Material, open_material
from moshi_agent.training.tiny.evaluation.report import Measure, measures, summary, table, timing
from moshi_agent.training.tiny.evaluation.run import Settings, evaluate, tokenizer_of
from moshi_agent.training.tiny.evaluation.say_accuracy import SayScore, report, score, tell
from moshi_agent.training.tiny.evaluation.scoring import CallScore
from moshi_agent.training.tiny.phrases import load_phrases

NAMES = [condition.name for condition in CONDITIONS]
_PATH = click.Path(path_type=Path)


class _Numbers(TypedDict):
    """What click passes for the options that `Settings` takes as they are."""

    calls: int
    interrupting_calls: int
    seconds: float
    rows: int
    greedy: bool
    seed: int


@click.command()
@click.option("--model", default="tiny", show_default=True, help="The built-in model, or a folder.")
@click.option(
    "--held-out",
    type=_PATH,
    default=Path("runs/held_out"),
    show_default=True,
    help="The renderings to measure with; made here if they are missing.",
)
@click.option(
    "--condition", "names", type=click.Choice(NAMES), multiple=True, help="Only this one; repeatable."
)
@click.option("--calls", default=5, show_default=True, help="Calls of each condition that listen to the end.")
@click.option(
    "--interrupting-calls", default=2, show_default=True, help="Calls of each condition that do not."
)
@click.option("--seconds", default=180.0, show_default=True, help="Length of a call.")
@click.option("--rows", default=35, show_default=True, help="Calls at once.")
@click.option("--greedy", is_flag=True, help="Always the likeliest token, instead of sampling as advised.")
@click.option("--seed", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True, help="Of PyTorch.")
@click.option("--failures", "most", default=30, show_default=True, help="How many kinds of failures to list.")
@click.option("--ear", default=BUNDLED, show_default=True, help="A recogniser as `annotate` has; '' is none.")
@click.option("--ear-answers", default=150, show_default=True, help="How many answers it listens to.")
@click.option("--json", "out", type=_PATH, help="Where every turn's result goes.")
@click.option("--recordings", type=_PATH, help="A folder for stereo files of the calls.")
def main(
    model: str,
    held_out: Path,
    names: Sequence[str],
    threads: int,
    most: int,
    ear: str,
    ear_answers: int,
    out: Path | None,
    recordings: Path | None,
    **numbers: Unpack[_Numbers],
) -> None:
    """Measure a model inside calls with held-out voices, noises and sentences."""
    torch.set_num_threads(threads)
    conditions = [condition for condition in CONDITIONS if not names or condition.name in names]
    settings = Settings(conditions=conditions, **numbers)
    try:
        checkpoint = load_checkpoint(model, pack="auto")
        material = open_material(held_out, tokenizer_of(checkpoint), settings.seed)
        heard: list[Spoken] = []
        calls = evaluate(checkpoint, material, settings, recordings, heard)
        rows = measures(calls)
        told, spoken = _tell(model, material, settings.seed)
        parts = [summary(calls), table(rows), timing(calls), report(told), artefact_report(spoken)]
        click.echo("\n\n".join(parts) + "\n")
        if ear:
            picks = np.random.default_rng(settings.seed).permutation(len(heard))[:ear_answers]
            spoken += through_codec(checkpoint.mimi, material.sentences, "new sentences through the codec")
            understood = listen(open_ear(ear), [*(heard[int(i)] for i in picks), *spoken])
            click.echo(ear_report(understood) + "\n")
        click.echo("\n\n".join([wrong_texts(calls, load_phrases()), by_voice(calls), failures(calls, most)]))
        if out is not None:
            with whole_file(out) as path, naming(out):
                path.write_text(_as_json(settings, rows, calls, told), encoding="utf-8")
    except MoshiAgentError as error:
        raise click.ClickException(str(error)) from error


def _tell(model: str, material: Material, seed: int) -> tuple[list[SayScore], list[Spoken]]:
    """Has all texts of the bot and sentences that are new to it said; its own are scored."""
    answers = [*material.answers, *material.sentences]
    with Engine.load(model, shared=False, capacity=len(answers), admit_by_time=False) as engine:
        sounds = tell(engine, [answer.text for answer in answers], seed)
    own = len(material.answers)
    spoken = [
        Spoken(
            kind="told: its own texts" if number < own else "told: new sentences",
            text=answer.text,
            bot=sound,
            teacher=answer.audio,
        )
        for number, (answer, sound) in enumerate(zip(answers, sounds, strict=True))
    ]
    return score(material.answers, sounds[:own]), spoken


def _as_json(
    settings: Settings, rows: Sequence[Measure], calls: Sequence[CallScore], told: Sequence[SayScore]
) -> str:
    content = {
        "settings": asdict(settings),
        "measures": [asdict(row) for row in rows],
        "calls": [asdict(call) for call in calls],
        "told": [asdict(score) for score in told],
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
