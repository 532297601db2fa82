"""Makes `transcription`: what Kyutai's `moshi.run_inference` writes down of speech with a small recogniser.

The codec is that of `mimi`, the tokenizer that of the built-in model. With the environment of
`make_golden.py`, of which only `moshi` matters here:

    OMP_NUM_THREADS=1 NO_TORCH_COMPILE=1 peer/bin/python tests/golden/make_transcription.py

Some seconds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from recipes import transcription


def main() -> None:
    torch.set_num_threads(1)
    transcription.write_all(Path(__file__).parent)


if __name__ == "__main__":
    main()
