"""The activation of the convolutions, which is computed in two ways."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from moshi_agent.nn.seanet import Elu


def test_the_quick_elu_of_inference_is_elu() -> None:
    """Within a rounding of one, for what is small, large, infinite or no number; the input stays."""
    x = torch.cat([torch.linspace(-30, 30, 10_001), torch.tensor([0.0, -0.0, 1e-7, -1e-7, 1e30, -1e30])])
    before = x.clone()
    with torch.inference_mode():
        torch.testing.assert_close(Elu()(x), F.elu(x), rtol=0, atol=1.2e-7)
        odd = torch.tensor([torch.inf, -torch.inf, torch.nan])
        assert torch.equal(Elu()(odd)[:2], F.elu(odd)[:2])
        assert Elu()(odd)[2].isnan()
    assert torch.equal(x, before)
