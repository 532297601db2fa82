"""Makes `hf_use`: what Transformers' own classes answer when they are used as its documents show.

They run the checkpoints in `hf_moshi` and `hf_mimi`, which `make_golden.py` made. The versions are pinned, in
an environment of its own (Python 3.11):

    python -m venv hf
    hf/bin/pip install transformers==4.57.6 torch==2.13.0

and then, some seconds on one core:

    OMP_NUM_THREADS=1 hf/bin/python tests/golden/make_hf_use.py

Nothing here is imported by the tests. `README.md` says what each file holds.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers
from recipes.common import seeded, synthetic_speech, write_json, write_tensors
from torch import Tensor
from torch.nn import functional as F
from transformers import (
    EncodecFeatureExtractor,
    MimiConfig,
    MimiModel,
    MoshiConfig,
    MoshiForConditionalGeneration,
)
from transformers.models.moshi.configuration_moshi import MoshiDepthConfig

_VERSIONS = {"transformers": "4.57.6", "torch": "2.13.0"}
_ROWS, _STEPS, _BOOKS, _CARD, _TEXT_CARD = 2, 9, 4, 32, 48
_FRAME = 96  # samples of `hf_moshi`
_CODEC_WINDOW = 30  # frames that the codec's attention sees, beyond which Transformers departs from the model


def _inputs(seed: int, steps: int = _STEPS) -> dict[str, Tensor]:
    generator = seeded(seed)

    def draw(card: int, *shape: int) -> Tensor:
        return torch.randint(card, shape, generator=generator)

    return {
        "text": draw(_TEXT_CARD, _ROWS, steps),
        "moshi": draw(_CARD, _ROWS, _BOOKS, steps),
        "user": draw(_CARD, _ROWS, _BOOKS, steps),
    }


def _as_arguments(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        "input_ids": inputs["text"],
        "moshi_audio_codes": inputs["moshi"],
        "user_audio_codes": inputs["user"],
    }


def _forward(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    inputs = _inputs(0)
    streams, text, codes = _as_arguments(inputs), inputs["text"], inputs["moshi"]
    out = model(**streams, text_labels=text, audio_labels=codes)
    alone = model(**streams, text_labels=text, output_hidden_states=True)
    shifted = F.cross_entropy(alone.logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    # The depth decoder on the step that each hidden state leads to.
    delayed = model.build_delay_pattern_mask(codes, _CARD, _CARD, codes.shape[-1] + 1)[0]
    next_codes = delayed[:, :, 1:].transpose(1, 2).flatten(0, 1)
    depth = model.depth_decoder(
        input_ids=torch.cat([text[:, 1:].reshape(-1, 1), next_codes[:, :-1]], dim=1),
        last_hidden_state=alone.last_hidden_state[:, :-1].flatten(0, 1)[:, None],
        labels=next_codes,
        use_cache=False,
    )
    return inputs | {
        "logits": alone.logits,
        "last_hidden_state": alone.last_hidden_state,
        "hidden_states": torch.stack(alone.hidden_states),
        "theirs.loss": out.loss,
        "theirs.text_loss": alone.loss,
        "theirs.depth_loss": out.depth_loss,
        "theirs.audio_logits": out.audio_logits,
        "model.text_loss": shifted,
        "model.depth_loss": depth.loss,
        "model.audio_logits": depth.logits,
    }


def _forward_of_audio(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    speech = synthetic_speech(2, _STEPS * _FRAME, 1200, seed=21)
    user, moshi = (speech[i : i + 1].float() / 32768 for i in range(2))
    text = _inputs(0)["text"][:1]
    out = model(input_ids=text, user_input_values=user, moshi_input_values=moshi)
    return {"user_speech": speech[:1], "moshi_speech": speech[1:], "logits": out.logits}


def _forward_beyond_the_window(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    """Only with a mask does that library look at its window."""
    inputs = _inputs(1, steps=90)
    mask = torch.ones(_ROWS, 90, dtype=torch.long)
    return inputs | {"logits": model(**_as_arguments(inputs), attention_mask=mask).logits}


def _generate(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    inputs = _inputs(0)
    streams = _as_arguments(inputs)
    calls = {
        "default": streams,
        "without_initial": streams | {"max_new_tokens": 7, "concat_unconditional_inputs": False},
        "max_length": streams | {"max_length": 15},
        "one_token": streams | {"max_new_tokens": 1},
        "from_nothing": {"max_new_tokens": 5},
        "unconditional": dict(model.get_unconditional_inputs(2)) | {"max_new_tokens": 6},
        # As long as it fits the window: with a mask and a cache beyond it that library fails.
        "long": streams | {"max_new_tokens": 28},
    }
    results = dict(inputs)
    for name, arguments in calls.items():
        out = model.generate(**arguments, return_audio_codes=True)
        results |= {f"{name}.sequences": out.sequences, f"{name}.audio_codes": out.audio_codes}
        if out.audio_codes.shape[-1] <= _CODEC_WINDOW:
            results[f"{name}.audio_sequences"] = out.audio_sequences
    out = model.generate(**streams, return_dict_in_generate=True, output_logits=True, max_new_tokens=6)
    gaps = torch.stack(out.logits).topk(2).values
    print(f"closest text token: {float((gaps[..., 0] - gaps[..., 1]).min()):.3f}")
    return results | {"logits": torch.stack(out.logits)}


def _text_alone(model: MoshiForConditionalGeneration) -> dict[str, Tensor]:
    decoder, text = model.decoder, _inputs(2)["text"]
    mask = torch.ones_like(text)
    mask[1, :3] = 0
    out = decoder(input_ids=text, labels=text)
    step, cache = text[:, :1], None
    stepped = []
    for _ in range(4):
        answer = decoder(input_ids=step, past_key_values=cache, use_cache=True)
        cache, step = answer.past_key_values, answer.logits[:, -1:].argmax(-1)
        stepped.append(answer.logits)
    return {
        "text": text,
        "mask": mask,
        "logits": out.logits,
        "theirs.loss": out.loss,
        "last_hidden_state": model.decoder.model(input_ids=text).last_hidden_state,
        "masked_logits": decoder(input_ids=text, attention_mask=mask).logits,
        "kept_logits": decoder(input_ids=text, logits_to_keep=2).logits,
        "stepped_logits": torch.cat(stepped, dim=1),
        "sequences": decoder.generate(text, max_new_tokens=12, do_sample=False),
        "default_sequences": decoder.generate(text),
        "masked_sequences": decoder.generate(text, attention_mask=mask, max_new_tokens=12, do_sample=False),
    }


def _codec(model: MimiModel) -> dict[str, Tensor]:
    speech = synthetic_speech(1, 8 * 1920, 24_000, seed=22)
    values = speech.float() / 32768
    mask = torch.ones(1, 8 * 1920 - 700, dtype=torch.int32)
    out = model(values, num_quantizers=5)
    codes = model.encode(values).audio_codes
    return {
        "speech": speech,
        "codes": codes,
        "codes_5": model.encode(values, num_quantizers=5).audio_codes,
        "decoded": model.decode(codes, mask).audio_values,
        "forward.audio_codes": out.audio_codes,
        "forward.audio_values": out.audio_values,
    }


def _features() -> dict[str, Tensor]:
    extractor = EncodecFeatureExtractor()
    sounds = [torch.linspace(-1, 1, 50).numpy(), torch.linspace(0, 0.5, 80).numpy()]
    alone = extractor(raw_audio=sounds[0], sampling_rate=24_000, return_tensors="pt")
    batch = extractor(raw_audio=sounds, sampling_rate=24_000, return_tensors="pt")
    longer = extractor(
        raw_audio=sounds, sampling_rate=24_000, return_tensors="pt", padding="max_length", max_length=100
    )
    cases = {"alone": alone, "batch": batch, "longer": longer}
    return {f"{name}.{key}": value for name, case in cases.items() for key, value in case.items()}


def _configs() -> dict[str, dict[str, object]]:
    made = (MimiConfig(), MoshiDepthConfig(), MoshiConfig())
    return {type(config).__name__: json.loads(config.to_json_string(use_diff=False)) for config in made}


def _small(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: one.to(torch.uint8) if one.dtype == torch.long else one for name, one in tensors.items()}


@torch.no_grad()
def main() -> None:
    found = {module.__name__: module.__version__.split("+")[0] for module in (transformers, torch)}
    if found != _VERSIONS:
        raise SystemExit(f"found {found}, made for {_VERSIONS}")
    torch.set_num_threads(1)
    root = Path(__file__).parent
    model = MoshiForConditionalGeneration.from_pretrained(root / "hf_moshi" / "checkpoint").eval()
    codec = MimiModel.from_pretrained(root / "hf_mimi" / "checkpoint").eval()
    out = root / "hf_use"
    write_tensors(out / "forward.safetensors", _small(_forward(model)))
    write_tensors(out / "forward_of_audio.safetensors", _small(_forward_of_audio(model)))
    write_tensors(out / "forward_beyond.safetensors", _small(_forward_beyond_the_window(model)))
    write_tensors(out / "generate.safetensors", _small(_generate(model)))
    write_tensors(out / "text.safetensors", _small(_text_alone(model)))
    write_tensors(out / "codec.safetensors", _small(_codec(codec)))
    write_tensors(out / "features.safetensors", _features())
    write_json(out / "configs.json", _configs())
    print(f"{sum(path.stat().st_size for path in out.iterdir()) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
