"""Makes the golden files beside this script: what the peers' own packages answer, for small random models.

The peers are pinned, and live in an environment of their own (Python 3.11):

    python -m venv peer
    peer/bin/pip install moshi==0.2.13 transformers==4.57.6 torch==2.9.1 bitsandbytes==0.49.2

and then, half a minute on one core:

    OMP_NUM_THREADS=1 NO_TORCH_COMPILE=1 peer/bin/python tests/golden/make_golden.py

The same versions on the same kind of CPU write the same bytes. Nothing here is imported by the tests, which
read the files and need none of these packages. `README.md` says what each file holds.
"""

from __future__ import annotations

from pathlib import Path

import moshi
import torch
import transformers
from recipes import generation, hugging_face, lm, mimi, variants

_VERSIONS = {"moshi": "0.2.13", "transformers": "4.57.6", "torch": "2.9.1"}


def main() -> None:
    found = {module.__name__: module.__version__.split("+")[0] for module in (moshi, transformers, torch)}
    if found != _VERSIONS:
        raise SystemExit(f"found {found}, made for {_VERSIONS}")
    torch.set_num_threads(1)
    root = Path(__file__).parent
    mimi.write_all(root)
    lm.write_all(root)
    seeds = generation.write_all(root)
    lm.write_generating(root, seeds)
    variants.write_all(root)
    hugging_face.write_all(root)
    files = [path for path in root.rglob("*") if path.is_file() and path.suffix in (".safetensors", ".json")]
    print(f"{len(files)} files, {sum(path.stat().st_size for path in files) / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
