"""The methods that code a tensor's bytes, as what a reader does with them.

A piece is a method's byte and a body. Reading one is in two halves, so that the streams of many
pieces are decoded in lockstep: `plan` tells the streams, `Plan.finish` turns their symbols into
bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from sentei.codec import general, mixing, rans, stream
from sentei.codec.cursor import Cursor
from sentei.codec.model import Alphabet
from sentei.core.errors import CorruptFile

SYMBOLS, PLANES = 3, 4
ROTATED, DIFFERENCES, ZEROS_LEFT_OUT = 1, 2, 4
LISTED, RUN, BITMAP = 0, 1, 2
NIBBLE = 0
UNITS = (1, 2, 4, 8)
MOST_AXES = 8
STATIC, MIXED, DEEP = 0, 1, 2
# What a reader has to know for a piece, as bits of the container's features.
DEEP_FEATURE = 1


@dataclass
class Plan:
    """A piece that is parsed but not decoded.

    Attributes:
        streams: Its streams.
        finish: From their symbols to the bytes.
        features: The bits of the container's features that it needs.
    """

    streams: list[rans.Stream]
    finish: Callable[[Sequence[np.ndarray]], bytes]
    features: int = 0


def plan(payload: bytes | memoryview, size: int, nested: bool = False) -> Plan:
    """Parses a piece.

    Args:
        payload: Method and body.
        size: How many bytes it stands for.
        nested: Whether it is a plane of another piece.

    Raises:
        CorruptFile: It makes no sense.
    """
    cursor = Cursor(payload)
    method = cursor.byte()
    if method == SYMBOLS:
        return _plan_symbols(cursor, size)
    if method == PLANES and not nested:
        return _plan_planes(cursor, size)
    data = general.decode(method, cursor, size)
    return Plan([], lambda symbols: data)


def decode(plans: Sequence[Plan]) -> list[bytes]:
    """Decodes pieces, their streams in lockstep.

    Args:
        plans: The parsed pieces.

    Raises:
        CorruptFile: One is damaged.
    """
    found = iter(rans.decode([item for each in plans for item in each.streams]))
    return [each.finish([next(found) for _ in each.streams]) for each in plans]


def _plan_symbols(cursor: Cursor, size: int) -> Plan:
    unit = cursor.byte()
    if unit != NIBBLE and unit not in UNITS:
        raise CorruptFile(f"a tensor has the unknown unit {unit}")
    alphabet, values = _read_values(cursor, unit)
    shape, axes = _read_axes(cursor)
    count = math.prod(shape)
    expected = (2 * size, 2 * size - 1) if unit == NIBBLE else (size / unit,)
    if count == 0 or count not in expected:
        raise CorruptFile(f"a tensor of shape {shape} does not fill {size} bytes")

    def finish(symbols: Sequence[np.ndarray]) -> bytes:
        found = symbols[0] if symbols else np.zeros(count, np.uint8)
        laid = values[found].reshape(shape).transpose(np.argsort(axes)).ravel()
        if unit == NIBBLE:
            even = np.append(laid, np.uint8(0)) if count % 2 else laid
            return (even[::2] | even[1::2] << 4).astype(np.uint8).tobytes()
        return laid.tobytes()

    if alphabet.size == 1:
        cursor.finish()
        return Plan([], finish)
    coder = cursor.byte()
    if coder in (MIXED, DEEP):
        code, deep = bytes(cursor.take(cursor.left)), coder == DEEP
        return Plan(
            [],
            lambda _: finish([mixing.decode(code, count, alphabet, shape, deep)]),
            DEEP_FEATURE * deep,
        )
    if coder != STATIC:
        raise CorruptFile(f"a tensor has the unknown coder {coder}")
    found = stream.read(cursor, count, alphabet)
    cursor.finish()
    return Plan([found], finish)


def _read_values(cursor: Cursor, unit: int) -> tuple[Alphabet, np.ndarray]:
    """The symbols' values, as unsigned numbers of the unit's size."""
    size = cursor.varint(256)
    centre, kind = cursor.byte(), cursor.byte()
    if not 0 <= centre < size:
        raise CorruptFile(f"the centre {centre} is none of {size} symbols")
    if kind == LISTED:
        stored = f"<u{max(unit, 1)}"
        values = np.frombuffer(cursor.take(size * max(unit, 1)), stored)
    elif kind in (RUN, BITMAP) and unit <= 1:
        first = cursor.byte()
        if kind == RUN:
            places = np.arange(size)
        else:
            bits = np.frombuffer(cursor.take(cursor.varint(32)), np.uint8)
            places = np.flatnonzero(np.unpackbits(bits, bitorder="little"))
        values = (places + first).astype(np.uint8)
    else:
        raise CorruptFile(f"the values of a tensor are listed in the unknown way {kind}")
    if len(values) != size or (unit == NIBBLE and values.max() > 15):
        raise CorruptFile(f"a tensor's values are not {size}, or too large")
    return Alphabet(size, centre), values


def _read_axes(cursor: Cursor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    rank = cursor.varint(MOST_AXES)
    pairs = [(cursor.varint(1 << 40), cursor.byte()) for _ in range(rank)]
    axes = tuple(axis for _, axis in pairs)
    if rank == 0 or sorted(axes) != list(range(rank)):
        raise CorruptFile(f"a tensor's axes are {axes}")
    return tuple(size for size, _ in pairs), axes


def _plan_planes(cursor: Cursor, size: int) -> Plan:
    unit, flags = cursor.byte(), cursor.byte()
    known = ROTATED | DIFFERENCES | ZEROS_LEFT_OUT
    if unit not in UNITS[1:] or flags > known or size % unit:
        raise CorruptFile(f"planes have the unit {unit} and the flags {flags}")
    parts, count = [], size // unit
    for index in range(unit):
        length = cursor.varint(count)
        if length != count and (index == 0 or not flags & ZEROS_LEFT_OUT):
            raise CorruptFile(f"a plane has {length} of {count} bytes")
        coded = cursor.take(cursor.varint())
        parts.append(plan(coded, length, nested=True) if length else Plan([], lambda _: b""))
    cursor.finish()

    def finish(symbols: Sequence[np.ndarray]) -> bytes:
        left = iter(symbols)
        planes = [part.finish([next(left) for _ in part.streams]) for part in parts]
        return _join(planes, unit, flags)

    features = max(part.features for part in parts)
    return Plan([item for part in parts for item in part.streams], finish, features)


def _join(planes: list[bytes], unit: int, flags: int) -> bytes:
    dtype = np.dtype(f"<u{unit}")
    arrays = [np.frombuffer(plane, np.uint8) for plane in planes]
    kept = slice(None)
    if flags & ZEROS_LEFT_OUT:
        kept = np.flatnonzero(arrays[0])  # type: ignore[assignment]
    words = np.zeros(len(arrays[0]), dtype)
    low = np.zeros(len(arrays[0][kept]), dtype)
    for index, array in enumerate(arrays):
        array = array[kept] if index == 0 else array
        if len(array) != len(low):
            raise CorruptFile("a plane does not fit the one above it")
        low = low << dtype.type(8) | array
    words[kept] = low
    if flags & ROTATED:
        words = words >> dtype.type(1) | words << dtype.type(8 * unit - 1)
    if flags & DIFFERENCES:
        words = np.cumsum(words, dtype=dtype)
    return words.tobytes()
