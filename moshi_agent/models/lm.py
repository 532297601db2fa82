"""The language model of Moshi: text and audio codes over time, codebooks within each step.

The temporal transformer reads one token of every stream per step and gives the next text token; the
depth transformer then gives the codebooks one after the other. Tensor names are those of Kyutai's
checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from moshi_agent.config import DepthConfig, MoshiConfig, ReferenceKind
from moshi_agent.errors import InputError
from moshi_agent.models.delays import delayed, undelayed
from moshi_agent.nn.attention import CrossSource
from moshi_agent.nn.conditioners import ConditionFuser, ConditionProvider, ConditionTensors
from moshi_agent.nn.embedding import UNGENERATED_TOKEN, ZERO_TOKEN, PackedEmbeddingSum, TokenEmbedding
from moshi_agent.nn.kv_cache import LayerCache
from moshi_agent.nn.linear import JoinedLinears, Linear
from moshi_agent.nn.native.depth import NativeDepth
from moshi_agent.nn.native.products import NativeProduct
from moshi_agent.nn.norm import make_norm
from moshi_agent.nn.packing import PackFormat
from moshi_agent.nn.transformer import Transformer, TransformerState

REFERENCES_TABLE = "oracle_emb.weight"  # as KAME (arXiv:2510.02327) names it
AHEAD_TABLE = "ahead_emb.weight"  # the same table in a file, of a model that is told ahead


@dataclass
class LMOutput:
    """Holds logits at the positions of the codes that they predict; NaN where `mask` is False."""

    logits: Tensor  # [B, dep_q, T, card]
    mask: Tensor  # [B, dep_q, T] bool
    text_logits: Tensor  # [B, 1, T, text_card_out]
    text_mask: Tensor  # [B, 1, T] bool


@dataclass
class Conditions:
    """Holds what the temporal transformer is told about the whole conversation."""

    sum: Tensor | None = None  # [B or 1, 1, dim]
    cross: CrossSource | None = None
    prepend: Tensor | None = None  # [B or 1, P, dim] read in positions before the first step

    @property
    def positions(self) -> int:
        """Counts the positions before the first step."""
        return 0 if self.prepend is None else self.prepend.shape[1]


class LMModel(nn.Module):
    """Predicts text and audio tokens: temporal and depth transformer. `LMGen` generates with it."""

    def __init__(self, config: MoshiConfig) -> None:
        super().__init__()
        self.config = config
        dim, norm_emb, demux = config.temporal.dim, config.norm_emb, config.demux_second_stream
        self.emb = nn.ModuleList(
            TokenEmbedding(config.card + 1, dim, norm=norm_emb) for _ in range(config.n_q)
        )
        self.text_emb = TokenEmbedding(config.text_card + 1, dim, norm=norm_emb, demux=demux)
        self.transformer = Transformer(config.temporal)
        self.out_norm = make_norm(config.temporal.norm, dim)
        self.text_linear = Linear(dim, config.text_card_out or config.text_card, bias=config.bias_proj)
        self.extra_heads = nn.ModuleList(
            Linear(dim, config.extra_heads_dim) for _ in range(config.extra_heads_num_heads)
        )
        # For a stream of references, in a model that was trained to speak about them: `add_references`.
        self.oracle_emb: TokenEmbedding | None = None
        # Whether that stream holds no references, but the next piece of what the model is told to say, in
        # every frame until it is written: so it knows what its sound leads to, and when.
        self.is_told_ahead = False
        self.condition_provider = ConditionProvider(config.conditioners, dim) if config.conditioners else None
        self.fuser = ConditionFuser(config.fuser) if config.fuser else None
        self._packed_embeddings: PackedEmbeddingSum | None = None
        self._packed_depth_in: JoinedLinears | None = None
        self.native_depth: NativeDepth | None = None  # once packed
        self.least_rows = 1  # packed products take a lone row only by way of two
        if config.depth is not None:
            self._make_depth(config.depth)
        self._like: Tensor
        self.register_buffer("_like", torch.empty(0), persistent=False)

    def add_references(self, ahead: bool = False) -> None:
        """Gives the model a table for references, whose padding is zeros: as if there were none.

        Args:
            ahead: it is told ahead, and takes no references.
        """
        self.is_told_ahead = ahead
        config = self.config
        table = TokenEmbedding(config.text_card + 1, config.temporal.dim, zero=config.text_padding_id)
        self.oracle_emb = table.to(self.device, self.dtype)

    @property
    def takes_beside(self) -> ReferenceKind | None:
        """Tells what a step takes beside the streams: tokens of text, rows of an encoder, or nothing."""
        if self.oracle_emb is not None:
            return "tokens"
        fuser = self.config.fuser
        return "rows" if fuser is not None and fuser.streaming_sum else None

    @property
    def takes_references(self) -> ReferenceKind | None:
        """Tells how the model is given references; None where it was not trained to speak about any."""
        return None if self.is_told_ahead else self.takes_beside

    def project_references(self, rows: Tensor) -> Tensor:
        """Projects rows of an encoder, [T, row_dim], to those that steps take as `references`, [T, dim].

        Raises:
            InputError: a model that takes no rows, or rows of another shape.
        """
        if self.takes_references != "rows" or self.condition_provider is None or self.fuser is None:
            raise InputError("the model was not trained to take rows of references")
        conditioners = self.condition_provider.conditioners
        parts = [conditioners[name](rows.to(self.device)) for name in self.fuser.config.streaming_sum]
        return torch.stack(parts).sum(0).to(self.dtype)

    def _make_depth(self, depth: DepthConfig) -> None:
        config, dim = self.config, depth.transformer.dim
        low_rank, norm_emb = depth.low_rank_embeddings, config.norm_emb
        inputs = _input_sets(depth)
        self.depformer_in = nn.ModuleList(Linear(config.temporal.dim, dim) for _ in range(inputs))
        self.depformer_text_emb = TokenEmbedding(
            config.text_card + 1, dim, low_rank=low_rank, norm=norm_emb, demux=config.demux_second_stream
        )
        # The last codebook is never an input.
        self.depformer_emb = nn.ModuleList(
            TokenEmbedding(config.card + 1, dim, low_rank=low_rank, norm=norm_emb)
            for _ in range(config.dep_q - 1)
        )
        self.depformer = Transformer(depth.transformer)
        self.depformer_norms = nn.ModuleList(
            make_norm(depth.norm, dim) if depth.norm else nn.Identity() for _ in range(config.dep_q)
        )
        self.linears = nn.ModuleList(
            Linear(dim, config.card, bias=config.bias_proj) for _ in range(config.dep_q)
        )

    @property
    def device(self) -> torch.device:
        return self._like.device

    @property
    def dtype(self) -> torch.dtype:
        return self._like.dtype

    @property
    def place(self) -> Tensor:
        """Returns what is another object once the weights have been moved, as `to` does."""
        return self._like

    @property
    def n_q(self) -> int:
        return self.config.n_q

    @property
    def dep_q(self) -> int:
        return self.config.dep_q

    @property
    def card(self) -> int:
        return self.config.card

    @property
    def text_card(self) -> int:
        return self.config.text_card

    @property
    def delays(self) -> list[int]:
        return list(self.config.delays)

    @property
    def num_codebooks(self) -> int:
        """Counts the streams, the text among them."""
        return self.config.num_streams

    @property
    def audio_offset(self) -> int:
        """Returns the first audio stream."""
        return 1

    @property
    def zero_token_id(self) -> int:
        return ZERO_TOKEN

    @property
    def ungenerated_token_id(self) -> int:
        return UNGENERATED_TOKEN

    @property
    def text_padding_token_id(self) -> int:
        return self.config.text_padding_id

    @property
    def end_of_text_padding_id(self) -> int:
        return self.config.text_end_padding_id

    def initial_tokens(self) -> Tensor:
        """Returns what every stream holds before its first token, [1 + n_q]."""
        tokens = torch.full((self.num_codebooks,), self.card, device=self.device)
        tokens[0] = self.text_card
        return tokens

    def delayed(self, codes: Tensor) -> Tensor:
        """Delays codes as the temporal transformer reads them. [B, 1 + n_q, T] -> [B, 1 + n_q, T + 1]."""
        return delayed(codes, self.config.delays, self.initial_tokens())

    def init_state(self, rows: int, kv_int8: bool = False) -> TransformerState:
        """Makes the temporal transformer's state of `rows` streams, its cache int8 or as the weights."""
        return self.transformer.init_state(rows, self.device, self.dtype, kv_int8)

    def forward(
        self,
        codes: Tensor,
        condition_tensors: ConditionTensors | None = None,
        references: Tensor | None = None,
    ) -> LMOutput:
        """Computes all logits of a conversation that is known.

        Args:
            codes: [B, 1 + n_q, T], text first, without delays; -1 is no token.
            references: of each step, as `temporal` takes them.

        Raises:
            InputError: another shape, or conditions or references that do not fit the model.
        """
        if codes.dim() != 3 or codes.shape[1] != self.num_codebooks:
            raise InputError(f"codes of shape {list(codes.shape)}; accepted: [B, {self.num_codebooks}, T]")
        conditions = self.fuse(condition_tensors)
        tokens = self.delayed(codes)  # [B, K, T + 1]
        hidden, text_logits = self.temporal(tokens[:, :, :-1], conditions=conditions, references=references)
        known, dep_q = codes != ZERO_TOKEN, self.dep_q
        text_logits, text_mask = undelayed(text_logits[:, None], (self.config.delays[0],))
        text_mask = text_mask & known[:, :1]
        if not dep_q:
            empty = text_logits.new_zeros(codes.shape[0], 0, codes.shape[2], self.card)
            return LMOutput(empty, known[:, :0], text_logits, text_mask)
        logits = self.depth_logits(hidden, tokens[:, : 1 + dep_q, 1:])
        logits, mask = undelayed(logits, self.config.delays[1 : 1 + dep_q])
        return LMOutput(logits, mask & known[:, 1 : 1 + dep_q], text_logits, text_mask)

    def fuse(self, condition_tensors: ConditionTensors | None) -> Conditions:
        """Returns the conditions as the transformer takes them. Raises InputError where they do not fit."""
        wanted = set(self.fuser.conditions) if self.fuser is not None else set[str]()
        given = set(condition_tensors or ())
        if given != wanted:
            raise InputError(f"conditions given: {sorted(given)}; the model takes: {sorted(wanted)}")
        if self.fuser is None or not condition_tensors:
            return Conditions()
        fuser = self.fuser
        parts = [get(condition_tensors) for get in (fuser.get_sum, fuser.get_cross, fuser.get_prepend)]
        sum_, cross, prepend = (None if part is None else part.to(self.dtype) for part in parts)
        return Conditions(sum_, None if cross is None else CrossSource(cross), prepend)

    def temporal(
        self,
        tokens: Tensor,
        state: TransformerState | None = None,
        exec_mask: Tensor | None = None,
        conditions: Conditions | None = None,
        length: int | None = None,
        references: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Reads tokens of all streams, [B, 1 + n_q, S] -> hidden [B, S, dim], logits [B, S, text_card_out].

        Args:
            state: of each row, whose next S steps these are, after `begin`; None reads whole conversations.
            length: as in `Transformer.forward`.
            references: what the model is to speak about, as `takes_references` says: tokens, [B, S], padding
                where there is nothing, `text_card` where a reference begins; or rows of
                `project_references`, [B, S, dim], zeros where there is nothing. None is nothing anywhere.

        Raises:
            InputError: references that the model does not take.
        """
        conditions = conditions or Conditions()
        x = self.embed(tokens, references)
        if conditions.sum is not None:
            x = x + conditions.sum
        before = 0
        if conditions.prepend is not None and state is None:
            x = torch.cat([conditions.prepend.expand(len(x), -1, -1), x], dim=1)
            before = conditions.positions
        x = self.transformer(x, state, exec_mask, conditions.cross, length)[:, before:]
        x = self.out_norm(x)
        return x, self.text_linear(x)

    def begin(self, state: TransformerState, conditions: Conditions, exec_mask: Tensor | None = None) -> None:
        """Reads what stands before the first step, in rows whose state is fresh."""
        if conditions.prepend is None:
            return
        # One by one: rows that do not execute lose no more than the place that their next step takes.
        for x in conditions.prepend.expand(len(state.offset), -1, -1).split(1, dim=1):
            self.transformer(x, state, exec_mask, conditions.cross)

    def embed(self, tokens: Tensor, references: Tensor | None = None) -> Tensor:
        """Embeds tokens of all streams for the temporal transformer, [B, 1 + n_q, S] -> [B, S, dim].

        `references` as in `temporal`.
        """
        if self._packed_embeddings is not None:
            batch, streams, steps = tokens.shape
            x = self._packed_embeddings(tokens.transpose(1, 2).reshape(-1, streams)).view(batch, steps, -1)
        else:
            x = self.text_emb(tokens[:, 0])
            for stream, embedding in enumerate(self.emb):
                x = x + embedding(tokens[:, 1 + stream])
        return self._with_references(x, references)

    def _with_references(self, x: Tensor, references: Tensor | None) -> Tensor:
        """x: [B, S, dim], references: [B, S], [B, S, dim] or None."""
        if self.oracle_emb is not None:
            # Padding is not nothing in every model: where a table has a row for it, it is always added.
            padding = self.config.text_padding_id
            tokens = x.new_full(x.shape[:2], padding, dtype=torch.long) if references is None else references
            if tokens.shape != x.shape[:2] or tokens.is_floating_point():
                raise InputError(f"references of shape {list(tokens.shape)}; accepted: tokens, [B, S]")
            return x + self.oracle_emb(tokens)
        if references is None:
            return x
        if self.takes_beside is None:
            raise InputError("references for a model that was not trained to take any")
        if references.shape != x.shape or not references.is_floating_point():
            raise InputError(f"references of shape {list(references.shape)}; accepted: rows, {list(x.shape)}")
        return x + references.to(x.dtype)

    def extra_probabilities(self, hidden: Tensor) -> Tensor:
        """Computes the first probability of each extra head. [B, 1, dim] -> [B, heads]."""
        none = hidden.new_zeros((len(hidden), 0), dtype=torch.float32)
        firsts = [head(hidden)[:, 0].float().softmax(-1)[:, :1] for head in self.extra_heads]
        return torch.cat([none, *firsts], dim=1)

    def depth_logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Computes logits of every codebook of every step, the ones before it known.

        Args:
            hidden: [B, T, dim] of the temporal transformer.
            tokens: [B, 1 + dep_q, T], text and codes of the step that `hidden` leads to.

        Returns:
            [B, dep_q, T, card].
        """
        given = self.depth_given(hidden)
        inputs = [self._depth_input(given, tokens[:, index], index) for index in range(self.dep_q)]
        stacked = torch.stack(inputs, dim=2).flatten(0, 1)  # [B T, dep_q, C]
        y = self.depformer(stacked).unflatten(0, hidden.shape[:2])
        return torch.stack([self._depth_output(y[:, :, index], index) for index in range(self.dep_q)], dim=1)

    def depth_given(self, hidden: Tensor) -> Sequence[Tensor]:
        """Computes what codebooks are told of their step. [B, T, dim] -> [B, T, C] per set of weights."""
        if self._packed_depth_in is not None:
            return self._packed_depth_in(hidden)
        return [projection(hidden) for projection in self.depformer_in]

    def depth_step(
        self, given: Sequence[Tensor], token: Tensor, index: int, cache: list[LayerCache]
    ) -> Tensor:
        """Computes logits of one codebook. given: of `depth_given`, token: [B] before it -> [B, card]."""
        x = self._depth_input(given, token[:, None], index)
        return self._depth_output(self.depformer.lockstep(x, cache, index), index)[:, 0]

    def new_depth_cache(self, rows: int) -> list[LayerCache]:
        """Makes what `depth_step` keeps between the codebooks of one step."""
        return self.depformer.lockstep_cache(rows, self.dep_q, self.device, self.dtype)

    def _depth_input(self, given: Sequence[Tensor], token: Tensor, index: int) -> Tensor:
        """given: [B, T, C] for each weight set, token: [B, T] -> [B, T, C]."""
        depth = cast(DepthConfig, self.config.depth)
        embedding = self.depformer_text_emb if index == 0 else self.depformer_emb[index - 1]
        return given[_weight_set(depth, index) if depth.multi_linear else 0] + embedding(token)

    def _depth_output(self, y: Tensor, index: int) -> Tensor:
        return self.linears[index](self.depformer_norms[index](y))

    def init_weights(self) -> None:
        """Draws all weights anew: truncated normals of deviation 1 / sqrt(inputs)."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                width = module.in_features if isinstance(module, nn.Linear) else module.embedding_dim
                std = 1 / math.sqrt(width)
                nn.init.trunc_normal_(module.weight, std=std, a=-3 * std, b=3 * std)
                if isinstance(module, nn.Embedding) and module.padding_idx is not None:
                    nn.init.zeros_(module.weight[module.padding_idx])

    def pack(self, pack_format: PackFormat = "float32") -> None:
        """Packs every weight for inference on the CPU, layer by layer; the plain ones are released."""
        self.least_rows = 2 if pack_format == "float32" else 1
        # The largest matrices first: what packing one needs for a moment then stays below the final size.
        self.pack_embeddings(torch.float32)
        _pack_linears([self.text_emb, self.emb, self.text_linear, self.extra_heads], pack_format)
        self.transformer.pack(pack_format)
        if self.config.depth is not None:
            self.depformer.pack(pack_format)
            _pack_linears([self.depformer_text_emb, self.depformer_emb, self.linears], pack_format)
            for embedding in (self.depformer_text_emb, *self.depformer_emb):
                cast(TokenEmbedding, embedding).pack()
            inputs = [cast(Linear, one) for one in self.depformer_in]
            self._packed_depth_in = JoinedLinears(inputs, pack_format)
            self.native_depth = self._as_native_depth(self.config.depth, self._packed_depth_in)

    def _as_native_depth(self, depth: DepthConfig, joined: JoinedLinears) -> NativeDepth | None:
        codebooks = range(self.dep_q)
        transformer = self.depformer.native_layers(self.dep_q)
        embeddings = [self.depformer_text_emb, *(cast(TokenEmbedding, one) for one in self.depformer_emb)]
        tables = [one.table for one in embeddings if one.table is not None]
        products = [cast(Linear, one).product for one in self.linears]
        heads = [one for one in products if isinstance(one, NativeProduct)]
        if transformer is None or depth.norm or not isinstance(joined.product, NativeProduct):
            return None
        if not len(tables) == len(heads) == self.dep_q:
            return None
        inputs = [_weight_set(depth, index) if depth.multi_linear else 0 for index in codebooks]
        weights = [depth.transformer.weight_set(index) for index in codebooks]
        return NativeDepth(transformer, joined.product, heads, tables, inputs, weights)

    def pack_embeddings(self, dtype: torch.dtype) -> None:
        """Joins the tables of all streams where they can be, for one look-up; the plain ones are released.

        That is all of packing that serves a GPU: there, each of the others would be five launches a stream.
        """
        embeddings = [cast(TokenEmbedding, one) for one in (self.text_emb, *self.emb)]
        if all(embedding.is_plain for embedding in embeddings):
            self._packed_embeddings = PackedEmbeddingSum(embeddings, dtype)


def _pack_linears(parts: Sequence[nn.Module], pack_format: PackFormat) -> None:
    # Conditions and the attention to them are not among the parts: they are no part of every step.
    for module in (inner for part in parts for inner in part.modules()):
        if isinstance(module, Linear):
            module.pack(pack_format)


def _input_sets(depth: DepthConfig) -> int:
    if not depth.multi_linear:
        return 1
    transformer = depth.transformer
    return transformer.num_weight_sets if transformer.weights_per_step_schedule else _steps(depth)


def _steps(depth: DepthConfig) -> int:
    return depth.transformer.weights_per_step


def _weight_set(depth: DepthConfig, index: int) -> int:
    schedule = depth.transformer.weights_per_step_schedule
    return index if schedule is None else schedule[index]
