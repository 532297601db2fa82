"""A checkpoint with the shape of Moshi 7B and random weights, for figures that do not depend on what it says.

    python tests/benchmarks/random_checkpoint.py FOLDER              # 15 GB on disk
    python tests/benchmarks/random_checkpoint.py FOLDER --scale 4    # every width divided by 4: 1 GB

It is written tensor after tensor, in bfloat16, and may be larger than memory. `draw` makes the same without a
file.
"""

from __future__ import annotations

import argparse
import json
import struct
from pathlib import Path

import torch

from moshi_agent.checkpoint import Checkpoint, save_kyutai
from moshi_agent.checkpoint.kyutai.config import MOSHI_7B, read_moshi_config
from moshi_agent.checkpoint.kyutai.mimi_config import read_mimi_config, write_mimi_config
from moshi_agent.checkpoint.load import prepare_for_cuda
from moshi_agent.checkpoint.models import rounded_layers
from moshi_agent.checkpoint.quantised import Rounding
from moshi_agent.checkpoint.tokenizer import read_tokenizer
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.models import LMModel, MimiModel

SCALES = (1, 2, 4, 8)
CONTEXT = 3000  # frames
_TOKENIZER = Path(__file__).parents[2] / "moshi_agent" / "assets" / "tiny" / "tokenizer_spm.model"


def _configs(scale: int, context: int) -> tuple[dict[str, object], MimiConfig]:
    """Moshi 7B and its codec, every width divided by `scale`."""
    lm = MOSHI_7B | {"context": context}
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


def generate(folder: Path, scale: int, context: int = CONTEXT) -> int:
    """Writes the checkpoint into an existing folder and returns its size in bytes."""
    lm_config, mimi_config = _configs(scale, context)
    small = {"num_layers": 1, "depformer_num_layers": 1}
    lm = LMModel(read_moshi_config(lm_config | small))
    save_kyutai(folder, MimiModel(mimi_config), lm, _TOKENIZER)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {k: lm_config[k] for k in small}))
    _write_random(folder / "model.safetensors", read_moshi_config(lm_config))
    return sum(path.stat().st_size for path in folder.iterdir())


def draw(device: str, scale: int, context: int = CONTEXT, rounding: Rounding | None = None) -> Checkpoint:
    """A checkpoint as an engine would load it, its weights drawn on the device in seconds.

    Args:
        rounding: of the weights of layers, as `dtype` asks for it.
    """
    lm_config, mimi_config = _configs(scale, context)
    torch.manual_seed(0)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    with torch.device(device):
        mimi = MimiModel(mimi_config).eval()
        default = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            lm = LMModel(read_moshi_config(lm_config)).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(default)
    _round_layers(lm, rounding)
    mimi.set_num_codebooks(8)
    checkpoint = Checkpoint(
        name="random",
        mimi=mimi.requires_grad_(False),
        mimi_config=mimi_config,
        lm=lm,
        config=lm.config,
        tokenizer=read_tokenizer(_TOKENIZER),
    )
    if device != "cpu":
        prepare_for_cuda(checkpoint)
    return checkpoint


def _round_layers(lm: LMModel, rounding: Rounding | None) -> None:
    """One after the other, so that the floats of one layer at most are there as well."""
    layers = rounded_layers(lm, rounding)
    for name in [name for name, _ in lm.named_parameters()]:
        layers.finish(name, lm.get_parameter(name))


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


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--scale", type=int, default=1, choices=SCALES)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(f"{generate(arguments.folder, arguments.scale) / 1e9:.2f} GB in {arguments.folder}")


if __name__ == "__main__":
    main()
