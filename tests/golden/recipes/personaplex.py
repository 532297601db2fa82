"""PersonaPlex: hybrid prompts and what follows them, from NVIDIA's own package."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import moshi.models.lm as theirs
import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from recipes.common import seeded, write_tensors

_SILENT_FRAMES = 6  # int(0.5 s * 12.5 Hz), as their server has it
_STEPS = 60  # heard after the prompt: over three times the context
_NEAR_TIE = 1e-3


@dataclass
class Persona:
    """What a conversation begins with. A voice is given as codes or as a file of theirs, or not at all."""

    text: list[int]
    codes: Tensor | None = None  # [frames, 8]
    file: Path | None = None


class _Generator(theirs.LMGen):
    """Theirs, with codes in place of the recording that their codec would turn into codes."""

    voice_codes: Tensor | None = None

    def _encode_voice_prompt_frames(self, mimi: Any) -> Iterator[Tensor]:
        assert self.voice_codes is not None
        yield from (frame[None, :, None] for frame in self.voice_codes)


def load_lm(folder: Path, config: dict[str, Any]) -> theirs.LMModel:
    model = theirs.LMModel(**config)
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=True)
    return model.eval()


def new_generator(lm: theirs.LMModel, persona: Persona, save_to: Path | None = None) -> _Generator:
    generator = _Generator(
        lm,
        device="cpu",
        use_sampling=False,
        return_logits=save_to is None,  # with both, theirs would stack the first step's lack of an embedding
        check=True,
        audio_silence_frame_cnt=_SILENT_FRAMES,
        text_prompt_tokens=persona.text,
        save_voice_prompt_embeddings=save_to is not None,
        sample_rate=24_000,
        frame_rate=12.5,
    )
    if persona.codes is not None:
        generator.voice_codes = persona.codes
        generator.voice_prompt_audio = torch.zeros(1)  # that there is one
        generator.voice_prompt = str(save_to)
    if persona.file is not None:
        generator.load_voice_prompt_embeddings(str(persona.file))
    return generator


def save_voice(lm: theirs.LMModel, persona: Persona, folder: Path) -> None:
    """Writes `voice.pt` as their package does."""
    generator = new_generator(lm, persona, folder / "voice.wav")
    with generator.streaming(1):
        generator._step_voice_prompt(None)


def converse(generator: _Generator, user: Tensor) -> dict[str, Tensor]:
    """The prompt, and then one step for each frame of the user, [steps, 8]."""
    outs, logits, gaps = [], [], []
    with generator.streaming(1):
        generator.step_system_prompts(mimi=None)
        for frame in user:
            out, (text_logits, audio_logits) = generator.step(input_tokens=frame[None, :, None])
            outs.append(out[0, :, 0])
            logits.append(text_logits.flatten())
            best = [text_logits.flatten().topk(2)[0], *audio_logits[0, :8].topk(2)[0]]
            gaps.append(torch.stack([first - second for first, second in best]))
    return {"out": torch.stack(outs), "text_logits": torch.stack(logits), "gap": torch.stack(gaps)}


def personas(config: dict[str, Any], folder: Path, seed: int) -> dict[str, Persona]:
    generator = seeded(seed)
    codes = torch.randint(config["card"], (7, 8), generator=generator)
    texts = torch.randint(4, config["text_card"], (3, 5), generator=generator).tolist()
    return {
        "recording": Persona(texts[0], codes=codes),
        "voice_file": Persona(texts[1][:3], file=folder / "voice.pt"),
        "role_alone": Persona(texts[2]),
    }


@torch.no_grad()
def record(folder: Path, config: dict[str, Any], seed: int) -> tuple[dict[str, Tensor], float]:
    """All tensors of the golden file, and the smallest gap between two best logits."""
    lm, generator = load_lm(folder, config), seeded(seed + 1000)
    tensors: dict[str, Tensor] = {
        "silence": torch.from_numpy(theirs.SILENCE_TOKENS),
        "sine": torch.from_numpy(theirs.SINE_TOKENS),
    }
    least = torch.inf
    with tempfile.TemporaryDirectory() as name:
        for case, persona in personas(config, Path(name), seed).items():
            user = torch.randint(config["card"], (_STEPS, 8), generator=generator)
            if persona.codes is not None:
                save_voice(lm, persona, Path(name))
            answers = converse(new_generator(lm, persona), user)
            least = min(least, float(answers.pop("gap").min()))
            given = {"user": user, "text": torch.tensor(persona.text)}
            if persona.codes is not None:
                given["codes"] = persona.codes
            if persona.file is not None:
                given |= torch.load(persona.file, weights_only=True)
            tensors |= {f"{case}.{key}": value for key, value in (given | answers).items()}
    return tensors, least


def write_all(root: Path, config: dict[str, Any]) -> None:
    # Their constants are codes of the published codec; this model knows but a few codes.
    theirs.SILENCE_TOKENS = (theirs.SILENCE_TOKENS % config["card"]).astype(np.int64)
    theirs.SINE_TOKENS = (theirs.SINE_TOKENS % config["card"]).astype(np.int64)
    folder = root / "lm" / "personaplex"
    for seed in range(50):
        tensors, least = record(folder, config, seed)
        if least > _NEAR_TIE:
            break
    else:
        raise RuntimeError("no inputs without a near tie")
    small = {
        key: value.to(torch.int16) if value.dtype == torch.int64 else value for key, value in tensors.items()
    }
    write_tensors(folder / "personas.safetensors", small)
    print(f"personas: seed {seed}, least gap {least:.1e}")
