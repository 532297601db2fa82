"""All codebooks of a step in C: the depth transformer and the draws, one codebook after the other."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from ctypes import Structure, c_int, c_long, c_void_p

import torch
from torch import Tensor

from moshi_agent.nn.native.library import Workspace
from moshi_agent.nn.native.products import NativeProduct, ProductStruct
from moshi_agent.nn.native.transformers import NativeTransformer
from moshi_agent.nn.sampling import KindOfDraw


class _DrawStruct(Structure):
    _fields_ = [
        ("inverse_temp", c_void_p),
        ("top_p", c_void_p),
        ("noise", c_void_p),
        ("candidates", c_long),
        ("noise_stride", c_long),
    ]


class _DepthStruct(Structure):
    _fields_ = [
        *((name, c_int) for name in ("codebooks", "card", "given", "unused")),
        ("input", ProductStruct),
        *(
            (name, c_void_p)
            for name in ("heads", "embeddings", "embedding_rows", "input_sets", "weight_sets")
        ),
        ("layers", c_void_p),
        ("stack", c_void_p),
    ]


class NativeDepth:
    """Generates the codebooks of a step."""

    def __init__(
        self,
        transformer: NativeTransformer,
        into: NativeProduct,
        heads: Sequence[NativeProduct],
        tables: Sequence[Tensor],
        input_sets: Sequence[int],
        weight_sets: Sequence[int],
    ) -> None:
        """Takes the parts of a packed model.

        Args:
            transformer: with the layers of all weight sets, one set after the other.
            into: from the temporal transformer to the inputs of all sets.
            heads: of each codebook.
            tables: [tokens + 1, dim] float32 of each codebook, for the token before it; zeros at the end.
            input_sets, weight_sets: which of them serve each codebook.
        """
        self._kept = (transformer, into, heads, tables)
        self._library, self._workspace = into.library, Workspace()
        self.codebooks = count = len(heads)
        self._heads = (ProductStruct * count)(*(one.struct for one in heads))
        self._tables = (c_void_p * count)(*(one.data_ptr() for one in tables))
        self._indices = torch.tensor(
            [[len(one) for one in tables], input_sets, weight_sets]
        )  # [3, codebooks]
        rows, inputs, weights = (one.data_ptr() for one in self._indices)
        self._struct = _DepthStruct(
            codebooks=count,
            card=heads[0].out_features,
            given=into.out_features,
            input=into.struct,
            heads=ctypes.addressof(self._heads),
            embeddings=ctypes.addressof(self._tables),
            embedding_rows=rows,
            input_sets=inputs,
            weight_sets=weights,
            layers=ctypes.addressof(transformer.layers),
            stack=ctypes.addressof(transformer.stack),
        )
        self._address = ctypes.addressof(self._struct)

    def codebooks_of(
        self, hidden: Tensor, text: Tensor, draw: KindOfDraw | None, forced: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Generates all codebooks.

        Args:
            hidden: [B, 1, dim] of the temporal transformer.
            text: [B] taken before them.
            draw: how they are drawn; None takes the best.
            forced: [B, codebooks] tokens to take where they are not -2; rows may lie apart.

        Returns:
            Both [B, codebooks]: what was drawn, and what was taken.
        """
        hidden, text = hidden.float().contiguous(), text.contiguous()
        batch = len(text)
        sampled, taken = text.new_empty(2, batch, self.codebooks)
        how = _DrawStruct()
        if draw is not None:
            noise = draw.noise.contiguous()
            how = _DrawStruct(
                draw.choice.inverse_temp.data_ptr(),
                draw.choice.top_p.data_ptr(),
                noise.data_ptr(),
                draw.candidates,
                noise.stride(0),
            )
        if forced is not None and forced.stride(1) != 1:
            forced = forced.contiguous()
        self._library.depth_codebooks(
            self._address,
            hidden.data_ptr(),
            text.data_ptr(),
            batch,
            ctypes.addressof(how),
            None if forced is None else forced.data_ptr(),
            0 if forced is None else forced.stride(0),
            sampled.data_ptr(),
            taken.data_ptr(),
            self._workspace.floats(self._library.depth_work(self._address, batch)),
        )
        return sampled, taken
