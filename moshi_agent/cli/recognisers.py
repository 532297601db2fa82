"""Which models write down speech, told before any of them is loaded."""

from __future__ import annotations


def is_recogniser(model: str) -> bool:
    """Tells whether a checkpoint's `config.json` says that it generates no audio.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    from moshi_agent.checkpoint.sources import open_source  # loads torch
    from moshi_agent.checkpoint.tensors import read_json

    config = open_source(model).find("config.json")
    return config is not None and read_json(config).get("dep_q") == 0
