"""Two processes that train one codec stay one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from moshi_agent.checkpoint.kyutai.mimi_config import write_mimi_config
from moshi_agent.checkpoint.write import write_json
from tests.small_models import small_mimi_config
from tests.training.mimi.codec_material import write_recordings
from tests.training.mimi.test_mimi_run import final_state, write_toml

PROGRAM = """
import os, sys
from pathlib import Path
import torch
from moshi_agent.training.mimi import run
from moshi_agent.training.mimi.config import MimiTraining
from moshi_agent.training.runs.settings import read_settings

torch.set_num_threads(1)
made = []
trainer = run.MimiTrainer
run.MimiTrainer = lambda *arguments: made.append(trainer(*arguments)) or made[-1]
run.train_mimi(read_settings(Path(sys.argv[1]), MimiTraining))
states = {name: getattr(made[0], name).state_dict() for name in ("model", "discriminator", "balancer")}
torch.save(states, sys.argv[1] + os.environ["RANK"])
"""


@pytest.mark.slow
def test_weights_codebooks_and_norms_are_the_same_in_both(tmp_path: Path) -> None:
    """Of a new codec, whose codebooks are made on the way; the first process writes what a run leaves."""
    write_recordings(tmp_path / "data")
    program, config = tmp_path / "program.py", tmp_path / "run.toml"
    program.write_text(PROGRAM)
    write_toml(config, tmp_path, tmp_path / "codec", steps=3)
    codec = f"codec = {str(tmp_path / 'mimi_config.json')!r}"
    config.write_text(config.read_text().replace(f"from = {str(tmp_path / 'codec')!r}", codec))
    write_json(tmp_path / "mimi_config.json", write_mimi_config(small_mimi_config()))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run([*command, str(program), str(config)], env=environment, check=True, timeout=250)
    first, second = (torch.load(f"{config}{rank}", weights_only=True) for rank in (0, 1))
    for part, tensors in first.items():
        assert all(torch.equal(tensor, second[part][name]) for name, tensor in tensors.items()), part
    assert final_state(tmp_path / "run")["step"] == 3
    assert final_state(tmp_path / "run")["settings"]["processes"] == 2
