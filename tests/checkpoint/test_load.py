"""What `load_checkpoint` makes of a checkpoint and of what it is asked for."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moshi_agent import CheckpointError, ConfigError
from moshi_agent.checkpoint import Checkpoint, load, load_checkpoint
from moshi_agent.checkpoint.kyutai.files import locate_kyutai
from moshi_agent.checkpoint.sources import Folder
from moshi_agent.models import loaders
from moshi_agent.models.lm import LMModel

EditJson = Callable[[Path, Mapping[str, Any]], None]


def _lm(checkpoint: Checkpoint) -> LMModel:
    assert checkpoint.lm is not None
    return checkpoint.lm


@torch.no_grad()
def _text_logits(lm: LMModel) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(20, (2, lm.num_codebooks, 6), generator=generator)
    return lm(codes).text_logits


def test_the_language_model_is_float32_on_a_cpu_unless_asked(saved: Path) -> None:
    assert _lm(load_checkpoint(saved)).dtype == torch.float32
    half = _lm(load_checkpoint(saved, dtype=torch.bfloat16))
    assert half.dtype == torch.bfloat16
    assert half.text_linear.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(("has_bfloat16", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
@pytest.mark.parametrize("wanted", [None, "int8"])
def test_a_gpu_computes_in_a_type_that_it_has(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, dtype: torch.dtype, wanted: str | None
) -> None:
    """Volta and Turing emulate bfloat16, and PyTorch counts that as having it unless asked not to."""
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: has_bfloat16 or including_emulation
    )
    assert load._options("cuda", wanted, True, "auto").dtype == dtype
    assert load._options("cuda", torch.float32, True, None).dtype == torch.float32


def test_the_codec_is_float32_whatever_the_file(saved: Path, tmp_path: Path) -> None:
    tensors = load_file(saved / "mimi.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, tmp_path / "mimi.safetensors")
    config = json.loads((saved / "mimi_config.json").read_text())
    mimi = loaders.get_mimi(tmp_path / "mimi.safetensors", config)
    assert {tensor.dtype for tensor in mimi.state_dict().values()} == {torch.float32}


def test_the_codec_has_as_many_codebooks_as_the_model_uses(saved: Path) -> None:
    assert load_checkpoint(saved).mimi.num_codebooks == 4


@pytest.mark.parametrize("pack", ["auto", "float32", "bfloat16", "int8"])
def test_a_packed_checkpoint_answers_as_a_plain_one(saved: Path, pack: Any) -> None:
    plain, packed = load_checkpoint(saved), load_checkpoint(saved, pack=pack)
    expected = _text_logits(_lm(plain))
    error = (_text_logits(_lm(packed)) - expected).abs().max() / expected.std()
    assert error < {"bfloat16": 0.2, "int8": 1.0}.get(pack, 1e-4)
    assert _lm(packed).text_linear.product is not None
    assert _lm(packed).dtype == torch.float32


def test_packing_a_bfloat16_file_is_packing_its_float32_copy(folder: Path) -> None:
    """Bit for bit: weights go from the file straight into their packed form."""
    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, folder / "model.safetensors")
    plain = load_checkpoint(folder)
    _lm(plain).pack("float32")
    assert torch.equal(_text_logits(_lm(load_checkpoint(folder, pack="float32"))), _text_logits(_lm(plain)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pack": "float16"}, "pack='float16'; accepted: auto, float32, bfloat16, int8"),
        ({"pack": "int8", "dtype": torch.bfloat16}, "a packed model computes in float32"),
        ({"pack": "int8", "device": "cuda"}, "packed for the CPU only"),
    ],
)
def test_arguments_that_do_not_go_together_are_an_error(
    saved: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_checkpoint(saved, **arguments)


def test_hibiki_does_not_see_its_own_early_end(folder: Path, edit_json: EditJson) -> None:
    edit_json(folder / "config.json", {"model_type": "hibiki"})
    table, plain = load_checkpoint(folder), load_file(folder / "model.safetensors")["text_emb.weight"]
    weight = _lm(table).text_emb.weight
    assert torch.equal(weight[2], plain[3])
    assert torch.equal(weight[3:], plain[3:])
    assert not torch.equal(plain[2], plain[3]), "the file itself is as it was"
    info = loaders.CheckpointInfo.from_hf_repo(str(folder))
    assert torch.equal(info.get_moshi(dtype=torch.float32).text_emb.weight, weight)


def test_a_configuration_may_say_where_its_files_are(
    folder: Path, tmp_path: Path, edit_json: EditJson
) -> None:
    elsewhere = tmp_path / "weights.safetensors"
    (folder / "model.safetensors").rename(elsewhere)
    edit_json(folder / "config.json", {"moshi_name": f"file://{elsewhere}"})
    assert load_checkpoint(folder).lm is not None


def test_a_repository_without_config_is_the_published_moshi(tmp_path: Path) -> None:
    names = (loaders.MOSHI_NAME, loaders.MIMI_NAME, loaders.TEXT_TOKENIZER_NAME)
    for name in names:
        (tmp_path / name).touch()
    files = locate_kyutai(Folder(tmp_path, "legacy"))
    assert files.paths == [tmp_path / name for name in names]
    assert files.lm_config is None
    assert files.mimi_config is None
    assert files.num_codebooks == 8
    assert files.read_lm_config().temporal.num_layers == 32
    (tmp_path / loaders.MOSHI_NAME).rename(tmp_path / loaders.MOSHI_Q8_NAME)
    assert locate_kyutai(Folder(tmp_path, "legacy")).moshi_weights.name == loaders.MOSHI_Q8_NAME


def test_personaplex_is_moshi_whose_file_also_predicts_the_user(tmp_path: Path) -> None:
    for name in (loaders.MOSHI_NAME, loaders.MIMI_NAME, loaders.TEXT_TOKENIZER_NAME):
        (tmp_path / name).touch()
    (tmp_path / "config.json").write_text('{"model_type": "personaplex", "version": "7b-v1"}')
    files = locate_kyutai(Folder(tmp_path, "personaplex"))
    config = files.read_lm_config()
    assert (config.dep_q, config.n_q, config.temporal.num_layers) == (8, 16, 32)
    assert files.num_codebooks == 8
    assert files.voices is None
    (tmp_path / "voices.tgz").touch()
    assert locate_kyutai(Folder(tmp_path, "personaplex")).paths[-1] == tmp_path / "voices.tgz"


def test_the_info_of_the_other_package_reads_the_same_checkpoint(saved: Path) -> None:
    info = loaders.CheckpointInfo.from_hf_repo(str(saved))
    checkpoint = load_checkpoint(saved)
    assert info.model_type == "moshi"
    assert info.lm_gen_config == {"temp": 0.5}
    assert info.raw_config is not None
    assert info.raw_config["moshi_name"] == "model.safetensors"
    assert info.get_mimi().num_codebooks == 4
    assert info.get_moshi().dtype == torch.bfloat16
    assert torch.equal(_text_logits(info.get_moshi(dtype=torch.float32)), _text_logits(_lm(checkpoint)))
    assert info.get_text_tokenizer().get_piece_size() == 800


def test_the_info_takes_other_files_than_the_checkpoints_own(saved: Path, golden: Path) -> None:
    info = loaders.CheckpointInfo.from_hf_repo(
        str(saved),
        config_path=golden / "lora" / "config.json",
        moshi_weights=golden / "lm" / "moshi" / "model.safetensors",
        mimi_weights=saved / "mimi.safetensors",
        tokenizer=str(saved / "tokenizer_spm.model"),
        mimi_config_path=saved / "mimi_config.json",
        lora_weights=golden / "lora" / "lora.safetensors",
    )
    assert info.lora_weights == golden / "lora" / "lora.safetensors"
    expected = load_file(golden / "lora" / "forward.safetensors")
    with torch.no_grad():
        logits = info.get_moshi(dtype=torch.float32)(expected["codes"].long()).text_logits
    torch.testing.assert_close(logits, expected["text_logits"], rtol=1e-4, atol=1e-3, equal_nan=True)


def test_the_info_of_given_files_asks_nobody_for_any(saved: Path) -> None:
    """A name that is neither a folder nor a repository would be refused if it were looked at."""
    files = {
        "config_path": saved / "config.json",
        "moshi_weights": saved / "model.safetensors",
        "mimi_weights": str(saved / "mimi.safetensors"),
        "tokenizer": saved / "tokenizer_spm.model",
        "mimi_config_path": saved / "mimi_config.json",
    }
    info = loaders.CheckpointInfo.from_hf_repo("my own: v2", **files)
    assert info.moshi_weights == files["moshi_weights"]
    assert info.get_mimi().num_codebooks == 4
    del files["tokenizer"]
    with pytest.raises(CheckpointError, match="my own: v2"):
        loaders.CheckpointInfo.from_hf_repo("my own: v2", **files)


@pytest.mark.parametrize("options", [{}, {"fuse_lora": False}, {"pack": "float32"}], ids=str)
def test_low_rank_updates_can_be_added_to_a_checkpoint(
    saved: Path, golden: Path, options: dict[str, Any]
) -> None:
    checkpoint = load_checkpoint(saved, lora=golden / "lora" / "lora.safetensors", **options)
    expected = load_file(golden / "lora" / "forward.safetensors")
    with torch.no_grad():
        logits = _lm(checkpoint)(expected["codes"].long()).text_logits
    torch.testing.assert_close(logits, expected["text_logits"], rtol=1e-4, atol=1e-3, equal_nan=True)


def test_updates_without_a_configuration_have_the_rank_they_have(
    saved: Path, golden: Path, tmp_path: Path
) -> None:
    updates = load_file(golden / "lora" / "lora.safetensors")
    save_file(updates, tmp_path / "alone.safetensors")
    config = load_checkpoint(saved, lora=tmp_path / "alone.safetensors").config
    assert config is not None
    assert config.lora is not None
    assert (config.lora.rank, config.lora.scaling) == (4, 2.0)


def test_a_file_of_updates_may_carry_whole_embeddings(saved: Path, tmp_path: Path) -> None:
    table = torch.randn(49, 32)
    a, b = torch.randn(2, 32), torch.randn(48, 2)
    tensors = {"text_emb.weight": table, "text_linear.lora_A.weight": a, "text_linear.lora_B.weight": b}
    save_file(tensors, tmp_path / "ft.safetensors")
    plain = _lm(load_checkpoint(saved))
    tuned = _lm(load_checkpoint(saved, lora=tmp_path / "ft.safetensors"))
    assert torch.equal(tuned.text_emb.weight, table)
    torch.testing.assert_close(tuned.text_linear.weight, plain.text_linear.weight + 2 * b @ a)
    assert torch.equal(tuned.out_norm.alpha, plain.out_norm.alpha)


def test_int8_weights_refuse_low_rank_updates(folder: Path, golden: Path, edit_json: EditJson) -> None:
    (folder / "model.safetensors").write_bytes((golden / "q8" / "model.safetensors").read_bytes())
    edit_json(folder / "config.json", {"quantize": True})
    assert load_checkpoint(folder).lm is not None
    with pytest.raises(ConfigError, match="cannot be added to the int8 weights"):
        load_checkpoint(folder, lora=golden / "lora" / "lora.safetensors")


def test_a_codec_that_does_not_fit_the_language_model_is_an_error(folder: Path, edit_json: EditJson) -> None:
    edit_json(folder / "config.json", {"card": 64})
    with pytest.raises(
        CheckpointError, match="speaks 4 codebooks of 64 entries; the codec beside it has 32 of 24"
    ):
        load_checkpoint(folder)


def _mapped_ranges(path: Path) -> list[range]:
    lines = [line.split() for line in Path("/proc/self/maps").read_text().splitlines() if str(path) in line]
    ends = [[int(end, 16) for end in line[0].split("-")] for line in lines]
    return [range(*end) for end in ends]


needs_proc = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="only Linux says what is mapped")


@needs_proc
def test_weights_in_the_type_of_the_file_are_mapped_from_it(folder: Path) -> None:
    lm = _lm(load_checkpoint(folder))
    ranges = _mapped_ranges(folder / "model.safetensors")
    for name, parameter in lm.named_parameters():
        assert any(parameter.data_ptr() in mapped for mapped in ranges), name


@needs_proc
def test_a_packed_model_has_let_go_of_the_file(folder: Path) -> None:
    lm = _lm(load_checkpoint(folder, pack="float32"))
    assert not _mapped_ranges(folder / "model.safetensors")
    assert lm.dtype == torch.float32


def test_a_folder_has_no_revision(saved: Path) -> None:
    with pytest.raises(CheckpointError, match="a folder, which has no revision v1"):
        load_checkpoint(saved, revision="v1")
