"""Makes `lm/kame`, `lm/moshirag` and `reference_encoder`: what the packages of KAME and MoshiRAG answer.

Neither is on PyPI, and MoshiRAG's has the name of Kyutai's, `moshi`, so they need an environment of their
own, with the versions that `make_golden.py` has otherwise, and einops:

    git clone https://github.com/SakanaAI/kame && git -C kame checkout babaa58
    git clone https://github.com/flhkl1/moshi-rag && git -C moshi-rag checkout 8c6dfc1
    export OMP_NUM_THREADS=1 NO_TORCH_COMPILE=1 PYTHONPATH=kame/src:moshi-rag/moshi
    peer/bin/python tests/golden/make_references.py

A few seconds.
"""

from __future__ import annotations

from pathlib import Path

import torch
from recipes import references


def main() -> None:
    print(f"torch {torch.__version__}")
    torch.set_num_threads(1)
    references.stand_in_for_missing()
    root = Path(__file__).parent
    references.write_kame(root)
    references.write_moshirag(root)
    references.write_encoder(root)


if __name__ == "__main__":
    main()
