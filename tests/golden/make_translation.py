"""Makes `translation`: what Kyutai's `moshi.run_inference` makes of speech with a small Hibiki.

The codec is that of `mimi`, the tokenizer that of the built-in model. With the environment of
`make_golden.py`, of which only `moshi` matters here (made on torch 2.13.0):

    OMP_NUM_THREADS=1 NO_TORCH_COMPILE=1 peer/bin/python tests/golden/make_translation.py

Half a minute.
"""

from __future__ import annotations

from pathlib import Path

import torch
from recipes import translation


def main() -> None:
    torch.set_num_threads(1)
    translation.write_all(Path(__file__).parent)


if __name__ == "__main__":
    main()
