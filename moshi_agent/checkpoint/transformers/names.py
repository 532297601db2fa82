"""Tensors of Hugging Face Transformers' Mimi and Moshi, paired with ours; a pairing goes both ways.

Three things differ beside the names. Queries, keys and values are three matrices there; where rope
turns them, pairs of rows stand half a head apart rather than side by side; and what the depth
transformer has once per codebook is stacked in one tensor.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from moshi_agent.config import DepthConfig, MoshiConfig, TransformerConfig

Convert = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def _as_is(tensors: Sequence[Tensor]) -> Sequence[Tensor]:
    return tensors


@dataclass(frozen=True)
class Pairing:
    """Some of our tensors, some of theirs, and how each become the others."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...]
    to_ours: Convert = _as_is
    to_theirs: Convert = _as_is


def to_ours(pairings: Iterable[Pairing], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by their names -> by ours. Every name that the pairings have must be there."""
    return {
        name: tensor
        for pairing in pairings
        for name, tensor in _zip(pairing.ours, pairing.to_ours([tensors[name] for name in pairing.theirs]))
    }


def to_theirs(pairings: Iterable[Pairing], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors by our names -> by theirs. Every name that the pairings have must be there."""
    return {
        name: tensor
        for pairing in pairings
        for name, tensor in _zip(pairing.theirs, pairing.to_theirs([tensors[name] for name in pairing.ours]))
    }


def _zip(names: Sequence[str], tensors: Sequence[Tensor]) -> Iterable[tuple[str, Tensor]]:
    return zip(names, tensors, strict=True)


def mimi_pairings(names: Iterable[str], transformer: TransformerConfig, prefix: str = "") -> list[Pairing]:
    """Pairs the codec's names.

    Args:
        names: of our tensors.
        prefix: of all their names, where the codec is part of a larger model.
    """
    return [_mimi_pairing(name, transformer, prefix) for name in names]


_MIMI_NAMES = (
    (r"^(encoder|decoder)\.model\.(.*)\.(weight|bias)$", r"\1.layers.\2.conv.\3"),
    (r"^(downsample|upsample)\.weight$", r"\1.conv.weight"),
    (r"^(\w+_transformer)\.transformer\.layers\.(\d+)\.", r"\1.layers.\2."),
    (r"\.norm1\.", ".input_layernorm."),
    (r"\.norm2\.", ".post_attention_layernorm."),
    (r"\.linear([12])\.", r".mlp.fc\1."),
    (r"\.layer_scale_1\.", ".self_attn_layer_scale."),
    (r"\.layer_scale_2\.", ".mlp_layer_scale."),
    (r"\.self_attn\.out_projs\.0\.", ".self_attn.o_proj."),
    (r"^quantizer\.rvq_first\.", "quantizer.semantic_residual_vector_quantizer."),
    (r"^quantizer\.rvq_rest\.", "quantizer.acoustic_residual_vector_quantizer."),
    (r"\.codebooks\.(\d+)\.embedding_sum$", r".layers.\1.codebook.embed_sum"),
    (r"\.codebooks\.(\d+)\.", r".layers.\1.codebook."),
)


def _mimi_pairing(name: str, transformer: TransformerConfig, prefix: str) -> Pairing:
    theirs = name
    for pattern, replacement in _MIMI_NAMES:
        theirs = re.sub(pattern, replacement, theirs)
    theirs = prefix + theirs
    attention = re.fullmatch(r"(.*\.self_attn\.)in_projs\.0\.weight", theirs)
    if attention is not None:
        return _attention((name,), [f"{attention[1]}{part}_proj.weight" for part in "qkv"], transformer)
    if re.match(r"quantizer\..*_proj\.weight$", name):  # a convolution of width 1 there
        return _reshaped(name, theirs, lambda x: x.squeeze(-1), lambda x: x.unsqueeze(-1))
    return Pairing((name,), (theirs,))


def moshi_pairings(config: MoshiConfig) -> list[Pairing]:
    """The language model's: the temporal transformer is `decoder` there, the depth one `depth_decoder`."""
    pairings = [
        Pairing(("text_emb.weight",), ("decoder.model.embed_tokens.weight",)),
        *(Pairing((f"emb.{i}.weight",), (f"embed_tokens.{i}.weight",)) for i in range(config.n_q)),
        _norm("out_norm", "decoder.model.norm"),
        Pairing(("text_linear.weight",), ("decoder.lm_head.weight",)),
    ]
    for layer in range(config.temporal.num_layers):
        ours, theirs = f"transformer.layers.{layer}.", f"decoder.model.layers.{layer}."
        pairings += _layer(ours, theirs, config.temporal, ["gating"])
    assert config.depth is not None, "the format has no model without a depth transformer"
    return pairings + _depth_pairings(config.depth, config.dep_q)


def text_pairings(config: MoshiConfig, names: Collection[str], prefix: str) -> list[Pairing]:
    """Pairs the names of these tensors of ours, as a model of the text stream alone is saved.

    Args:
        prefix: stands where a whole model has `decoder.model.`; the output layer is outside of `model.`.
    """
    names = set(names)
    return [
        dataclasses.replace(
            pairing,
            theirs=tuple(
                prefix + name.removeprefix("decoder.model.")
                if name.startswith("decoder.model.")
                else prefix.removesuffix("model.") + name.removeprefix("decoder.")
                for name in pairing.theirs
            ),
        )
        for pairing in moshi_pairings(config)
        if names.issuperset(pairing.ours)
    ]


def _depth_pairings(depth: DepthConfig, steps: int) -> list[Pairing]:
    prefix = "depth_decoder."
    pairings = [
        Pairing(("depformer_text_emb.weight",), (f"{prefix}text_embed_tokens.weight",)),
        *(
            Pairing((f"depformer_emb.{i}.weight",), (f"{prefix}embed_tokens.{i}.weight",))
            for i in range(steps - 1)
        ),
        _stacked([f"depformer_in.{i}.weight" for i in range(steps)], f"{prefix}input_projections.weight"),
        _stacked([f"linears.{i}.weight" for i in range(steps)], f"{prefix}lm_heads.weight"),
    ]
    gates = [f"gating.{i}" for i in range(steps)]
    for layer in range(depth.transformer.num_layers):
        pairings += _layer(f"depformer.layers.{layer}.", f"{prefix}layers.{layer}.", depth.transformer, gates)
    return pairings


def _layer(ours: str, theirs: str, config: TransformerConfig, gates: Sequence[str]) -> list[Pairing]:
    """One layer; `gates` names the feed-forward block of each step."""
    steps = range(len(gates))
    values = [f"{theirs}self_attn.{part}_proj.linear.weight" for part in "qkv"]
    return [
        _norm(f"{ours}norm1", f"{theirs}input_layernorm"),
        _norm(f"{ours}norm2", f"{theirs}post_attention_layernorm"),
        _attention([f"{ours}self_attn.in_projs.{i}.weight" for i in steps], values, config),
        _stacked(
            [f"{ours}self_attn.out_projs.{i}.weight" for i in steps],
            f"{theirs}self_attn.o_proj.linear.weight",
        ),
        _stacked([f"{ours}{gate}.linear_in.weight" for gate in gates], f"{theirs}mlp.fc1.weight"),
        _stacked([f"{ours}{gate}.linear_out.weight" for gate in gates], f"{theirs}mlp.fc2.weight"),
    ]


def _reshaped(
    ours: str, theirs: str, back: Callable[[Tensor], Tensor], forth: Callable[[Tensor], Tensor]
) -> Pairing:
    return Pairing((ours,), (theirs,), lambda x: [back(x[0])], lambda x: [forth(x[0])])


def _norm(ours: str, theirs: str) -> Pairing:
    return _reshaped(f"{ours}.alpha", f"{theirs}.weight", lambda x: x.view(1, 1, -1), lambda x: x.view(-1))


def _stacked(ours: Sequence[str], theirs: str) -> Pairing:
    """One of ours per step. A single step has no dimension of its own there."""
    if len(ours) == 1:
        return Pairing(tuple(ours), (theirs,))
    return Pairing(tuple(ours), (theirs,), lambda x: x[0].unbind(), lambda x: [torch.stack(list(x))])


def _attention(ours: Sequence[str], theirs: Sequence[str], config: TransformerConfig) -> Pairing:
    """Projections of queries, keys and values: one matrix per step here, stacks of three kinds there."""
    rotated = config.positional_embedding == "rope"
    heads = (config.num_heads, config.num_kv_heads, config.num_kv_heads)
    rows = [count * config.head_dim for count in heads]
    alone = len(ours) == 1

    def back(parts: Sequence[Tensor]) -> Sequence[Tensor]:
        stacks = [part[None] if alone else part for part in parts]  # [steps, rows, C] each
        if rotated:
            stacks[:2] = [_side_by_side(stacks[i], heads[i]) for i in (0, 1)]
        return torch.cat(stacks, dim=1).unbind()

    def forth(joined: Sequence[Tensor]) -> Sequence[Tensor]:
        stacks = list(torch.stack(list(joined)).split(rows, dim=1))
        if rotated:
            stacks[:2] = [_half_a_head_apart(stacks[i], heads[i]) for i in (0, 1)]
        return [stack[0] if alone else stack for stack in stacks]

    return Pairing(tuple(ours), tuple(theirs), back, forth)


def _side_by_side(stack: Tensor, heads: int) -> Tensor:
    """Rows i and i + D / 2 of each head become neighbours. [S, H D, C] -> the same shape."""
    return stack.unflatten(1, (heads, 2, -1)).transpose(2, 3).flatten(1, 3)


def _half_a_head_apart(stack: Tensor, heads: int) -> Tensor:
    """The other way round. [S, H D, C] -> the same shape."""
    return stack.unflatten(1, (heads, -1, 2)).transpose(2, 3).flatten(1, 3)
