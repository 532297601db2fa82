"""A row whose next piece of text is given: the model chooses when, not what."""

from __future__ import annotations

import torch

from moshi_agent.config import SamplingConfig
from moshi_agent.models.generator import ANY_TEXT, Generator, StepInput
from moshi_agent.nn.sampling import RowSampling
from tests.small_models import small_lm

ROWS = 4000


def _texts(next_piece: int) -> torch.Tensor:
    """The text that each row has sampled in a first step, all of them alike but for their seeds. [ROWS]"""
    model = small_lm()
    generator = Generator(model)
    sampling = RowSampling(ROWS, model.device, SamplingConfig(temp_text=1.0, top_k_text=0))
    sampling.seed.copy_(torch.arange(ROWS))
    user = torch.zeros(ROWS, model.config.num_user_codebooks, dtype=torch.long)
    given = StepInput(user=user, next_piece=torch.full((ROWS,), next_piece))
    with torch.inference_mode():
        return generator.advance(generator.init_state(ROWS), given, sampling).generated[:, 0]


def test_the_piece_comes_as_often_as_any_piece_would_and_none_beside_it() -> None:
    model = small_lm()
    padding = torch.tensor([model.text_padding_token_id, model.end_of_text_padding_id])
    free, restricted = _texts(ANY_TEXT), _texts(next_piece=7)
    assert len(free.unique()) > 8
    assert set(restricted.tolist()) == {7, *padding.tolist()}
    for token in padding:
        share = (free == token).float().mean()
        assert abs((restricted == token).float().mean() - share) < 4 * (share / ROWS) ** 0.5 + 0.002
