"""Reads the tensors of a PyTorch checkpoint without PyTorch.

The format of `torch.save` before version 1.6: pickles of a magic number, the protocol, facts about
the machine, the object and the keys of its storages, then each storage's length and its numbers.
"""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np

_MAGIC = 0x1950A86A20F9469CFC6C
_DTYPES = {
    "FloatStorage": "<f4",
    "LongStorage": "<i8",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
}


class _Storage:
    """A run of numbers, filled in after the pickle that mentions it."""

    def __init__(self, dtype: str, size: int) -> None:
        self.dtype, self.size = dtype, size
        self.numbers = np.empty(0, dtype)


class _Tensor:
    """A view of a storage."""

    def __init__(
        self, storage: _Storage, offset: int, shape: Sequence[int], strides: Sequence[int]
    ) -> None:
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self) -> np.ndarray:
        start = self.storage.numbers[self.offset :]
        steps = [step * start.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(start, self.shape, steps).copy()


class _Reader(pickle.Unpickler):
    """Knows tensors and ordered dicts, and nothing that could run code."""

    storages: dict[str, _Storage]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: _Tensor(
                storage, offset, shape, strides
            )
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise pickle.UnpicklingError(f"a checkpoint of tensors holds no {module}.{name}")

    def persistent_load(self, saved: Any) -> Any:
        _, dtype, key, _, size, *_ = saved
        return self.storages.setdefault(key, _Storage(dtype, size))


def read_state_dict(data: bytes) -> dict[str, np.ndarray]:
    """The tensors of a state dict.

    Args:
        data: the bytes of the file.

    Returns:
        Name → array.

    Raises:
        ValueError: when the bytes are not of this format.
    """
    stream = io.BytesIO(data)
    storages: dict[str, _Storage] = {}

    def load() -> Any:
        reader = _Reader(stream)
        reader.storages = storages
        return reader.load()

    if load() != _MAGIC:
        raise ValueError("this is no PyTorch checkpoint of the format before version 1.6")
    load(), load()
    tensors = load()
    for key in load():
        storage = storages[key]
        size = int.from_bytes(stream.read(8), "little")
        dtype = np.dtype(storage.dtype)
        storage.numbers = np.frombuffer(stream.read(size * dtype.itemsize), dtype)
    return {name: tensor.array() for name, tensor in tensors.items()}
