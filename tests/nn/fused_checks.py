"""The kernels of `fused` held to plain PyTorch: on a GPU, or run by test_fused.py with TRITON_INTERPRET=1."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from moshi_agent.config import SamplingConfig
from moshi_agent.nn import fused
from moshi_agent.nn.norm import RMSNorm
from moshi_agent.nn.sampling import RowSampling, noise_reference


def gates_are_those_of_pytorch(device: str) -> None:
    """Rows that fill a block and more, and ones that do not; numbers of all sizes."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        for shape in ((3, 1, 2 * 2816), (2, 2 * 40)):
            x = (20 * torch.randn(shape, device=device)).to(dtype)
            gate, value = x.chunk(2, dim=-1)
            torch.testing.assert_close(fused.silu_times(x), F.silu(gate) * value, rtol=tolerance, atol=1e-4)


def norms_are_those_of_pytorch(device: str) -> None:
    """Of several widths; and the sum, as it is rounded."""
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        for width in (4096, 1024, 80):
            norm = RMSNorm(width, eps=1e-8, float32=True).to(device, dtype)
            torch.nn.init.normal_(norm.alpha)
            x, change = (torch.randn(2, 1, width, device=device).to(dtype) for _ in range(2))
            total, normed = fused.add_and_norm(x, change, norm.alpha.flatten(), norm.eps)
            # The interpreter cuts off what the compiled kernel rounds.
            torch.testing.assert_close(total, x + change, rtol=tolerance, atol=1e-5)
            torch.testing.assert_close(normed, norm(x + change), rtol=tolerance, atol=1e-4)


def noise_is_that_of_pytorch(device: str) -> None:
    """The same numbers but for the last bits of a logarithm; nothing for those that are not kept."""
    key = torch.randint(-(2**63), 2**63 - 1, (3,), device=device)
    for candidates in (40, 512, 3000):
        kept = torch.tensor([candidates, 1, 25], device=device)
        got = fused.noise(key, 1, 8, kept, candidates)
        torch.testing.assert_close(
            got, noise_reference(key, range(1, 9), kept, candidates), rtol=1e-4, atol=1e-5
        )


def draws_are_those_of_pytorch(device: str) -> None:
    """The very tokens, each row with settings of its own; and what is no number gives a token, too."""
    settings = [
        SamplingConfig(greedy=True),
        SamplingConfig(temp=0.8, top_k=250, temp_text=0.7, top_k_text=25, seed=1),
        SamplingConfig(temp=1.3, top_k=0, temp_text=1.0, top_k_text=0, seed=2),
        SamplingConfig(temp=1.0, top_k=100, top_p=0.4, temp_text=1.0, top_k_text=40, top_p_text=0.7, seed=3),
    ]
    for card in (300, 2048):
        sampling = RowSampling(len(settings), torch.device(device), settings[0], constant_cost=True)
        for row, config in enumerate(settings):
            sampling.set_row(row, config)
        for step in range(4):
            counter = torch.full((len(settings),), step, device=device)
            logits = 3 * torch.randn(len(settings), card, device=device)
            for stream in range(3):
                draws = sampling.draws(counter, card, card, 3)
                kind = draws.text if stream == 0 else draws.audio
                assert kind is not None
                best, tokens = logits.topk(kind.candidates, dim=-1)
                noise, choice = kind.noise[:, max(0, stream - 1)], kind.choice
                got = fused.draw(best, tokens, noise, choice.inverse_temp, choice.top_p)
                assert torch.equal(got, draws.sample_reference(logits, stream))
                ill = fused.draw(best * torch.nan, tokens, noise, choice.inverse_temp, choice.top_p)
                assert ((ill >= 0) & (ill < card)).all()


CHECKS = (
    gates_are_those_of_pytorch,
    norms_are_those_of_pytorch,
    noise_is_that_of_pytorch,
    draws_are_those_of_pytorch,
)

if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    with torch.inference_mode():
        for check in CHECKS:
            check("cpu")
            print("passed:", check.__name__)
