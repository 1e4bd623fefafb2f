"""Tensors of a `.tflite` file, by a walk of its own through the few tables that matter.

`litert.flatbuffer` reads such files fully and with the runtime's help; this room is below it and
needs only where the bytes are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from sentei.codec.locate.tensor import Tensor

# The schema's TensorType, as far as a codec cares.
_TYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float64",
    12: "uint64",
    15: "uint32",
    16: "uint16",
    17: "int4",
    18: "bfloat16",
}
# Fields by their number in the schema.
_SUBGRAPHS, _BUFFERS = 2, 4
_TENSORS = 0
_SHAPE, _TYPE, _BUFFER, _NAME, _SPARSITY = 0, 1, 2, 3, 6
_DATA, _OFFSET, _SIZE = 0, 1, 2
_LEVELS = 2
_PARTS = ((2, 3, "segments"), (4, 5, "indices"))
# SparseIndexVector: the type of the table and the bytes of its numbers.
_VECTORS = {1: ("int32", 4), 2: ("uint16", 2), 3: ("uint8", 1)}


class _Budget:
    """How many bytes may still be read: all together no more than a file has.

    An honest file has each table and vector once. One made to keep its reader busy points to the
    same from everywhere.
    """

    def __init__(self, content: memoryview) -> None:
        self.left = len(content)

    def spend(self, size: int) -> None:
        """Raises ValueError where nothing is left."""
        self.left -= size
        if self.left < 0:
            raise ValueError("more to read than there is")


class _Table:
    """A table of a flatbuffer; every read raises struct.error or ValueError outside the file."""

    def __init__(self, content: memoryview, place: int, budget: _Budget) -> None:
        self.content, self.place, self.budget = content, place, budget
        (distance,) = struct.unpack_from("<i", content, place)
        self.layout = place - distance
        if self.layout < 0:
            raise ValueError("a table's layout lies before the file")
        (self.layout_size,) = struct.unpack_from("<H", content, self.layout)

    def field(self, number: int) -> int | None:
        """Where a field is, None if it is absent."""
        slot = 4 + 2 * number
        if slot + 2 > self.layout_size:
            return None
        (offset,) = struct.unpack_from("<H", self.content, self.layout + slot)
        return self.place + offset if offset else None

    def number(self, number: int, form: str) -> int:
        """A field that is a number, 0 if it is absent."""
        place = self.field(number)
        return 0 if place is None else int(struct.unpack_from(form, self.content, place)[0])

    def follow(self, number: int) -> int | None:
        """Where a field points."""
        place = self.field(number)
        return None if place is None else _pointed(self.content, place)

    def vector(self, number: int, width: int) -> tuple[int, int]:
        """Where the elements of a vector begin, and how many there are."""
        place = self.follow(number)
        if place is None:
            return 0, 0
        (count,) = struct.unpack_from("<I", self.content, place)
        if place + 4 + count * width > len(self.content):
            raise ValueError("a vector leaves the file")
        return place + 4, count

    def numbers(self, number: int) -> tuple[int, ...]:
        """A vector of int32."""
        begin, count = self.vector(number, 4)
        self.budget.spend(4 * count)
        return struct.unpack_from(f"<{count}i", self.content, begin)

    def text(self, number: int) -> str:
        """A string."""
        begin, length = self.vector(number, 1)
        self.budget.spend(length)
        return bytes(self.content[begin : begin + length]).decode(errors="replace")

    def table(self, place: int) -> _Table:
        """The table that lies there."""
        return _Table(self.content, place, self.budget)

    def tables(self, number: int) -> Iterator[_Table]:
        """The tables of a vector of tables."""
        begin, count = self.vector(number, 4)
        self.budget.spend(4 * count)
        for place in range(begin, begin + 4 * count, 4):
            yield self.table(_pointed(self.content, place))


def _pointed(content: memoryview, place: int) -> int:
    return place + int(struct.unpack_from("<I", content, place)[0])


def begins(content: memoryview) -> bool:
    """Whether bytes begin like such a file."""
    return bytes(content[4:8]) == b"TFL3"


def find(content: memoryview) -> list[Tensor]:
    """The constants of all graphs.

    Args:
        content: The bytes of the file.
    """
    result: list[Tensor] = []
    try:
        root = _Table(content, _pointed(content, 0), _Budget(content))
        buffers = list(_buffers(root))
        seen: set[int] = set()
        for graph in root.tables(_SUBGRAPHS):
            for table in graph.tables(_TENSORS):
                result += _constant(table, buffers, seen)
    except (struct.error, ValueError, OverflowError):
        pass  # what was found until then is as good as ever
    return result


def _buffers(root: _Table) -> Iterator[tuple[int, int]]:
    for table in root.tables(_BUFFERS):
        # Offset 1 is the writer's placeholder for "nothing there"; others lie behind the tables.
        offset = table.number(_OFFSET, "<Q")
        yield (offset, table.number(_SIZE, "<Q")) if offset > 1 else table.vector(_DATA, 1)


def _constant(table: _Table, buffers: list[tuple[int, int]], seen: set[int]) -> Iterator[Tensor]:
    number = table.number(_BUFFER, "<I")
    if not 0 < number < len(buffers) or number in seen:
        return
    offset, size = buffers[number]
    dtype = _TYPES.get(table.number(_TYPE, "<b"), "unknown")
    shape, name = table.numbers(_SHAPE), table.text(_NAME)
    if size:
        seen.add(number)
        yield Tensor(name, dtype, shape, offset, size)
    layout = table.follow(_SPARSITY)
    if layout is not None:
        yield from _indices(table.table(layout), name)


def _indices(layout: _Table, name: str) -> Iterator[Tensor]:
    for level, table in enumerate(layout.tables(_LEVELS)):
        for type_field, field, what in _PARTS:
            vector = table.follow(field)
            kind = table.number(type_field, "<B")
            if vector is None or kind not in _VECTORS:
                continue
            dtype, width = _VECTORS[kind]
            begin, count = table.table(vector).vector(0, width)
            yield Tensor(f"{name}:{what}{level}", dtype, (count,), begin, count * width, True)
