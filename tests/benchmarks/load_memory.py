"""How much memory loading takes, over what is kept: peak and final resident size of a process that loads.

    python tests/benchmarks/load_memory.py              # widths divided by 4: 1 GB on disk
    python tests/benchmarks/load_memory.py --scale 1    # those of Moshi 7B: 15 GB on disk, as much in memory

The checkpoint is generated, with random weights in bfloat16; each way of loading has a process of its own.
Pages of the mapped file count while they are resident, although the system may take them back.
"""

from __future__ import annotations

import argparse
import json
import resource
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from moshi_agent.checkpoint import load_checkpoint, save_kyutai
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.kyutai_config import MOSHI_7B, read_moshi_config
from moshi_agent.kyutai_mimi_config import read_mimi_config, write_mimi_config
from moshi_agent.models import LMModel, MimiModel

_TOKENIZER = Path(__file__).parents[2] / "moshi_agent" / "assets" / "tiny" / "tokenizer_spm.model"
_WAYS = ("bfloat16", "float32", "pack=bfloat16", "pack=int8", "pack=float32")
_LIMIT = 1.1


def _configs(scale: int) -> tuple[dict[str, object], MimiConfig]:
    """Moshi 7B and its codec, every width divided by `scale`."""
    lm = dict(MOSHI_7B)
    for key in ("dim", "card", "text_card", "depformer_dim", "depformer_dim_feedforward"):
        lm[key] = MOSHI_7B[key] // scale
    mimi = write_mimi_config(MimiConfig())
    width = 512 // scale
    mimi["seanet"] |= {"dimension": width, "n_filters": 64 // scale}
    mimi["transformer"] |= {
        "d_model": width,
        "dim_feedforward": 2048 // scale,
        "input_dimension": width,
        "output_dimensions": [width],
    }
    mimi["quantizer"] |= {"dimension": 256 // scale, "bins": 2048 // scale}
    mimi["quantizer"] |= {"input_dimension": width, "output_dimension": width}
    return lm, read_mimi_config(mimi)


def _generate(folder: Path, scale: int) -> int:
    """Writes the checkpoint and returns its size in bytes."""
    lm_config, mimi_config = _configs(scale)
    small = {"num_layers": 1, "depformer_num_layers": 1}
    lm = LMModel(read_moshi_config(lm_config | small))
    save_kyutai(folder, MimiModel(mimi_config), lm, _TOKENIZER)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {k: lm_config[k] for k in small}))
    _write_random(folder / "model.safetensors", read_moshi_config(lm_config))
    return sum(path.stat().st_size for path in folder.iterdir())


def _write_random(path: Path, config: MoshiConfig) -> None:
    """A safetensors file larger than memory may be: its header, then tensor after tensor."""
    with torch.device("meta"):
        shapes = {name: list(tensor.shape) for name, tensor in LMModel(config).state_dict().items()}
    header: dict[str, object] = {}
    offset = 0
    for name, shape in shapes.items():
        size = 2 * torch.Size(shape).numel()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    noise = (0.02 * torch.randn(2**24)).bfloat16().view(torch.uint8).numpy().tobytes()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(encoded)) + encoded)
        while offset > 0:
            offset -= file.write(noise[:offset])


def _load(folder: Path, way: str) -> None:
    """Loads in this process, and prints resident bytes: before, at most, and kept."""
    before = _resident()
    if way.startswith("pack="):
        checkpoint = load_checkpoint(folder, pack=way.removeprefix("pack="))
    else:
        checkpoint = load_checkpoint(folder, dtype=getattr(torch, way))
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([before, max(peak, _resident()), _resident()]))
    del checkpoint


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scale", type=int, default=4, choices=(1, 2, 4, 8))
    parser.add_argument("--ways", nargs="+", default=list(_WAYS), choices=_WAYS)
    parser.add_argument(
        "--folder", type=Path, help="where to generate the checkpoint; a temporary folder without it"
    )
    parser.add_argument("--load", metavar="WAY", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.load:
        _load(arguments.folder, arguments.load)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        size = _generate(Path(name), arguments.scale)
        print(f"{size / 1e9:.2f} GB on disk\n{'way':>14}  {'peak':>8}  {'kept':>8}  peak / kept")
        for way in arguments.ways:
            command = [sys.executable, __file__, "--folder", name, "--load", way]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            before, peak, kept = (value / 1e9 for value in json.loads(done.stdout.splitlines()[-1]))
            verdict = "" if peak <= _LIMIT * kept else f"  above {_LIMIT}"
            print(f"{way:>14}  {peak:5.2f} GB  {kept:5.2f} GB  {peak / kept:.3f}{verdict}", end="")
            print(f"  (before: {before:.2f} GB)", flush=True)


if __name__ == "__main__":
    main()
