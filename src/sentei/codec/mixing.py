"""`effort="max"`: an adaptive binary context-mixing coder for the symbols of a tensor.

Logistic mixing of context models (Mahoney 2005; Mattern 2012, "Mixing strategies in data
compression", section 3): each symbol is a few binary decisions, each decision is predicted by eight
contexts (neighbours along three axes, and the indices along them, so that rows, channels and kernel
positions learn their own density), and two sets of weights learn whom to trust. Integers only, so
that every platform decodes the same. `docs/format.md` specifies it; the loop is in `kernel`.

The *deep* coder has four contexts more, of its neighbours' values, a third set of weights, and a
last correction of what they agree on (Mahoney's adaptive probability maps). It suits first layers
whose inputs are pixels, where neighbours are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from sentei.codec.binary import SQUASH, STRETCH
from sentei.codec.model import Alphabet
from sentei.core.errors import CorruptFile

_INDEX_BITS = 12  # of an index that learns by itself; larger axes share
# Contexts of each input beside the three that are indices, in the order of `kernel.look`.
_TURNED, _LARGE, _NEAR, _PER_MIDDLE = 27, 125, 28, 9
_EXPECTED, _PAIRS, _PER_INNER = 124, 289, 8
_TREES = 9 * 128
# First weights of the deep coder's inputs: for whether a symbol is the centre, its sign, its size.
_ZERO = (-4915, 3277, 4096, -1638, 2458, 12288, 1638, 819, 1638, 2458, 1500, 1500)
_SIGN = (819, 6554, 0, 1311, 983, 4096, 328, 0, 3277, 6554, 0, 0)
_SIZE = (0, 1966, 2294, 0, 819, 4096, 1311, 0, 4096, 3277, 0, 0)


def three_axes(shape: Sequence[int]) -> tuple[int, int, int]:
    """A shape of three axes that holds another one's elements in their order.

    Args:
        shape: Any; while there are more than three axes, the two neighbours whose product is
            smallest become one, and missing ones are of size 1, the middle one first.
    """
    sizes = list(shape)
    while len(sizes) > 3:
        products = [first * second for first, second in pairwise(sizes)]
        place = products.index(min(products))
        sizes[place : place + 2] = [products[place]]
    if len(sizes) == 2:
        sizes.insert(1, 1)
    outer, middle, inner = [1] * (3 - len(sizes)) + sizes
    return outer, middle, inner


def encode(symbols: np.ndarray, alphabet: Alphabet, deep: bool = False) -> bytes:
    """The code of some symbols.

    Args:
        symbols: The symbols, in the tensor's shape; uint8.
        alphabet: What they are; at least two.
        deep: Whether to use the deep coder.
    """
    # No decision costs more than 11 bits, and none of at most 16 a symbol is left out.
    room = 64 + symbols.size * 24
    data = np.zeros(room, np.uint8)
    coder = np.array([0, 0xFFFFFFFF, 0, 0], np.int64)
    coder = _walk(symbols.ravel(), False, deep, data, coder, alphabet, symbols.shape)[1]
    low, high, _, place = (int(number) for number in coder)
    for size in range(5):
        unit = 1 << 32 - 8 * size
        value = -(-low // unit) * unit
        if value <= high:
            break
    return data[:place].tobytes() + value.to_bytes(4, "big")[:size]


def decode(
    data: bytes | memoryview,
    count: int,
    alphabet: Alphabet,
    shape: Sequence[int],
    deep: bool = False,
) -> np.ndarray:
    """The symbols of a code.

    Args:
        data: The code.
        count: How many symbols it stands for.
        alphabet: What they are; at least two.
        shape: The tensor's shape.
        deep: Whether the deep coder wrote it.

    Returns:
        uint8 of one axis.

    Raises:
        CorruptFile: The code gives a symbol that there is none.
    """
    begin = int.from_bytes(bytes(data[:4]).ljust(4, b"\0"), "big")
    coder = np.array([0, 0xFFFFFFFF, begin, 4], np.int64)
    held = np.frombuffer(bytes(data), np.uint8).copy()  # numba wants one it may write
    symbols, _ = _walk(np.zeros(count, np.uint8), True, deep, held, coder, alphabet, shape)
    if ((symbols < 0) | (symbols >= alphabet.size)).any():
        raise CorruptFile("a mixed code gives a symbol that there is none")
    return symbols.astype(np.uint8)


def _walk(
    symbols: np.ndarray,
    decoding: bool,
    deep: bool,
    data: np.ndarray,
    coder: np.ndarray,
    alphabet: Alphabet,
    shape: Sequence[int],
) -> tuple[np.ndarray, Any]:
    from sentei.codec import kernel

    axes = three_axes(shape)
    shifts = [max(0, (size - 1).bit_length() - _INDEX_BITS) for size in axes]
    indices = [(size - 1 >> shift) + 1 for size, shift in zip(axes, shifts, strict=True)]
    sizes = [1, _TURNED, _LARGE, *indices, _NEAR, _PER_MIDDLE * indices[1]]
    if deep:
        sizes += [_EXPECTED, _PAIRS, _PER_INNER * indices[2], _PER_INNER * indices[2]]
    nodes = kernel.DEEP_NODES if deep else kernel.NODES
    starts = np.concatenate([[0], np.cumsum(sizes)]) * nodes
    state = [
        starts[:-1],
        np.full(starts[-1], 32768),
        np.zeros(starts[-1], np.int64),
        _weights(deep),
        np.full(_TREES, 32768),
        np.zeros(_TREES, np.int64),
        np.zeros(kernel.DEEP_INPUTS + 1, np.int64),
        np.zeros(kernel.DEEP_INPUTS, np.int64),
        _refined(deep),
        np.zeros(symbols.size + 1, np.uint8),
        np.zeros(symbols.size + 1, np.uint8),
        np.zeros(symbols.size + 1, np.int16),
    ]
    counts = np.arange(kernel.MOST_COUNT + 1) + 2
    tables = [SQUASH, STRETCH, (32768 + counts // 2) // counts]
    working = symbols.astype(np.int16)
    arrays: list[Any] = [working, data, coder, *state, *tables]
    if not kernel.COMPILED:  # plain Python is quicker on lists
        arrays = [item.tolist() for item in arrays]
    working_, data_, coder_ = arrays[:3]
    kernel.walk(
        working_,
        decoding,
        deep,
        data_,
        coder_,
        (alphabet.size, alphabet.centre),
        axes,
        tuple(shifts),
        *arrays[3:-3],
        tuple(arrays[-3:]),
    )
    if not decoding:
        data[:] = data_
    return np.asarray(working_), coder_


def _weights(deep: bool) -> np.ndarray:
    """The first weights of all sets: of each node, and of each node and density; or expectation."""
    from sentei.codec import kernel

    if not deep:
        return np.full(kernel.NODES * (1 + kernel.DENSITIES) * kernel.INPUTS, kernel.WEIGHT)
    each = np.array([_ZERO, _SIGN, *[_SIZE] * (kernel.DEEP_NODES - 2)])
    times = (1, kernel.DENSITIES, kernel.EXPECTED)
    return np.concatenate([np.repeat(each, count, 0) for count in times]).ravel()


def _refined(deep: bool) -> np.ndarray:
    """The last correction, at first none: the probability of every 33rd of the log-odds."""
    from sentei.codec import kernel

    steps = SQUASH[np.minimum(np.arange(kernel.STEPS) * 128, 4095)].astype(np.int64)
    return np.tile(steps, kernel.DEEP_NODES * kernel.EXPECTED if deep else 1)
