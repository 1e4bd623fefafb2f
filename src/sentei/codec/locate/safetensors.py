"""Tensors of a `.safetensors` file: eight bytes of length, JSON, then the data."""

from __future__ import annotations

import json

from sentei.codec.locate.tensor import Tensor

_TYPES = {
    "BOOL": "bool",
    "I8": "int8",
    "U8": "uint8",
    "F8_E4M3": "float8",
    "F8_E5M2": "float8",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "I64": "int64",
    "U64": "uint64",
    "F64": "float64",
}


def _header_size(content: memoryview) -> int:
    return int.from_bytes(content[:8], "little")


def begins(content: memoryview) -> bool:
    """Whether bytes begin like such a file."""
    return len(content) > 9 and content[8] == ord("{") and _header_size(content) <= len(content) - 8


def find(content: memoryview) -> list[Tensor]:
    """The tensors that the JSON names.

    Args:
        content: The bytes of the file.
    """
    start = 8 + _header_size(content)
    result = []
    try:
        header = json.loads(bytes(content[8:start]))
        for name, item in header.items():
            if name != "__metadata__" and item["dtype"] in _TYPES:
                begin, end = map(int, item["data_offsets"])
                shape = tuple(map(int, item["shape"]))
                result.append(
                    Tensor(name, _TYPES[item["dtype"]], shape, start + begin, end - begin)
                )
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
        return []
    return result
