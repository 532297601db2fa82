"""Makes `stereo/interleaver.json`: the text tokens of Kyutai's `Interleaver` for many alignments.

Its package, moshi-finetune, is on no registry. With the environment of `make_golden.py` and a checkout of it,
made for commit 2acc879fe7c48f885a18f6cc9548bccb2674d87b:

    PYTHONPATH=moshi-finetune peer/bin/python tests/golden/make_stereo.py

`stereo/flite_words.json` has real times, of words said by flite. The other alignments are drawn here, with
all that a recogniser may write: words out of order, at once, of no length, of other speakers, empty, and
with line breaks.
"""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from finetune.data.interleaver import Interleaver, dicho
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

_FOLDER = Path(__file__).parent / "stereo"
_FRAME_RATE_HZ = 12.5
_DRAWN = 60
_WORDS = [
    "the",
    "mat",
    "hello",
    "you",
    "Schnurrbart",
    "c'est",
    "a",
    "",
    " cat ",
    "on\nthe",
    "naïve",
    "猫",
    "1234",
    "there!",
]
_SPEAKERS = ["SPEAKER_MAIN"] * 6 + ["SPEAKER_01", "USER"]


def main() -> None:
    tokenizer = _tokenizer()
    rng = random.Random(0)
    drawn = [(_draw(rng), rng.randint(1, 60)) for _ in range(_DRAWN)]
    real = [(words, 50) for words in json.loads((_FOLDER / "flite_words.json").read_text())]
    cases = [_case(tokenizer, *inputs, shift) for inputs in drawn + real for shift in (False, True)]
    (_FOLDER / "interleaver.json").write_text(json.dumps(cases, separators=(",", ":"), ensure_ascii=False))
    print(f"{len(cases)} cases")


def _tokenizer() -> SentencePieceProcessor:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "hello there you"] * 20),
        model_writer=model,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=3,
        normalization_rule_name="identity",  # which keeps line breaks
        num_threads=1,
        minloglevel=2,
    )
    (_FOLDER / "tokenizer.model").write_bytes(model.getvalue())
    return SentencePieceProcessor(model_proto=model.getvalue())


def _draw(rng: random.Random) -> list[list[Any]]:
    words: list[list[Any]] = []
    for _ in range(rng.randint(0, 25)):
        # Many on the grid of frames, where rounding would show.
        start = rng.choice([round(rng.uniform(0, 4), 2), rng.randint(0, 50) * 0.08])
        end = round(start + rng.choice([0.0, -0.1, 0.02, 0.3, 1.0]), 3)
        words.append([rng.choice(_WORDS), [start, end], rng.choice(_SPEAKERS)])
    return words


def _case(
    tokenizer: SentencePieceProcessor, words: list[list[Any]], frames: int, shift: bool
) -> dict[str, Any]:
    interleaver = Interleaver(
        tokenizer, _FRAME_RATE_HZ, 3, 0, -1, keep_main_only=True, keep_and_shift=shift, device="cpu"
    )
    # As its InterleavedTokenizer calls it: with the words that begin before the crop's end, with frames for
    # seconds, and cut to the frames afterwards.
    found = sorted(words, key=lambda word: word[1][0])
    found = found[: dicho(found, frames / _FRAME_RATE_HZ)]
    tokens = interleaver.prepare_item(found, frames)[0, 0, :frames].tolist()
    return {"words": words, "frames": frames, "shift": shift, "tokens": tokens}


if __name__ == "__main__":
    main()
