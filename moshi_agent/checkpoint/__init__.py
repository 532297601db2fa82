"""Where weights are, which format they have, and how they become a model."""

from moshi_agent.checkpoint.check import CheckedFile, download_checkpoint
from moshi_agent.checkpoint.checkpoint import Checkpoint
from moshi_agent.checkpoint.kyutai.save import save_kyutai
from moshi_agent.checkpoint.load import load_checkpoint
from moshi_agent.checkpoint.reference_encoder import load_reference_encoder

__all__ = [
    "CheckedFile",
    "Checkpoint",
    "download_checkpoint",
    "load_checkpoint",
    "load_reference_encoder",
    "save_kyutai",
]
