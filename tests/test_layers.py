"""The plan of the packages: what stands above may import what stands below, never the other way round.

Each table lists the parts of one package from the bottom to the top, a line a layer. Parts of one line do not
import each other. A new module or folder takes its place in a table.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import moshi_agent
import moshi_agent_adapters

LAYERS = {
    "moshi_agent": """
        _version errors events plural
        config named_object outputs questions saved
        audio nn
        text
        models
        checkpoint
        engine hf
        conversation transcription
        evaluation
        training
        __init__
        cli
        __main__ client server
    """,
    "moshi_agent.checkpoint": """
        foreign translation usage voices write
        sources tensors tokenizer
        format reference_encoder
        kyutai transformers
        lora quantised room
        checkpoint formats models
        codec load
        check convert
        __init__
        recogniser
    """,
    "moshi_agent.engine": """
        __init__
        asking birthplace capacity event_queue metrics prompt schedule step
        callbacks config
        commands model_facts tap
        call microphone personas reference_desk references
        intake user_transcriber
        session shared snapshot
        inbox rows
        admission conversations
        core
        local
        process
        engine
    """,
    "moshi_agent.evaluation": """
        __init__
        sinc_resampling words
        samples speech_spans take_over
        sounds
        answering backchannel judge pictures recognising small_suite timing
        measures
        suites
        report
    """,
    "moshi_agent.training": """
        __init__
        runs stereo
        annotation finetune mimi
        tiny
    """,
    "moshi_agent_adapters": """
        __init__ allowance bot_turn call_log networks origins personas
        protocols
        recordings talk webrtc
        fastrtc livekit pipecat server
        ray
    """,
}
# Kyutai's import path `moshi.models.loaders` is a façade over the checkpoints, which stand above the models.
FACADES = {"moshi_agent.models.__init__", "moshi_agent.models.loaders"}
ROOTS = [Path(package.__file__ or "").parent for package in (moshi_agent, moshi_agent_adapters)]


def _modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name; a package's own is `package.__init__`."""
    return {
        ".".join(path.relative_to(root.parent).with_suffix("").parts): path
        for root in ROOTS
        for path in root.rglob("*.py")
    }


MODULES = _modules()


def _imports(path: Path) -> Iterator[str]:
    """The modules of ours that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parent = name.rpartition(".")[0]
            candidates = (name, f"{name}.__init__", parent, f"{parent}.__init__")
            yield from [one for one in candidates if one in MODULES][:1]


def _part(module: str, package: str) -> str | None:
    """Which part of `package` a module belongs to, None where it lies outside."""
    return module.removeprefix(f"{package}.").split(".")[0] if module.startswith(f"{package}.") else None


@pytest.mark.parametrize("package", LAYERS)
def test_every_part_has_its_place(package: str) -> None:
    listed = LAYERS[package].split()
    assert len(listed) == len(set(listed))
    assert set(listed) == {part for module in MODULES if (part := _part(module, package)) is not None}


@pytest.mark.parametrize("package", LAYERS)
def test_nothing_imports_what_stands_above_or_beside_it(package: str) -> None:
    lines = LAYERS[package].strip().splitlines()
    height = {part: number for number, line in enumerate(lines) for part in line.split()}
    upwards = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if (part := _part(module, package)) is not None and module not in FACADES
        for imported in _imports(path)
        if (other := _part(imported, package)) is not None and other != part and height[other] >= height[part]
    ]
    assert not upwards


def test_the_core_imports_no_adapter() -> None:
    core = {module: path for module, path in MODULES.items() if module.startswith("moshi_agent.")}
    assert not [m for m, path in core.items() for i in _imports(path) if i.startswith("moshi_agent_adapters")]
