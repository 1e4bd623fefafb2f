"""`sentei.pack`: any model file, losslessly, in as few bytes as its weights really hold."""

from __future__ import annotations

import functools
import hashlib
import math
import operator
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from sentei.codec import container, drafts, general, locate, pieces, rans
from sentei.codec.content import mapped
from sentei.codec.locate import Tensor
from sentei.core.errors import CorruptFile, SenteiError
from sentei.core.files import replaced

Progress = Callable[[int, int], None]
Effort = Literal["fast", "max"]

# Smaller tensors are better off in the skeleton, where they need no header of their own.
_LEAST_TENSOR = 96
_COST_PIECE = 10
# Elements of a piece, and of the pieces that walk in lockstep: bounds of memory.
_MOST_ELEMENTS, _MOST_TOGETHER = 1 << 20, 1 << 22


@dataclass(frozen=True)
class Packed:
    """What `pack` did; prints as a line.

    Attributes:
        source: The file that was packed.
        target: The packed file.
        kind: What the source is: `"tflite"`, `"zip"` (as `.keras`), `"hdf5"`, `"safetensors"` or
            `"unknown"`.
        size: Bytes of the source.
        packed_size: Bytes of the target.
        tensors: How many tensors were found and coded by themselves.
        effort: As given.
        seconds: How long it took.
    """

    source: str
    target: str
    kind: str
    size: int
    packed_size: int
    tensors: int
    effort: str
    seconds: float

    @property
    def ratio(self) -> float:
        """How many times smaller the target is."""
        return self.size / self.packed_size

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return {**asdict(self), "ratio": self.ratio}

    def __str__(self) -> str:
        return (
            f"{self.target}: {self.packed_size:,} bytes, {self.ratio:.2f}x smaller than "
            f"{self.source} ({self.size:,} bytes, {self.kind}, {self.tensors} tensors coded), "
            f"in {self.seconds:.1f} s; reads back identical"
        )


def pack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    effort: Effort = "fast",
    progress: Progress | None = None,
) -> Packed:
    """Packs a model file so that `unpack` gives back the same bytes.

    Weights are found in `.tflite` (dense and sparse), `.keras`, `.weights.h5` and `.safetensors`
    files and each tensor is coded by the shortest of several methods; all else is coded as any
    bytes. Every tensor is decoded again and compared before the file gets its name.

    Args:
        source: The file; of any kind and size, even empty.
        target: The packed file; replaced if it exists.
        effort: `"fast"`, or `"max"` for the last percents: slow to pack and to unpack, and very
            slow where numba is not installed (`pip install sentei[fast]`).
        progress: Called now and then with the bytes done and the bytes in all.

    Returns:
        What was done.

    Raises:
        CorruptFile: The source does not exist or cannot be read.
        SenteiError: The effort is unknown, or the target cannot be written.
    """
    if effort not in get_args(Effort):
        known = ", ".join(get_args(Effort))
        raise SenteiError(f"effort must be one of {known}, received {effort!r}.")
    started = time.perf_counter()
    with mapped(source) as content:
        kind, tensors = locate.find(content)
        digest = hashlib.sha256(content).digest()
        coded, skeleton = _contents(content, tensors, effort, progress)
        features = functools.reduce(operator.or_, (piece.features for piece in coded), 0)
        rows = [(piece.offset, piece.size, piece.payload) for piece in coded]
        header = container.write_header(len(content), digest, skeleton, rows, features)
        with replaced(Path(target)) as temporary, temporary.open("wb") as file:
            file.write(header + skeleton)
            file.writelines(piece.payload for piece in coded)
        size = len(content)
    packed_size = len(header) + len(skeleton) + sum(len(piece.payload) for piece in coded)
    found = {item.offset for item in tensors} & {piece.offset for piece in coded}
    return Packed(
        os.fspath(source),
        os.fspath(target),
        kind,
        size,
        packed_size,
        len(found),
        effort,
        time.perf_counter() - started,
    )


class _Coded(NamedTuple):
    """A stretch of the source, and the payload it is coded as.

    Attributes:
        offset: Where it begins in the source.
        size: Its bytes there.
        payload: Its code.
        features: What a reader of the payload must know.
    """

    offset: int
    size: int
    payload: bytes
    features: int


def _contents(
    content: memoryview, tensors: list[Tensor], effort: Effort, progress: Progress | None
) -> tuple[list[_Coded], bytes]:
    """The pieces and the skeleton. What takes more effort is never longer."""

    def length(option: tuple[list[_Coded], bytes]) -> int:
        coded, skeleton = option
        return len(skeleton) + sum(len(piece.payload) + _COST_PIECE for piece in coded)

    coded = list(_pieces(content, tensors, effort, progress))
    found = coded, _skeleton(content, coded)
    if effort == "fast" or not tensors:
        return found
    return min(found, _contents(content, tensors, "fast", None), key=length)


def _skeleton(content: memoryview, coded: list[_Coded]) -> bytes:
    """What is left of the source without the pieces, coded."""
    parts, place = [], 0
    for piece in coded:
        parts.append(content[place : piece.offset])
        place = piece.offset + piece.size
    data = b"".join([*parts, content[place:]])
    return container.padded(general.encode(data), len(data)) if data else b""


def _parts(tensors: list[Tensor]) -> Iterator[Tensor]:
    """Tensors worth a piece, large ones cut into some rows each."""
    for tensor in tensors:
        if tensor.size < _LEAST_TENSOR:
            continue
        rows = tensor.shape[0] if tensor.shape else 1
        count = math.prod(tensor.shape)
        if count <= _MOST_ELEMENTS or rows < 2 or tensor.size * rows % max(count, 1):
            yield from _bytes_of(tensor)
            continue
        if tensor.size % rows or count // rows > _MOST_ELEMENTS:
            yield from _bytes_of(tensor)
            continue
        each, step = tensor.size // rows, max(1, _MOST_ELEMENTS * rows // count)
        for row in range(0, rows, step):
            some = min(step, rows - row)
            shape = (some, *tensor.shape[1:])
            yield Tensor(tensor.name, tensor.dtype, shape, tensor.offset + row * each, some * each)


def _bytes_of(tensor: Tensor) -> Iterator[Tensor]:
    """A tensor in one piece, or in stretches of a fixed length where it is too large."""
    most = 8 * _MOST_ELEMENTS
    if tensor.size <= most:
        yield tensor
        return
    for offset in range(0, tensor.size, most):
        size = min(most, tensor.size - offset)
        yield Tensor(tensor.name, tensor.dtype, (), tensor.offset + offset, size, tensor.indices)


def _pieces(
    content: memoryview, tensors: list[Tensor], effort: Effort, progress: Progress | None
) -> Iterator[_Coded]:
    """Everything that is coded by itself."""
    waiting: list[tuple[Tensor, drafts.Draft]] = []
    symbols = 0
    for part in _parts(tensors):
        data = content[part.offset : part.offset + part.size]
        draft = drafts.draft(data, part.dtype, part.shape, part.indices, effort == "max")
        if draft.special and draft.size + _COST_PIECE < part.size:
            waiting.append((part, draft))
            symbols += sum(item.count for item, _ in draft.streams)
        elif part.size > _MOST_ELEMENTS:
            waiting.append((part, draft))
        if symbols > _MOST_TOGETHER:
            yield from _coded(content, waiting)
            waiting, symbols = [], 0
        if progress is not None:
            progress(part.offset + part.size, len(content))
    yield from _coded(content, waiting)
    if progress is not None:
        progress(len(content), len(content))


def _read_back(plans: list[pieces.Plan]) -> list[bytes | None]:
    """What a reader makes of pieces; None of those that it refuses."""
    try:
        return [*pieces.decode(plans)]
    except CorruptFile:
        if len(plans) == 1:
            return [None]
        return [back for plan in plans for back in _read_back([plan])]


def _coded(content: memoryview, waiting: list[tuple[Tensor, drafts.Draft]]) -> Iterator[_Coded]:
    """Payloads of drafts, each read back and compared."""
    rans.encode([item for _, draft in waiting for item in draft.streams])
    payloads = [draft.write() for _, draft in waiting]
    plans = [
        pieces.plan(payload, part.size)
        for (part, _), payload in zip(waiting, payloads, strict=True)
    ]
    backs = _read_back(plans)
    for (part, _), payload, plan, back in zip(waiting, payloads, plans, backs, strict=True):
        data, features = content[part.offset : part.offset + part.size], plan.features
        if back != data:
            # A fault of ours costs bytes, never data.
            payload, features = general.encode(data), 0
        yield _Coded(part.offset, part.size, container.padded(payload, part.size), features)
