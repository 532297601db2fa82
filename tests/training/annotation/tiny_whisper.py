"""A Whisper model of a few kilobytes with random weights, in the files that faster-whisper reads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from ctranslate2.specs import WhisperSpec
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

_WIDTH, _HEADS, _LAYERS, _MELS = 16, 2, 2, 80
_FRAMES, _TOKENS = 1500, 448
_SPECIAL = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|translate|>",
    "<|transcribe|>",
    "<|startoflm|>",
    "<|startofprev|>",
    "<|nocaptions|>",
    "<|notimestamps|>",
]
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD_STARTS = [f"Ġ{letter}" for letter in _LETTERS]
_TIMESTAMPS = [f"<|{index * 0.02:.2f}|>" for index in range(1501)]


def write_tiny_whisper(folder: Path) -> Path:
    """Writes the model; what it hears is noise to it, and what it writes are random letters."""
    folder.mkdir()
    text = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *_WORD_STARTS]
    merges = [("Ġ", letter) for letter in _LETTERS]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(text)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*_SPECIAL, *_TIMESTAMPS])
    tokenizer.save(str(folder / "tokenizer.json"))
    spec = WhisperSpec(_LAYERS, _HEADS, _LAYERS, _HEADS)
    vocabulary = [*text, *_SPECIAL, *_TIMESTAMPS]
    likely = [vocabulary.index(piece) for piece in (*_LETTERS, *_WORD_STARTS, "<|endoftext|>")]
    _fill(spec, len(vocabulary), likely, np.random.default_rng(0))
    spec.register_vocabulary(vocabulary)
    end = vocabulary.index("<|endoftext|>")
    spec.config.suppress_ids, spec.config.suppress_ids_begin = [], [end]
    spec.config.lang_ids = [end + 2]
    spec.config.alignment_heads = [(1, 0), (1, 1)]
    spec.validate()
    spec.save(str(folder))
    (folder / "preprocessor_config.json").write_text(json.dumps({"feature_size": _MELS}))
    return folder


def _fill(spec: WhisperSpec, vocabulary: int, likely: list[int], rng: np.random.Generator) -> None:
    def random(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))

    def norm(part: object) -> None:
        part.gamma, part.beta = np.ones(_WIDTH, np.float32), np.zeros(_WIDTH, np.float32)

    def linear(part: object, out: int, inside: int) -> None:
        part.weight, part.bias = random(out, inside), np.zeros(out, np.float32)

    def attention(part: object, itself: bool) -> None:
        norm(part.layer_norm)
        widths = [3 * _WIDTH, _WIDTH] if itself else [_WIDTH, 2 * _WIDTH, _WIDTH]
        for layer, width in zip(part.linear, widths, strict=True):
            linear(layer, width, _WIDTH)

    def layer(part: object) -> None:
        attention(part.self_attention, True)
        if hasattr(part, "attention"):
            attention(part.attention, False)
        norm(part.ffn.layer_norm)
        linear(part.ffn.linear_0, 4 * _WIDTH, _WIDTH)
        linear(part.ffn.linear_1, _WIDTH, 4 * _WIDTH)

    encoder, decoder = spec.encoder, spec.decoder
    encoder.conv1.weight, encoder.conv1.bias = random(_WIDTH, _MELS, 3), np.zeros(_WIDTH, np.float32)
    encoder.conv2.weight, encoder.conv2.bias = random(_WIDTH, _WIDTH, 3), np.zeros(_WIDTH, np.float32)
    encoder.position_encodings.encodings = random(_FRAMES, _WIDTH)
    decoder.position_encodings.encodings = random(_TOKENS, _WIDTH)
    decoder.embeddings.weight = random(vocabulary, _WIDTH)
    decoder.projection.weight = random(vocabulary, _WIDTH)
    decoder.projection.bias = np.full(vocabulary, -12, np.float32)
    decoder.projection.bias[likely] = 0
    for part in (encoder, decoder):
        norm(part.layer_norm)
        for one in part.layer:
            layer(one)
