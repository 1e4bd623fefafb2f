"""Choosing how to code a piece of a tensor: several methods are drafted, the best is written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from sentei.codec import fit, general, groupings, mixing, pieces, rans, stream
from sentei.codec.cursor import varint
from sentei.codec.model import Alphabet

# By the type of a tensor: bytes of an element, and whether it is made of sign, exponent, mantissa.
_TYPES = {
    "int8": (1, False),
    "uint8": (1, False),
    "bool": (1, False),
    "float8": (1, False),
    "int16": (2, False),
    "uint16": (2, False),
    "float16": (2, True),
    "bfloat16": (2, True),
    "int32": (4, False),
    "uint32": (4, False),
    "float32": (4, True),
    "int64": (8, False),
    "uint64": (8, False),
    "float64": (8, True),
}
_MOST_VALUES = 256
# Deflate must promise so much more before LZMA is given its time.
_PROMISE = 0.97
_LEAST_SIDE = 12
# The adaptive coder is some ten times slower to decode: it must be so much shorter.
_SLOW_PAYS = 0.995

# A tensor's numbers in the order of coding, and which axis of the file each of its axes is.
_View = tuple[np.ndarray, tuple[int, ...]]


@dataclass
class Draft:
    """A way to code a piece.

    Attributes:
        size: Bytes it will take, nearly.
        streams: Its streams, each with its symbols, to be coded before `write`.
        write: Gives the payload.
        special: Whether it is more than the general-purpose methods.
    """

    size: float
    streams: list[tuple[rans.Stream, np.ndarray]]
    write: Callable[[], bytes]
    special: bool = True


def draft(
    data: memoryview,
    dtype: str,
    shape: Sequence[int],
    indices: bool = False,
    thorough: bool = False,
) -> Draft:
    """The shortest way to code a piece.

    Args:
        data: Its bytes.
        dtype: The type of its elements, such as `"int8"`.
        shape: Its shape, as far as it fits the bytes.
        indices: Whether it lists places of a sparse tensor, in order.
        thorough: Whether to try the coder that takes its time.
    """
    fallback = _general(data, thorough=False)
    options = [fallback]
    if dtype in ("int4", "uint4"):
        options += _nibbles(data, shape, thorough)
    elif dtype in _TYPES and len(data) % _TYPES[dtype][0] == 0 and len(data):
        unit, floating = _TYPES[dtype]
        words = np.frombuffer(data, f"<u{unit}")
        fitted = _fitted(shape, len(words))
        options += _by_values(words, fitted, unit, thorough)
        if unit > 1 and (len(options) == 1 or indices):
            flags = pieces.DIFFERENCES if indices else pieces.ROTATED * floating
            options.append(_planes(words, fitted, unit, flags, thorough))
    best = min(options, key=lambda item: item.size)
    promise = _PROMISE * min((item.size for item in options[1:]), default=len(data))
    if thorough or fallback.size < promise:
        return min(best, _general(data, thorough=True), key=lambda item: item.size)
    return best


def _general(data: bytes | memoryview, thorough: bool) -> Draft:
    coded = general.encode(data, thorough)
    return Draft(len(coded), [], lambda: coded, special=False)


def _fitted(shape: Sequence[int], count: int) -> tuple[int, ...]:
    """The shape without axes of 1, or that of a list if it does not fit."""
    sizes = tuple(size for size in shape if size != 1)
    if math.prod(sizes) != count or not 0 < len(sizes) <= pieces.MOST_AXES:
        return (count,)
    return sizes


def _nibbles(data: memoryview, shape: Sequence[int], thorough: bool) -> list[Draft]:
    packed = np.frombuffer(data, np.uint8)
    count = 2 * len(packed)
    if math.prod(shape) == count - 1 and packed[-1] < 16:
        count -= 1
    words = np.stack([packed & 15, packed >> 4], 1).ravel()[:count]
    # Two's complement: 8 to 15 are negative and come first.
    return _by_values(words, _fitted(shape, count), pieces.NIBBLE, thorough)


def _by_values(words: np.ndarray, shape: tuple[int, ...], unit: int, thorough: bool) -> list[Draft]:
    """The draft that numbers the distinct values, where there are few enough."""
    sample = words[: 1 << 16]
    if unit > 1 and len(np.unique(sample)) > _MOST_VALUES:
        return []
    values, numbers = _numbered(words, unit)
    if len(values) > _MOST_VALUES:
        return []
    centre = int(np.bincount(numbers, minlength=len(values)).argmax())
    return [_symbols(numbers.reshape(shape), values, centre, unit, thorough)]


def _numbered(words: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
    """The distinct values in the order of signed numbers, and the place of each word among them."""
    if unit > 1:
        values = np.unique(words)
        if len(values) > _MOST_VALUES:
            return values, words
        top = words.dtype.type(1 << 8 * unit - 1)
        # As signs and magnitudes: negative floats come in falling order of their bits.
        negative = values[values >= top]
        ordered = np.concatenate([negative[::-1], values[values < top]])
        place = np.empty(len(values), np.uint8)
        place[np.searchsorted(values, ordered)] = np.arange(len(values))
        return ordered, place[np.searchsorted(values, words)]
    half, span = (8, 16) if unit == pieces.NIBBLE else (128, 256)
    present = np.roll(np.bincount(words, minlength=span) > 0, half)
    ordered = (np.flatnonzero(present) + half) % span
    place = np.zeros(span, np.uint8)
    place[ordered] = np.arange(len(ordered))
    return ordered.astype(np.uint8), place[words]


def _symbols(
    numbers: np.ndarray, values: np.ndarray, centre: int, unit: int, thorough: bool
) -> Draft:
    alphabet = Alphabet(len(values), centre)
    head = bytes([pieces.SYMBOLS, unit]) + _values(values, centre, unit)
    if alphabet.size == 1:
        payload = head + _axes((numbers.size,), (0,))
        return Draft(len(payload), [], lambda: payload)
    axes, model, ordered, bits = fit.choose(numbers, alphabet)
    front = head + _axes([numbers.shape[axis] for axis in axes], axes) + bytes([pieces.STATIC])
    size = len(front) + 12 + bits / 8
    if thorough:
        mixed = head + _best_mixed(numbers, alphabet)
        if len(mixed) < _SLOW_PAYS * size:
            return Draft(len(mixed), [], lambda: mixed)
    coded = rans.Stream(model, ordered.size, fit.lanes(ordered.size))
    return Draft(size, [(coded, ordered)], lambda: front + stream.write(coded))


def _best_mixed(numbers: np.ndarray, alphabet: Alphabet) -> bytes:
    """The shortest of the mixed codes of all views, and of the deep ones of the best view."""
    mixed = [(_mixed(view, alphabet, pieces.MIXED), view) for view in _views(numbers)]
    code, (seen, axes) = min(mixed, key=lambda item: len(item[0]))
    turned = [(seen, axes)]
    if seen.ndim > numbers.ndim:  # images: columns as rows too
        first = next(i for i in range(seen.ndim) if seen.shape[i] != numbers.shape[i])
        order = [*axes]
        order[first : first + 2] = order[first + 1], order[first]
        turned.append((seen.transpose(order), tuple(order)))
    return min([code, *(_mixed(view, alphabet, pieces.DEEP) for view in turned)], key=len)


def _mixed(view: _View, alphabet: Alphabet, coder: int) -> bytes:
    numbers, axes = view
    code = mixing.encode(np.ascontiguousarray(numbers), alphabet, coder == pieces.DEEP)
    return _axes(numbers.shape, axes) + bytes([coder]) + code


def _views(numbers: np.ndarray) -> Iterator[_View]:
    """The tensor, and as a stack of square images where the length of an axis is a square."""
    yield numbers, tuple(range(numbers.ndim))
    for axis, size in enumerate(numbers.shape) if numbers.ndim == 2 else ():
        side = math.isqrt(size)
        if side * side == size and side >= _LEAST_SIDE:
            shape = (*numbers.shape[:axis], side, side, *numbers.shape[axis + 1 :])
            yield numbers.reshape(shape), (0, 1, 2)


def _values(values: np.ndarray, centre: int, unit: int) -> bytes:
    head = varint(len(values)) + bytes([centre])
    listed = head + bytes([pieces.LISTED]) + values.astype(f"<u{max(unit, 1)}").tobytes()
    if unit > 1:
        return listed
    first = int(values[0])
    places = (values.astype(int) - first) % 256
    if (places == np.arange(len(values))).all():
        return head + bytes([pieces.RUN, first])
    if (np.diff(places) < 0).any():  # nibbles that begin at 8 and go on at 0
        return listed
    bits = np.zeros(int(places.max()) + 1, np.uint8)
    bits[places] = 1
    bitmap = np.packbits(bits, bitorder="little").tobytes()
    mapped = head + bytes([pieces.BITMAP, first]) + varint(len(bitmap)) + bitmap
    return min(listed, mapped, key=len)


def _axes(sizes: Sequence[int], axes: Sequence[int]) -> bytes:
    result = varint(len(axes))
    for size, axis in zip(sizes, axes, strict=True):
        result += varint(size) + bytes([axis])
    return result


def _planes(
    words: np.ndarray, shape: tuple[int, ...], unit: int, flags: int, thorough: bool
) -> Draft:
    """Every byte of the elements apart, the highest first."""
    kind = words.dtype.type
    if flags & pieces.DIFFERENCES:
        words = np.diff(words, prepend=kind(0))
    if flags & pieces.ROTATED:
        words = words << kind(1) | words >> kind(8 * unit - 1)
    top = (words >> kind(8 * unit - 8)).astype(np.uint8)
    kept = words
    if not words[top == 0].any() and not top.all():
        flags, kept = flags | pieces.ZEROS_LEFT_OUT, words[top != 0]
    parts = [_plane(top, shape, thorough)]
    for index in range(1, unit):
        plane = (kept >> kind(8 * (unit - 1 - index))).astype(np.uint8)
        empty = Draft(0, [], bytes)
        parts.append(_plane(plane, (len(plane),), thorough) if len(plane) else empty)
    lengths = [len(words)] + [len(kept)] * (unit - 1)

    def write() -> bytes:
        result = bytes([pieces.PLANES, unit, flags])
        for length, part in zip(lengths, parts, strict=True):
            payload = part.write()
            result += varint(length) + varint(len(payload)) + payload
        return result

    size = sum(part.size for part in parts) + 3 + 8 * unit
    return Draft(size, [item for part in parts for item in part.streams], write)


def _plane(plane: np.ndarray, shape: tuple[int, ...], thorough: bool) -> Draft:
    whole = np.bincount(plane, minlength=256)
    stored = _stored(plane)
    # Mantissas are noise: do not look for an order where there is none.
    if groupings.entropy(whole[None]) / 8 > 0.98 * len(plane):
        return stored
    return min([*_by_values(plane, shape, 1, thorough), stored], key=lambda item: item.size)


def _stored(plane: np.ndarray) -> Draft:
    return Draft(len(plane) + 1, [], lambda: bytes([general.STORED]) + plane.tobytes())
