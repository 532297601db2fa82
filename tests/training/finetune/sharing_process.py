"""What each of several processes does in the tests of sharing a model: one run on made-up conversations.

torchrun --nproc-per-node 2 -m tests.training.finetune.sharing_process SETTINGS
"""

from __future__ import annotations

import json
import sys

import torch

from moshi_agent.training.finetune.config import FineTuneConfig
from moshi_agent.training.finetune.run import finetune
from moshi_agent.training.runs.settings import build_settings
from tests.training.finetune.finetune_material import Echoes

if __name__ == "__main__":
    torch.set_num_threads(1)
    config = build_settings(json.loads(sys.argv[1]), FineTuneConfig)
    finetune(config, train=Echoes(), evaluation=Echoes())
