"""Makes `lm/personaplex/personas.safetensors`: what NVIDIA's own package answers after its hybrid prompts.

Their package has the name of Kyutai's, `moshi`, so it needs an environment of its own, with the versions that
`make_golden.py` has otherwise. The weights are those of `lm/personaplex/model.safetensors`.

    git clone https://github.com/NVIDIA/personaplex && git -C personaplex checkout 3428dfd
    export OMP_NUM_THREADS=1 NO_TORCH_COMPILE=1 PYTHONPATH=personaplex/moshi
    peer/bin/python tests/golden/make_personaplex.py

Their package imports `sphn` and `tqdm`, which Kyutai's brings. A few seconds.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

import moshi
import torch
from recipes import personaplex


def main() -> None:
    if not (Path(moshi.__file__).parent / "offline.py").is_file():
        raise SystemExit(f"{moshi.__file__} is not NVIDIA's package; put its folder into PYTHONPATH")
    print(f"torch {torch.__version__}, sphn {importlib.metadata.version('sphn')}")
    torch.set_num_threads(1)
    root = Path(__file__).parent
    personaplex.write_all(root, json.loads((root / "lm" / "personaplex" / "config.json").read_text()))


if __name__ == "__main__":
    main()
