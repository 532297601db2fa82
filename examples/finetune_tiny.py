"""Teaches the built-in model questions and answers of your own, in some ten minutes on two CPU cores.

    pip install 'moshi-agent[train,voice]'; apt install flite
    python finetune_tiny.py cafe.txt --folder runs/cafe

The file has a line `question | answer` for each. The questions are synthesised with Piper, flite, and
espeak-ng if it is there, in many voices; the answers in its own. They are put into calls together with
what the model knows already, or it would forget that, and written in the layout of moshi-finetune. Then
`moshi-agent train lm` trains low-rank updates (LoRA), and the new model is asked everything in voices that it
has not heard. A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from moshi_agent import MoshiAgentError, load_checkpoint
from moshi_agent.training.tiny.exchanges.lesson import measure, write_lesson
from moshi_agent.training.tiny.exchanges.scoring import group_scores, score_table
from moshi_agent.training.tiny.exchanges.text_file import read_exchanges
from moshi_agent.training.tiny.tokenizer import load_tokenizer


def settings(folder: Path, manifest: Path, steps: int) -> dict[str, Any]:
    """What `moshi-agent train lm` is told: the keys of moshi-finetune, and a few of our own."""
    return {
        "run_dir": str(folder / "training"),
        "moshi_paths": {"hf_repo_id": "tiny"},
        "data": {
            "train_data": str(manifest),
            "encoding": "live",
            "crowded": "shift",
            "cache": str(folder / "codes"),
        },
        "lora": {"enable": True, "rank": 32, "scaling": 2.0},
        "optim": {"lr": 2e-3, "weight_decay": 0.0, "pct_start": 0.06, "betas": [0.9, 0.98]},
        "max_steps": steps,
        "duration_sec": 12.0,  # a whole call
        "batch_size": 16,
        "first_codebook_weight_multiplier": 4.0,
        "text_padding_weight": 0.3,
        "depth_share": 0.15,
        "noise": {"text": 0.005, "own": 0.03, "user": 0.1},
        "gradient_checkpointing": False,
        "log_freq": 25,
        "ckpt_freq": 100,
        "save_adapters": False,  # the updates are added to the weights: a model of its own
    }


def train(folder: Path, manifest: Path, steps: int, threads: int) -> Path:
    """Runs the training as a command; gives the folder of the new model."""
    config = folder / "finetune.yaml"
    config.write_text(json.dumps(settings(folder, manifest, steps), indent=2))  # JSON is YAML, too
    command = [sys.executable, "-m", "moshi_agent", "train", "lm"]
    subprocess.run([*command, "--config", str(config), "--threads", str(threads)], check=True)
    return max((folder / "training" / "checkpoints").glob("checkpoint_*")) / "consolidated"


def teach(exchanges: Path, folder: Path, steps: int, threads: int) -> None:
    """All of it, from the text file to the table."""
    started = time.monotonic()
    new = read_exchanges(exchanges)
    print(f"1 of 3: speech for {len(new)} new exchanges and the old ones, and calls of it", flush=True)
    manifest = write_lesson(folder, new, load_tokenizer())
    made = time.monotonic()
    print(f"2 of 3: training; first the calls are encoded, then come {steps} steps", flush=True)
    model = train(folder, manifest, steps, threads)
    trained = time.monotonic()
    print("3 of 3: the new model is asked everything in voices that it has not heard", flush=True)
    calls = measure(load_checkpoint(model, pack="auto"), folder, new)
    print(score_table(group_scores(calls, new)))
    times = [("calls", made - started), ("training", trained - made), ("asking", time.monotonic() - trained)]
    print(", ".join(f"{name} {seconds / 60:.1f} min" for name, seconds in times))
    print(f"try it: moshi-agent run FILE --model {model}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Teaches the built-in model questions and answers.")
    parser.add_argument("exchanges", type=Path, help="a file with a line `question | answer` for each")
    parser.add_argument("--folder", type=Path, default=Path("runs/exchanges"), help="where everything goes")
    parser.add_argument("--steps", type=int, default=500, help="of the training")
    parser.add_argument("--threads", type=int, default=2, help="of PyTorch; no more than idle cores")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    try:
        teach(options.exchanges, options.folder, options.steps, options.threads)
    except MoshiAgentError as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130, f"interrupted; the same command goes on in {options.folder}\n")
    except subprocess.CalledProcessError as error:
        parser.exit(error.returncode, "error: the training has failed; what it says is above\n")


if __name__ == "__main__":
    main()
