"""How a `.tflite` file lays a sparse tensor out, and how to read it back densely.

The file describes a sparse tensor level by level (Kjolstad et al. 2017, "The Tensor Algebra
Compiler"): each level walks one dimension of the tensor, or one dimension of the block that the
tensor is cut into, and is either dense (every index present) or compressed sparse rows (the indices
present are listed). The buffer holds one value per path through the levels, in that order.
"""

import math
from dataclasses import dataclass

import numpy as np

from sentei.core.errors import CorruptFile

# A lying shape must not make us ask for more memory than any real weight needs.
_LARGEST_EXPANSION = 2**31


@dataclass(frozen=True)
class Level:
    """One level of the walk.

    Attributes:
        size: Number of indices of a dense level (0 for a compressed one).
        segments: For a compressed level, where each parent's indices begin: `(parents + 1,)`.
        indices: For a compressed level, the indices present.
    """

    size: int
    segments: np.ndarray | None = None
    indices: np.ndarray | None = None

    @property
    def is_dense(self) -> bool:
        """Whether every index of this level is present."""
        return self.segments is None


@dataclass(frozen=True)
class Sparsity:
    """The layout of one sparse tensor.

    Invariants:
        `len(levels) == len(order) == rank + len(blocked)`;
        `sorted(order) == range(len(order))`: entries below `rank` are the tensor's own dimensions,
        entry `rank + i` is the inside of the block along dimension `blocked[i]`.
    """

    order: tuple[int, ...]
    blocked: tuple[int, ...]
    levels: tuple[Level, ...]

    def block_shape(self) -> tuple[int, ...]:
        """The size of the block along each entry of `blocked`, empty when values stand alone."""
        rank = len(self.order) - len(self.blocked)
        return tuple(self.levels[self.order.index(rank + i)].size for i in range(len(self.blocked)))

    @property
    def nbytes(self) -> int:
        """Bytes of the index vectors."""
        vectors = [v for level in self.levels for v in (level.segments, level.indices)]
        return sum(vector.nbytes for vector in vectors if vector is not None)

    def __str__(self) -> str:
        kinds = ", ".join("dense" if level.is_dense else "CSR" for level in self.levels)
        block = self.block_shape()
        return f"{kinds} (blocks of {'x'.join(map(str, block))})" if block else kinds


def check(sparsity: Sparsity, shape: tuple[int, ...]) -> int:
    """Checks a layout against the shape it claims to describe.

    The runtime's DENSIFY follows the indices without looking, into memory that is not its own.

    Args:
        sparsity: The layout.
        shape: The dense shape of the tensor.

    Returns:
        How many values the layout describes.

    Raises:
        CorruptFile: The layout breaks one of the invariants of `Sparsity` or `Level`; says which.
    """
    rank, depth = len(shape), len(sparsity.order)
    if depth != rank + len(sparsity.blocked) or depth != len(sparsity.levels):
        raise CorruptFile(
            f"its sparsity describes {len(sparsity.levels)} levels in an order of {depth} for "
            f"{rank} dimensions and {len(sparsity.blocked)} blocked ones"
        )
    if sorted(sparsity.order) != list(range(depth)):
        raise CorruptFile(f"its sparsity walks the dimensions in the impossible {sparsity.order}")
    if any(not 0 <= dimension < rank for dimension in sparsity.blocked):
        raise CorruptFile(f"its sparsity blocks the dimensions {sparsity.blocked} of {rank}")
    blocks = dict(zip(sparsity.blocked, sparsity.block_shape(), strict=True))
    entries = 1
    for dimension, level in zip(sparsity.order, sparsity.levels, strict=True):
        block = blocks.get(dimension, 1)
        inside_block = dimension >= rank
        if inside_block:
            fits = level.is_dense and level.size > 0
        else:
            fits = block > 0 and shape[dimension] % block == 0
            fits = fits and (not level.is_dense or level.size * block == shape[dimension])
        if not fits:
            raise CorruptFile(f"its sparsity has a level of {level.size} for the shape {shape}")
        if level.segments is None or level.indices is None:
            entries *= level.size
        else:
            _check_rows(level.segments, level.indices, entries, shape[dimension] // block)
            entries = level.indices.size
    return entries


def _check_rows(segments: np.ndarray, indices: np.ndarray, parents: int, size: int) -> None:
    """One row of indices, each below `size`, for each parent."""
    bounds = segments.astype(np.int64)
    consistent = bounds.size == parents + 1 and bounds[0] == 0 and bounds[-1] == indices.size
    if not consistent or (bounds[1:] < bounds[:-1]).any():
        raise CorruptFile(f"its sparsity has inconsistent row segments for {parents} rows")
    if ((indices < 0) | (indices >= size)).any():
        raise CorruptFile(f"its sparsity points outside a dimension of {size}")


def expand(values: np.ndarray, shape: tuple[int, ...], sparsity: Sparsity) -> np.ndarray:
    """Writes the values of a sparse tensor to their places in a dense one.

    Args:
        values: The values stored, array of shape `(stored,)`.
        shape: The dense shape.
        sparsity: The layout of the values.

    Returns:
        The dense array of shape `shape`, zero where the file stores nothing.

    Raises:
        CorruptFile: The layout, the shape and the number of values do not belong together.
    """
    elements = math.prod(shape)
    if elements > _LARGEST_EXPANSION:
        raise CorruptFile(f"its {elements} elements are more than a sparse tensor may expand to")
    described = check(sparsity, shape)
    if described != values.size:
        raise CorruptFile(f"its sparsity describes {described} values, not {values.size}")
    walked = _walk(sparsity)
    rank = len(shape)
    position = np.empty_like(walked)
    position[list(sparsity.order)] = walked
    blocks = zip(sparsity.blocked, sparsity.block_shape(), strict=True)
    for i, (dimension, size) in enumerate(blocks):
        position[dimension] = position[dimension] * size + position[rank + i]
    dense = np.zeros(shape, values.dtype)
    dense[tuple(position[:rank])] = values
    return dense


def _walk(sparsity: Sparsity) -> np.ndarray:
    """The index at every level of every value stored: array of shape `(levels, stored)`."""
    path = np.zeros((0, 1), np.int64)
    for level in sparsity.levels:
        entries = path.shape[1]
        if level.segments is None or level.indices is None:
            parents = np.repeat(np.arange(entries), level.size)
            indices = np.tile(np.arange(level.size), entries)
        else:
            counts: np.ndarray = np.diff(level.segments.astype(np.int64))
            parents = np.repeat(np.arange(entries), counts)
            indices = level.indices.astype(np.int64)
        path = np.concatenate([path[:, parents], indices[None]])
    return path
