"""Where weights are, which format they have, and how they become a model."""

from moshi_agent.checkpoint.check import CheckedFile, download_checkpoint
from moshi_agent.checkpoint.load import Checkpoint, load_checkpoint
from moshi_agent.checkpoint.save import save_kyutai

__all__ = ["CheckedFile", "Checkpoint", "download_checkpoint", "load_checkpoint", "save_kyutai"]
