"""Choosing the smallest sparse layout for an array, and writing the array in it.

The layouts are those of the file format (see `sparse`) that go over the dimensions in order with
the last one compressed: `(dense, ..., dense, CSR)`, of single values or of blocks. Compressed rows
(CSR) keep, for each row, the columns at which it is not zero.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np

from sentei.litert.sparse import Level, Sparsity

# Blocks as (rows along the first dimension, neighbours along the last): powers of two, as patterns
# of pruning are.
_BLOCK_SIDES = (1, 2, 4, 8, 16)
# Blocks are only for weights that were pruned in blocks: nearly all in one that is kept is kept.
_FULL_BLOCK = 0.9
_INDEX_TYPES = (np.uint8, np.uint16, np.int32)


def smallest(dense: np.ndarray) -> tuple[np.ndarray, Sparsity]:
    """An array as values and layout, in the layout that takes the fewest bytes.

    What counts as zero is what DENSIFY puts there: all bits zero. A -0.0 is kept.

    Args:
        dense: Array of at least one dimension.

    Returns:
        The values stored, array of shape `(stored,)`, and their layout.
    """
    present = _bits(dense) != 0
    blocks = [block for block in _blocks(dense.shape) if _is_full(present, block)]
    return encode(
        dense, min(blocks, key=lambda block: _cost(present, block, dense.itemsize), default=(1, 1))
    )


def encode(dense: np.ndarray, block: tuple[int, int] = (1, 1)) -> tuple[np.ndarray, Sparsity]:
    """An array as values and layout.

    Args:
        dense: Array of at least one dimension.
        block: Rows along the first dimension and neighbours along the last that are stored
            together; each divides its dimension. In one dimension the rows must be 1.

    Returns:
        The values stored, array of shape `(stored,)`, and their layout.
    """
    rank = dense.ndim
    outer = _outer_shape(dense.shape, block)
    cut = _cut(dense, block)
    present = np.any(_bits(cut) != 0, axis=(-2, -1))
    columns = np.nonzero(present.reshape(-1, outer[-1]))[1]
    segments = np.concatenate([[0], np.cumsum(present.reshape(-1, outer[-1]).sum(axis=1))])
    levels = [Level(size) for size in outer[:-1]]
    levels.append(Level(0, _narrowest(segments), _narrowest(columns, outer[-1] - 1)))
    blocked = []
    for dimension, size in zip((0, rank - 1), block, strict=True):
        if size > 1:
            blocked.append(dimension)
            levels.append(Level(size))
    order = tuple(range(rank + len(blocked)))
    return cut[present].reshape(-1), Sparsity(order, tuple(blocked), tuple(levels))


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """The blocks that divide a shape, single values first."""
    for rows, neighbours in product(_BLOCK_SIDES, _BLOCK_SIDES):
        if shape[-1] % neighbours == 0 and (rows == 1 or (len(shape) > 1 and shape[0] % rows == 0)):
            yield rows, neighbours


def _is_full(present: np.ndarray, block: tuple[int, int]) -> bool:
    """Whether the blocks that hold anything are (nearly) full."""
    kept = np.count_nonzero(np.any(_cut(present, block), axis=(-2, -1)))
    return bool(0 < _FULL_BLOCK * kept * block[0] * block[1] <= np.count_nonzero(present))


def _cost(present: np.ndarray, block: tuple[int, int], itemsize: int) -> int:
    """Bytes of values, columns and rows with a block."""
    kept = np.any(_cut(present, block), axis=(-2, -1))
    stored, outer = int(np.count_nonzero(kept)), kept.shape
    rows = kept.size // max(outer[-1], 1) + 1
    indices = stored * _width(outer[-1] - 1) + rows * _width(stored)
    return stored * block[0] * block[1] * itemsize + indices


def _cut(dense: np.ndarray, block: tuple[int, int]) -> np.ndarray:
    """The array as blocks: shape `(*outer, rows of the block, neighbours of the block)`."""
    outer = _outer_shape(dense.shape, block)
    if dense.ndim == 1:
        return dense.reshape(*outer, 1, block[1])
    split = dense.reshape(outer[0], block[0], *outer[1:], block[1])
    return np.moveaxis(split, 1, -2)


def _outer_shape(shape: tuple[int, ...], block: tuple[int, int]) -> tuple[int, ...]:
    outer = list(shape)
    outer[0] //= block[0]
    outer[-1] //= block[1]
    return tuple(outer)


def _bits(array: np.ndarray) -> np.ndarray:
    """The array's bits as integers of the same width."""
    return np.ascontiguousarray(array).view(f"u{array.itemsize}")


def _narrowest(values: np.ndarray, largest: int | None = None) -> np.ndarray:
    """The values in the narrowest integer type of the format that holds the largest."""
    top = int(values.max(initial=0)) if largest is None else largest
    return values.astype(next(kind for kind in _INDEX_TYPES if top <= np.iinfo(kind).max))


def _width(largest: int) -> int:
    return next(np.dtype(kind).itemsize for kind in _INDEX_TYPES if largest <= np.iinfo(kind).max)
