"""The table for a stream of references: a file of its own, and without references as if there were none."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from importlib import resources
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from moshi_agent.checkpoint import download_checkpoint, load_checkpoint, save_kyutai
from moshi_agent.checkpoint.convert import convert_checkpoint
from moshi_agent.errors import CheckpointError, ConfigError, InputError
from moshi_agent.hf import MoshiForCausalLM, MoshiForConditionalGeneration
from moshi_agent.models import loaders
from moshi_agent.models.lm import LMModel
from moshi_agent.models.lm_gen import LMGen
from tests.small_models import small_lm, small_lm_config, small_mimi
from tests.text_tokenizers import small_tokenizer

PADDING = 3
REFERENCES = "references.safetensors"


def with_table() -> LMModel:
    """A model with a table drawn at random."""
    torch.manual_seed(0)
    model = small_lm()
    model.add_references()
    model.init_weights()
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with a table for references."""
    folder = tmp_path_factory.mktemp("with_references")
    tokenizer = resources.files("moshi_agent") / "assets" / "tiny" / "tokenizer_spm.model"
    with resources.as_file(tokenizer) as path:
        save_kyutai(folder, small_mimi(), with_table(), path, dtype=torch.float32)
    return folder


def codes(model: LMModel, steps: int) -> torch.Tensor:
    """Codes of a call, [1, streams, steps]."""
    return torch.randint(0, 8, (1, model.num_codebooks, steps), generator=torch.Generator().manual_seed(1))


def test_the_table_is_written_beside_the_weights_and_read_again(folder: Path) -> None:
    """Kyutai's package refuses tensors that it does not know, so none of them is in its file."""
    model = with_table()
    assert model.oracle_emb is not None
    assert not any("oracle" in name for name in load_file(folder / "model.safetensors"))
    assert list(load_file(folder / REFERENCES)) == ["oracle_emb.weight"]
    loaded = load_checkpoint(folder).lm
    assert loaded is not None and loaded.oracle_emb is not None
    assert torch.equal(loaded.oracle_emb.weight, model.oracle_emb.weight)


def test_a_table_for_what_is_told_ahead_is_told_from_one_for_references(tmp_path: Path) -> None:
    """By its name; it is no stream of references, and nothing without a sentence that is to be said."""
    model = with_table()
    model.is_told_ahead = True
    tokenizer = resources.files("moshi_agent") / "assets" / "tiny" / "tokenizer_spm.model"
    with resources.as_file(tokenizer) as path:
        save_kyutai(tmp_path, small_mimi(), model, path, dtype=torch.float32)
    assert list(load_file(tmp_path / REFERENCES)) == ["ahead_emb.weight"]
    loaded = load_checkpoint(tmp_path).lm
    assert loaded is not None and loaded.oracle_emb is not None and model.oracle_emb is not None
    assert loaded.is_told_ahead and loaded.takes_references is None and loaded.takes_beside == "tokens"
    assert torch.equal(loaded.oracle_emb.weight, model.oracle_emb.weight)
    assert isinstance(MoshiForCausalLM.from_pretrained(tmp_path), MoshiForCausalLM), "it is whole without"


def test_padding_is_as_good_as_no_reference(folder: Path) -> None:
    """Bit for bit: rows without a reference keep what they say. Other tokens change it."""
    model = with_table()
    given = model.delayed(codes(model, 8))[:, :, :-1]
    none, _ = model.temporal(given)
    padding, _ = model.temporal(given, references=torch.full((1, 8), PADDING))
    some, _ = model.temporal(given, references=torch.tensor([[PADDING] * 5 + [12, 5, 6]]))
    assert torch.equal(none, padding)
    assert torch.equal(none[:, :5], some[:, :5])
    assert not torch.allclose(none[:, 5:], some[:, 5:])


def test_a_row_is_given_its_own_reference_while_it_generates() -> None:
    """Of two rows in step, the one with a reference goes its own way, and the other stays as it was."""
    model = with_table()
    outputs: list[torch.Tensor] = []
    for tokens in ([PADDING, PADDING], [PADDING, 12]):
        generator = LMGen(model, use_sampling=False)
        with generator.streaming(2):
            user = torch.zeros(2, model.n_q - model.dep_q, 1, dtype=torch.long)
            for _ in range(4):
                generator.step(user, references=torch.tensor(tokens))
            outputs.append(generator.streaming_state.ring.tokens.clone())
    assert torch.equal(outputs[0][0], outputs[1][0])
    assert not torch.equal(outputs[0][1], outputs[1][1])


def test_a_table_of_another_size_is_refused(folder: Path, tmp_path: Path) -> None:
    """The error names the file and both shapes."""
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    save_file({"oracle_emb.weight": torch.zeros(3, 4)}, tmp_path / REFERENCES)
    with pytest.raises(CheckpointError, match="references"):
        load_checkpoint(tmp_path)


@pytest.fixture
def kame(folder: Path, tmp_path: Path) -> Path:
    """A checkpoint as KAME is: the table is among the weights, and its padding is not nothing."""
    kame = tmp_path / "kame"
    shutil.copytree(folder, kame)
    table = load_file(kame / REFERENCES)["oracle_emb.weight"]
    table[PADDING] = 0.5
    save_file(
        load_file(kame / "model.safetensors") | {"oracle_emb.weight": table}, kame / "model.safetensors"
    )
    (kame / REFERENCES).unlink()
    return kame


def test_kames_table_is_found_among_its_weights(kame: Path) -> None:
    """Its padding is added in every step, and is trained as all of its rows."""
    loaded = load_checkpoint(kame)
    assert loaded.lm is not None and loaded.lm.oracle_emb is not None
    assert (loaded.kind, loaded.lm.takes_references) == ("dialogue", "tokens")
    assert loaded.lm.oracle_emb.padding_idx is None
    given = loaded.lm.delayed(codes(loaded.lm, 8))[:, :, :-1]
    plain = loaded.lm.embed(given) - loaded.lm.oracle_emb.weight[PADDING]
    torch.testing.assert_close(plain, with_table().embed(given))
    by_loaders = loaders.CheckpointInfo.from_hf_repo(str(kame)).get_moshi(dtype=torch.float32)
    torch.testing.assert_close(by_loaders.embed(given), loaded.lm.embed(given))
    assert [one.path.name for one in download_checkpoint(kame)].count("model.safetensors") == 1


def test_kame_is_written_as_all_others_and_is_the_same(kame: Path, tmp_path: Path) -> None:
    """The table gets a file of its own; the format of Transformers has no place for it."""
    loaded = load_checkpoint(kame)
    assert loaded.lm is not None
    save_kyutai(tmp_path / "saved", loaded.mimi, loaded.lm, next(kame.glob("*.model")), dtype=torch.float32)
    given = loaded.lm.delayed(codes(loaded.lm, 8))[:, :, :-1]
    assert "oracle_emb.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
    lm = load_checkpoint(tmp_path / "saved").lm
    assert lm is not None and torch.equal(lm.embed(given), loaded.lm.embed(given))
    with pytest.raises(ConfigError, match="no place for a table for references"):
        convert_checkpoint(kame, tmp_path / "hf", "transformers")
    for model in (MoshiForConditionalGeneration, MoshiForCausalLM):
        with pytest.raises(ConfigError, match="have no place"):
            model.from_pretrained(kame)


def test_references_of_the_wrong_kind_are_refused() -> None:
    """Rows for a model that takes tokens, tokens for none at all."""
    model, plain = with_table(), small_lm()
    given = model.delayed(codes(model, 4))[:, :, :-1]
    with pytest.raises(InputError, match="accepted: tokens"):
        model.embed(given, torch.zeros(1, 4, 16))
    with pytest.raises(InputError, match="not trained to take any"):
        plain.embed(given, torch.full((1, 4), PADDING))
    with pytest.raises(InputError, match="not trained to take rows"):
        plain.project_references(torch.zeros(2, 8))


def test_what_asks_for_a_reference_is_said_by_the_tokenizer(folder: Path) -> None:
    """By a control symbol; what the configuration says goes before."""
    loaded = replace(load_checkpoint(folder), tokenizer=small_tokenizer())
    assert loaded.reference_token_id is None
    asking = replace(loaded, tokenizer=_tokenizer_with("<reference>"))
    assert asking.reference_token_id == 4
    model = LMModel(replace(small_lm_config(), reference_token_id=7))
    assert replace(asking, lm=model).reference_token_id == 7


def _tokenizer_with(symbol: str) -> SentencePieceProcessor:
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat", "hello there you"] * 20),
        model_writer=model,
        vocab_size=30,
        model_type="bpe",
        pad_id=3,
        control_symbols=symbol,
        minloglevel=2,
    )
    return SentencePieceProcessor(model_proto=model.getvalue())
