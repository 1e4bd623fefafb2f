"""Looking into a packed file: which tensors it holds, and reading one without the others."""

from __future__ import annotations

import bisect
import contextlib
import math
import operator
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from types import TracebackType
from typing import Any

import numpy as np

from sentei.codec import container, locate, pieces, unpacking
from sentei.codec.container import Piece
from sentei.codec.content import mapped
from sentei.codec.locate import Tensor
from sentei.core.errors import CorruptFile, SenteiError


@dataclass(frozen=True)
class PackedTensor:
    """One tensor of a packed file.

    Attributes:
        name: Its name.
        dtype: Its type.
        shape: Its shape.
        size: Its bytes in the original file.
        packed_size: Its bytes in the packed one; None if it travels with all that is no tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    packed_size: int | None

    @property
    def bits(self) -> float | None:
        """Bits of the packed file for each element."""
        count = math.prod(self.shape)
        return None if self.packed_size is None or not count else 8 * self.packed_size / count


class PackedFile:
    """A packed file that is open; use it in a `with` statement, or `close` it.

    Invariants: the header is sound; the skeleton was held against its checksum when it was first
    needed; a piece is when it is read.

    Attributes:
        name: The path.
        size: Bytes of the original file.
        packed_size: Bytes of the packed file.
        version: Of the format.
        sha256: The original's digest, in hexadecimal.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.name = os.fspath(path)
        self._open = contextlib.ExitStack()
        try:
            self._packed = self._open.enter_context(mapped(path))
            self._header = container.read_header(self._packed, len(self._packed))
        except CorruptFile as error:
            self._open.close()
            known = self._named(error) if hasattr(self, "_packed") else error
            raise known from None
        self.size, self.version = self._header.size, self._header.version
        self.packed_size, self.sha256 = len(self._packed), self._header.digest.hex()

    def _named(self, error: CorruptFile) -> SenteiError:
        return container.named(error, self.name)

    def __enter__(self) -> PackedFile:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._open.close()

    @cached_property
    def _skeleton(self) -> bytes:
        try:
            return unpacking.skeleton(self._packed, self._header)
        except CorruptFile as error:
            raise self._named(error) from None

    @cached_property
    def _found(self) -> tuple[str, list[Tensor]]:
        # All that says where tensors are lies between the pieces; what is in them does not matter.
        content = bytearray(self.size)
        used = 0
        for begin, end in self._header.gaps():
            content[begin:end] = self._skeleton[used : used + end - begin]
            used += end - begin
        return locate.find(memoryview(content))

    @property
    def kind(self) -> str:
        """What the original file is, such as `"tflite"`."""
        return self._found[0]

    @cached_property
    def tensors(self) -> tuple[PackedTensor, ...]:
        """The tensors, in the order of the original file."""
        return tuple(
            PackedTensor(item.name, item.dtype, item.shape, item.size, self._packed_size(item))
            for item in self._found[1]
        )

    def _packed_size(self, tensor: Tensor) -> int | None:
        inside = [part for part in self._overlapping(tensor) if part[0] is not None]
        return sum(piece.coded_size for piece, *_ in inside if piece is not None) or None

    def read(self, name: str) -> np.ndarray:
        """The values of one tensor, decoding nothing else.

        Args:
            name: Its name.

        Returns:
            A new array; of type int8 for int4, and of one axis for the values of a sparse tensor.

        Raises:
            CorruptFile: What holds it is damaged.
            SenteiError: There is no such tensor.
        """
        chosen = [item for item in self._found[1] if item.name == name]
        if not chosen:
            known = ", ".join(repr(item.name) for item in self._found[1][:5]) or "none"
            raise SenteiError(f"{self.name} holds no tensor {name!r}. Its tensors begin: {known}.")
        return _array(self._bytes(chosen[0]), chosen[0])

    def _bytes(self, tensor: Tensor) -> bytes:
        parts = []
        try:
            for piece, origin, begin, end in self._overlapping(tensor):
                if piece is None:
                    parts.append(self._skeleton[begin - origin : end - origin])
                    continue
                payload = unpacking.payload(self._packed, piece)
                (data,) = pieces.decode([pieces.plan(payload, piece.size)])
                parts.append(data[begin - origin : end - origin])
        except CorruptFile as error:
            raise self._named(error) from None
        return b"".join(parts)

    def _overlapping(self, tensor: Tensor) -> Iterator[tuple[Piece | None, int, int, int]]:
        """Pieces (or None for the skeleton) with a tensor's bytes: origin, begin, end."""
        first, last = tensor.offset, tensor.offset + tensor.size
        after = bisect.bisect_right(self._stretches, first, key=operator.itemgetter(-1))
        for piece, origin, begin, end in self._stretches[after:]:
            if begin >= last:
                return
            begin, end = max(begin, first), min(end, last)
            if begin < end:
                yield piece, origin, begin, end

    @cached_property
    def _stretches(self) -> list[tuple[Piece | None, int, int, int]]:
        """Skeleton (None) and pieces by turns, in their order: origin, begin, end."""
        stretches: list[tuple[Piece | None, int, int, int]] = []
        before = 0
        for (begin, end), piece in zip(
            self._header.gaps(), (*self._header.pieces, None), strict=True
        ):
            stretches.append((None, before, begin, end))
            if piece is not None:
                before += piece.size
                stretches.append((piece, piece.offset, piece.offset, piece.offset + piece.size))
        return stretches

    def to_dict(self) -> dict[str, Any]:
        """What there is to say, as plain data."""
        return {
            "file": self.name,
            "format": "stz",
            "version": self.version,
            "kind": self.kind,
            "size": self.size,
            "packed_size": self.packed_size,
            "sha256": self.sha256,
            "tensors": [{**asdict(item), "bits": item.bits} for item in self.tensors],
        }

    def __str__(self) -> str:
        lines = [
            f"{self.name}: packed {self.kind}, version {self.version}, {self.packed_size:,} bytes "
            f"for {self.size:,}"
        ]
        for item in self.tensors:
            shape = "x".join(map(str, item.shape)) or "scalar"
            bits = "with the skeleton"
            if item.packed_size is not None:
                bits = f"{item.packed_size:,} bytes packed"
                bits += f", {item.bits:.3f} bits each" if item.bits is not None else ""
            lines.append(f"  {item.name}: {item.dtype} {shape}, {item.size:,} bytes, {bits}")
        return "\n".join(lines)


def _array(data: bytes, tensor: Tensor) -> np.ndarray:
    if tensor.dtype in ("int4", "uint4"):
        packed = np.frombuffer(data, np.uint8)
        low = np.stack([packed & 15, packed >> 4], 1).ravel()[: math.prod(tensor.shape)]
        found = ((low ^ 8).astype(np.int8) - 8) if tensor.dtype == "int4" else low
    else:
        kind = _numpy_type(tensor.dtype)
        if kind.hasobject or not kind.itemsize or len(data) % kind.itemsize:
            kind = np.dtype(np.uint8)  # not what it says it is: its bytes
        found = np.frombuffer(data, kind).copy()
    return found.reshape(tensor.shape) if found.size == math.prod(tensor.shape) else found


def _numpy_type(dtype: str) -> np.dtype[Any]:
    if dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    try:
        return np.dtype(dtype)
    except TypeError:
        return np.dtype(np.uint8)


def open(path: str | os.PathLike[str]) -> PackedFile:
    """Opens a packed file to look into it.

    Args:
        path: The packed file.

    Returns:
        The open file: its `tensors` are listed and `read` one at a time, and only what is asked
        for is decoded.

    Raises:
        CorruptFile: It is missing, damaged, or of a later version of the format.
    """
    return PackedFile(path)
