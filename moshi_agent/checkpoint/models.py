"""Builds Mimi and the language model of tensors from files, or of none."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from tqdm import tqdm

from moshi_agent.checkpoint.lora import LORA_SIDES, LoraUpdates, read_lora
from moshi_agent.checkpoint.quantised import QuantisedLayers, Rounding, replace_layer
from moshi_agent.checkpoint.room import check_room
from moshi_agent.checkpoint.tensors import Stored, assign_tensors, read_tensors, reading_device
from moshi_agent.config import MimiConfig, MoshiConfig
from moshi_agent.errors import CheckpointError, ConfigError
from moshi_agent.models.lm import AHEAD_TABLE, REFERENCES_TABLE, LMModel
from moshi_agent.models.mimi import MimiModel
from moshi_agent.nn.embedding import TokenEmbedding
from moshi_agent.nn.linear import Int4Linear, Int8Linear, Linear, LoraLinear

_LEAST_ROUNDED_WIDTH = 128  # a narrower layer has little to save, and few numbers to a scale


def new_mimi(config: MimiConfig, device: str = "cpu") -> MimiModel:
    """Makes a codec with weights that are drawn anew, in evaluation mode."""
    return MimiModel(config).to(device).eval()


def fill_mimi(config: MimiConfig, stored: Stored, device: str) -> MimiModel:
    """Builds Mimi of these tensors, by our names, in float32: the codec does not bear less."""
    with torch.device("meta"):
        model = MimiModel(config)
    assign_tensors(model, stored, lambda name, tensor: tensor.to(device, torch.float32))
    model.register_buffer("_like", torch.empty(0, device=device, dtype=torch.float32), persistent=False)
    return model.eval()


def new_lm(config: MoshiConfig, device: str = "cpu", dtype: torch.dtype = torch.bfloat16) -> LMModel:
    """Makes a language model with weights that are drawn anew, in evaluation mode."""
    model = LMModel(config)
    model.init_weights()
    return model.to(device, dtype).eval()


def build_lm(
    config: MoshiConfig,
    stored: Stored,
    device: str = "cpu",
    dtype: torch.dtype = torch.bfloat16,
    lora_path: Path | None = None,
    fuse_lora: bool = True,
    to_be_packed: bool = False,
    progress: bool = False,
    rounding: Rounding | None = None,
) -> LMModel:
    """Builds the language model of these tensors, which are used up.

    Args:
        stored: by our names; on "meta" where the model is to be there.
        device: "meta" checks the tensors and leaves their contents where they are.
        lora_path: low-rank updates, for a configuration that has them.
        fuse_lora: adds the updates to the weights; else they are kept apart.
        to_be_packed: leaves weights that packing reads only once as the file has them.
        progress: shows a bar where there is a terminal.
        rounding: of the weights of layers that the file has as floats. With "int4" it is the temporal
            transformer's alone, which is most of the model; the other layers become int8.

    Raises:
        CheckpointError: tensors or updates that are damaged or do not fit the configuration.
        DeviceFull: the weights have no room on the device.
        ConfigError: low-rank updates on int8 weights, a file of them without a configuration for
            it, or the other way round; int8 weights in the file that are to be int4.
    """
    fused: LoraUpdates | None = None
    kept: LoraUpdates | None = None
    if lora_path is not None:
        fused = read_lora(config, lora_path, stored, reading_device(device))
        stored.tensors.update(fused.whole)
        if not fuse_lora:
            fused, kept = fused.split(lambda layer: not _is_special(layer))
    elif config.lora is not None:
        raise ConfigError(
            f"{stored.source}: no file of the low-rank updates that the configuration has (lora)"
        )
    with torch.device("meta"):
        model = LMModel(config)
        _make_int8(model, config, stored, rounding)
        if kept is not None:
            _make_lora(model, kept)
            stored.tensors.update(kept.tensors())
    return fill_lm(
        model, stored, device, dtype, fused, to_be_packed, progress, rounded_layers(model, rounding)
    )


def add_references(model: LMModel, path: Path) -> None:
    """Gives a model its table for references, or for what it is told ahead.

    Raises:
        CheckpointError: a file that does not fit.
    """
    tensors = read_tensors(path, "cpu")
    model.add_references(ahead=AHEAD_TABLE in tensors)
    table = cast(TokenEmbedding, model.oracle_emb)
    wanted = tuple(table.weight.shape)
    name = AHEAD_TABLE if model.is_told_ahead else REFERENCES_TABLE
    shape = tuple(tensors[name].shape) if name in tensors else None
    if shape != wanted:
        raise CheckpointError(f"{path}: {name} has shape {shape}; the configuration asks for {wanted}")
    with torch.no_grad():
        table.weight.copy_(tensors[name])
    if tensors[name][model.config.text_padding_id].any():
        table.padding_idx = None  # padding means something to this model, and is trained as the others


def fill_lm(
    model: LMModel,
    stored: Stored,
    device: str,
    dtype: torch.dtype,
    lora: LoraUpdates | None = None,
    to_be_packed: bool = False,
    progress: bool = False,
    quantised: QuantisedLayers | None = None,
) -> LMModel:
    """Puts tensors, by our names, into a model on the meta device.

    Args:
        lora: updates to be added to the weights.
        to_be_packed: see `build_lm`.
        progress: shows a bar where there is a terminal.
        quantised: layers of it whose weights are rounded.
    """
    quantised = quantised or QuantisedLayers(model, {})
    advice = "another device" if quantised else "dtype='int8' or 'int4', another device"
    own_types = ((tensor, _own_type(name, tensor, dtype)) for name, tensor in quantised.held())
    check_room(stored.source.parent, own_types, device, advice)
    packed = set(_packed_weights(model)) if to_be_packed else set[str]()

    def finish(name: str, tensor: Tensor) -> Tensor:
        count()
        tensor = tensor if tensor.is_meta else tensor.to(device)
        if lora is not None:
            tensor = lora.fused(name, tensor)
        rounded = quantised.finish(name, tensor)
        if rounded is not None:
            return rounded
        if name.endswith(".weight_scb"):
            _check_scale(stored, name, tensor)
        if name in packed:
            return tensor
        # What stays after packing is small, and must not hold on to the mapping of what is packed.
        return tensor.to(_own_type(name, tensor, dtype), copy=to_be_packed)

    with _counting(len(stored.tensors), progress and sys.stderr.isatty()) as count:
        assign_tensors(model, stored, finish)
    model.register_buffer("_like", torch.empty(0, device=device, dtype=dtype), persistent=False)
    return model.eval()


@contextmanager
def _counting(total: int, visible: bool) -> Generator[Callable[[], object]]:
    """What to call for each tensor. An invisible bar is none: its lock would outlive a killed process."""
    if not visible:
        yield lambda: None
        return
    with tqdm(total=total, desc="language model", unit="tensor", leave=False) as bar:
        yield bar.update


def ignore_early_end(model: LMModel) -> None:
    """Makes the end-of-text token (2) look like padding (3) to the model.

    Hibiki says the end too early now and then; it goes on while its input does.
    """
    table = model.text_emb.weight.detach().clone()  # the file's own memory stays as it is
    table[2] = table[3]
    model.text_emb.weight = nn.Parameter(table, requires_grad=False)


_KEPT_TYPES = (".weight_scb", ".weight_scales")  # of rounded weights


def _own_type(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    """Scales stay what they are and conditions float32, everything else that is floating becomes `dtype`."""
    if not tensor.is_floating_point() or name.endswith(_KEPT_TYPES):
        return tensor.dtype
    return torch.float32 if name.startswith("condition_provider.") else dtype


def _check_scale(stored: Stored, name: str, scale: Tensor) -> None:
    """Raises CheckpointError unless an int8 layer's scale, [out], holds magnitudes; "meta" shows none."""
    if not scale.is_meta and not bool((scale.isfinite() & (scale >= 0)).all()):
        raise CheckpointError(
            f"{stored.file_of(name)}: {stored.shown([name])} is damaged: a scale is NaN, infinite or negative"
        )


def _is_special(layer: str) -> bool:
    """Whether a layer's plain weight is needed: conditions are projected once, and by parts of a weight."""
    return layer.startswith("condition_provider.") or ".cross_attention." in layer


def _packed_weights(model: LMModel) -> list[str]:
    """Names of the weights that `LMModel.pack` reads once and lets go."""
    names = [f"{name}.weight" for name, _ in _linears(model) if not _is_special(name)]
    tables = {"text_emb": model.text_emb} | {f"emb.{index}": one for index, one in enumerate(model.emb)}
    if all(isinstance(table, TokenEmbedding) and table.is_plain for table in tables.values()):
        names += [f"{name}.weight" for name in tables]
    return names


def _linears(model: nn.Module) -> list[tuple[str, Linear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Linear)]


def _make_int8(model: LMModel, config: MoshiConfig, stored: Stored, rounding: Rounding | None) -> None:
    """Replaces the layers that are int8 in the file, or all where the configuration says so."""
    for name, layer in _linears(model):
        if not config.quantize and f"{name}.weight_scb" not in stored.tensors:
            continue
        if rounding == "int4":
            raise ConfigError(
                f"{stored.source}: its weights are int8 already; accepted: dtype='int8', or the checkpoint "
                "in bfloat16"
            )
        if layer.bias is not None or ".cross_attention." in name:
            raise ConfigError(
                f"{stored.source}: {name} cannot be int8; it has a bias, or attends to conditions"
            )
        replace_layer(model, name, Int8Linear(layer.in_features, layer.out_features))


def rounded_layers(model: LMModel, rounding: Rounding | None) -> QuantisedLayers:
    """Chooses what is rounded: layers whose plain weight nothing needs, and large enough to save much."""
    if rounding is None:
        return QuantisedLayers(model, {})
    kinds: dict[str, type[Int8Linear | Int4Linear]] = {
        name: Int4Linear if rounding == "int4" and name.startswith("transformer.") else Int8Linear
        for name, layer in _linears(model)
        if type(layer) is Linear
        and layer.bias is None
        and layer.in_features >= _LEAST_ROUNDED_WIDTH
        and not _is_special(name)
        and not name.endswith(LORA_SIDES)
    }
    return QuantisedLayers(model, kinds)


def _make_lora(model: LMModel, lora: LoraUpdates) -> None:
    for name, layer in _linears(model):
        if name in lora.pairs:
            rank, has_bias = lora.pairs[name][0].shape[0], layer.bias is not None
            wide = LoraLinear(layer.in_features, layer.out_features, rank, lora.scaling, bias=has_bias)
            replace_layer(model, name, wide)
