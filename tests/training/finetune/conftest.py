"""What the tests of fine-tuning share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.training.finetune.finetune_material import small_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small checkpoint."""
    return small_checkpoint(tmp_path_factory.mktemp("checkpoint"))
