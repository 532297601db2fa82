"""Work on a GPU that nobody waits for frame by frame: it is not to stand in front of the steps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

import torch


@contextmanager
def side_stream(device: torch.device) -> Generator[None]:
    """Has the device compute what is asked for in this block beside the steps, and waits for it at the end.

    On the stream of the steps they would have to wait for all of it. It has the lowest priority there is, and
    captured steps a higher one. Elsewhere than on CUDA nothing is different.
    """
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        stream = torch.cuda.Stream(device, priority=0)
        stream.wait_stream(torch.cuda.current_stream(device))  # what it is given is there by then
        with torch.cuda.stream(stream):
            yield
        stream.synchronize()
