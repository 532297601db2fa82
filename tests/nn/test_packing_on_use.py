"""A model that nobody packed: fast where no gradient is asked for, plain for everybody who looks at it."""

from __future__ import annotations

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from moshi_agent.models import MimiModel, loaders
from moshi_agent.nn.conv import CausalConv1d
from moshi_agent.nn.packing_on_use import PacksOnUse, pack_on_use
from tests.small_models import small_mimi


def _packed_layers(model: MimiModel) -> int:
    layers = [module for module in model.modules() if isinstance(module, PacksOnUse)]
    return sum(layer._packed_copy is not None for layer in layers)  # pyright: ignore[reportPrivateUsage]


def _audio() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.1 * torch.randn(1, 1, 4 * small_mimi().frame_size, generator=generator)


@torch.no_grad()
def _latent(model: MimiModel) -> Tensor:
    return model.encode_to_latent(_audio().to(model.dtype), quantize=False)


@pytest.fixture
def used() -> MimiModel:
    """A codec with packed copies of its weights."""
    model = small_mimi()
    pack_on_use(model)
    _latent(model)
    assert _packed_layers(model) > 10
    return model


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_used_without_gradients_it_packs_and_says_the_same(mode: Callable[[], torch.no_grad]) -> None:
    """Offline and streamed, its codes and audio are those of the plain model."""
    plain, packing = small_mimi(), small_mimi()
    pack_on_use(packing)
    with mode():
        codes = plain.encode(_audio())
        assert torch.equal(packing.encode(_audio()), codes)
        assert _packed_layers(packing) > 10
        with plain.streaming(1), packing.streaming(1):
            for frame in codes.split(1, dim=2):
                torch.testing.assert_close(packing.decode(frame), plain.decode(frame), atol=1e-5, rtol=1e-4)


def test_with_gradients_nothing_is_packed() -> None:
    model = small_mimi()
    pack_on_use(model)
    model.encode_to_latent(_audio(), quantize=False).sum().backward()
    assert _packed_layers(model) == 0
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_its_weights_stay_plain(used: MimiModel) -> None:
    """What is saved, counted and given to an optimizer is what it was."""
    assert _packed_layers(used) > 0
    wanted = small_mimi().state_dict()
    assert used.state_dict().keys() == wanted.keys()
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in used.state_dict().items())
    assert sum(p.numel() for p in used.parameters()) == sum(p.numel() for p in small_mimi().parameters())


def _in_place(model: MimiModel) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)


def _data_replaced(model: MimiModel) -> None:
    for parameter in model.parameters():
        parameter.data = 0.9 * parameter.data


def _loaded(model: MimiModel) -> None:
    scaled = small_mimi()
    _in_place(scaled)
    model.load_state_dict(scaled.state_dict())


def _stepped(model: MimiModel) -> None:
    """Gradient descent on half the sum of squares: what a step leaves is 0.9 of the weight."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sum(parameter.square().sum() / 2 for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()


@pytest.mark.parametrize("change", [_in_place, _data_replaced, _loaded, _stepped])
def test_a_changed_weight_is_packed_anew(used: MimiModel, change: Callable[[MimiModel], None]) -> None:
    plain, before = small_mimi(), _latent(used)
    change(plain)
    change(used)
    assert not torch.allclose(_latent(used), before)
    torch.testing.assert_close(_latent(used), _latent(plain), atol=1e-5, rtol=1e-4)


def test_changed_codebooks_are_looked_up_anew(used: MimiModel) -> None:
    """A codec that has encoded before takes the codebooks that are loaded into it."""
    other = small_mimi()
    for index in range(3):
        codebook = other.quantizer.rvq_rest.codebook(index)
        codebook.embedding_sum.copy_(codebook.embedding_sum.flip(0))
        codebook.refresh()
    with torch.no_grad():
        used.encode(_audio())
        used.load_state_dict(other.state_dict())
        assert torch.equal(used.encode(_audio()), other.encode(_audio()))


def test_in_inference_mode_loaded_weights_are_packed_anew() -> None:
    """Tensors that are made there keep no count of their changes."""
    with torch.inference_mode():
        model, other = small_mimi(), small_mimi()
        pack_on_use(model)
        before = _latent(model)
        _loaded(model)
        _in_place(other)
        assert not torch.allclose(_latent(model), before)
        torch.testing.assert_close(_latent(model), _latent(other), atol=1e-5, rtol=1e-4)


def test_moved_to_another_type_it_computes_in_it(used: MimiModel) -> None:
    used.double()
    assert _packed_layers(used) == 0
    layer = used.encoder.model[0]
    assert isinstance(layer, CausalConv1d)
    with torch.no_grad():
        assert layer(_audio().transpose(1, 2).double()).dtype == torch.float64


def test_training_ends_it(used: MimiModel) -> None:
    """The weights would be in memory twice: those that are trained, and their copies."""
    used.train()
    assert _packed_layers(used) == 0
    used.eval()
    _latent(used)
    assert _packed_layers(used) == 0


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_the_model_has_packed_nothing(
    used: MimiModel, duplicate: Callable[[MimiModel], MimiModel]
) -> None:
    other = duplicate(used)
    assert _packed_layers(other) == 0
    torch.testing.assert_close(_latent(other), _latent(used))


def test_packed_for_good_it_keeps_no_copies(used: MimiModel) -> None:
    wanted = _latent(used)
    used.pack("float32")
    assert _packed_layers(used) == 0
    torch.testing.assert_close(_latent(used), wanted, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_loaded_codec_packs_itself_where_its_weights_are_the_files(tmp_path: Path) -> None:
    """Weights in another type than the file's are memory of their own: a packed copy would double them."""
    folder = Path(__file__).parents[1] / "golden" / "mimi"
    config = json.loads((folder / "config.json").read_text())
    tensors = load_file(folder / "model.safetensors")
    half = tmp_path / "half.safetensors"
    save_file({name: tensor.bfloat16() for name, tensor in tensors.items()}, half)
    for path, packs in ((folder / "model.safetensors", True), (half, False), (None, False)):
        model = loaders.get_mimi(path, config, num_codebooks=config["quantizer"]["n_q"])
        model.encode(torch.zeros(1, 1, model.frame_size))
        assert (_packed_layers(model) > 0) == packs
