"""Damage of every kind to the files of a checkpoint, drawn from a seed."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

_ODD_VALUES: list[Any] = [
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**63, 10**30, 1e308, float("nan"), float("inf"), 1.5, -0.5),
    *("", "x", "../..", "/etc/passwd", "\ud800", [], {}, [0], [[]], [-1, -1, -1], {"a": 1}, [10**9], ["x"]),
]
_TYPES = ("F16", "BF16", "F64", "I8", "I32", "U32", "U64", "BOOL", "C64", "F8_E4M3", "X", 3, None)
_SIZES = (0, -1, 1, 2**32, 2**62, 2**63, 2**64 - 1, 1.5, "3", None)
_OFFSETS = ([0, 0], [-4, 0], [0, 2**63], [2**64 - 8, 2**64 - 1], [8, 4], [0], [0, 4, 8], None)
_LENGTHS = (0, 1, 2**63, 2**64 - 1, 10**8, 10**8 + 1)


def mutated(name: str, data: bytes, draw: random.Random) -> bytes:
    """Returns the bytes of a file of this name with something in it changed."""
    if name.endswith(".json"):
        return mutated_json(data, draw) if draw.random() < 0.9 else mutated_bytes(data, draw)
    if name.endswith(".safetensors"):
        return mutated_tensors(data, draw) if draw.random() < 0.8 else mutated_bytes(data, draw)
    return mutated_bytes(data, draw)


def mutated_bytes(data: bytes, draw: random.Random) -> bytes:
    """Cuts, flips bits, overwrites, inserts, or exchanges two places."""
    changed, place = bytearray(data), draw.randrange(len(data))
    match draw.randrange(5):
        case 0:
            del changed[place:]
        case 1:
            for _ in range(draw.choice([1, 3, 20])):
                changed[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        case 2:
            length = draw.choice([1, 8, 100])
            changed[place : place + length] = draw.choice([b"\0", b"\xff"]) * length
        case 3:
            changed[place:place] = draw.randbytes(draw.choice([1, 8, 100]))
        case _:
            other = draw.randrange(len(data))
            first, second = changed[place : place + 16], changed[other : other + 16]
            changed[place : place + len(second)], changed[other : other + len(first)] = second, first
    return bytes(changed)


def mutated_json(data: bytes, draw: random.Random) -> bytes:
    """Takes a value out, renames its key, or puts another one there."""
    values = json.loads(data)
    *path, last = draw.choice([*_places(values)])
    owner = values
    for key in path:
        owner = owner[key]
    match draw.randrange(6):
        case 0:
            del owner[last]
        case 1 if isinstance(owner, dict):
            owner[f"{last}x"] = owner.pop(last)
        case 2 if isinstance(owner[last], int | float):
            owner[last] = draw.choice([owner[last] * 2, owner[last] + 1, -owner[last], owner[last] * 10**6])
        case 3:
            owner[last] = json.loads(300 * "[" + 300 * "]")
        case _:
            owner[last] = copy.deepcopy(draw.choice(_ODD_VALUES))
    return json.dumps(values).encode()


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of everything in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from _places(item, (*path, key))


def mutated_tensors(data: bytes, draw: random.Random) -> bytes:
    """Changes a safetensors file's header, its length, or all numbers of a tensor."""
    end = 8 + int.from_bytes(data[:8], "little")
    header, body = json.loads(data[8:end]), bytearray(data[end:])
    name, other = (draw.choice([key for key in header if key != "__metadata__"]) for _ in range(2))
    entry, length = header[name], None
    match draw.randrange(10):
        case 0:
            start, stop = entry["data_offsets"]
            value = draw.choice([np.nan, np.inf, -np.inf, 1e38, -1.0, 0.0])
            body[start:stop] = np.full((stop - start) // 4 + 1, value, np.float32).tobytes()[: stop - start]
        case 1:
            entry["dtype"] = draw.choice(_TYPES)
        case 2 if entry["shape"]:
            entry["shape"][draw.randrange(len(entry["shape"]))] = draw.choice(_SIZES)
        case 3:
            entry["shape"] = draw.choice([[], [0], [1] * 70, [2**62, 4], None, "x", entry["shape"][::-1]])
        case 4:
            entry["data_offsets"] = draw.choice(_OFFSETS)
        case 5:
            entry["data_offsets"] = header[other]["data_offsets"]
        case 6:
            header[f"{name}x"] = header.pop(name)
        case 7:
            header[name], header[other] = header[other], header[name]
        case 8:
            header["__metadata__"] = draw.choice([3, {"a": 1}, None, [], {"a": "b" * 1000}])
        case _:
            length = draw.choice(_LENGTHS)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(body)
