"""Which weights may be zero together: single weights, blocks, n of every m."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.schedule import check_sparsity
from sentei.core.select import Axes
from sentei.sparsity.top import keep_best


class Pattern:
    """The shape of sparsity.

    A pattern divides a weight into units and keeps a number of them. How many is decided on the
    host (`kept_units`, exact integer arithmetic), which ones in the compiled step (`mask`).

    Invariants:
        - `mask` has the shape of the scores and keeps exactly what `kept_units` said;
        - equal scores are cut by position, in row-major order of the units;
        - fewer units kept is a subset, for the same scores.
    """

    def kept_units(self, shape: tuple[int, ...], axes: Axes, sparsity: float) -> int:
        """How many units to keep at a sparsity: the `keep` that `mask` takes."""
        raise NotImplementedError

    def mask(self, scores: Any, axes: Axes, keep: Any) -> Any:
        """A boolean mask of the shape of `scores` (finite), true for the weights kept."""
        raise NotImplementedError

    def pool(self, scores: Any, axes: Axes) -> Any:
        """One score a unit, for a threshold across layers."""
        raise NotImplementedError

    def spread(self, unit_mask: Any, shape: tuple[int, ...], axes: Axes) -> Any:
        """A mask of units as a mask of weights of the given shape; undoes `pool`."""
        raise NotImplementedError

    def units(self, shape: tuple[int, ...], axes: Axes) -> int:
        """How many units a weight of this shape has."""
        return self.kept_units(shape, axes, 0.0)

    def check_target(self, name: str, sparsity: float) -> None:
        """Raises SenteiError when the pattern cannot end at this sparsity."""

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pattern:
        """The pattern that `get_config` described."""
        return cls(**config)


@keras.saving.register_keras_serializable("sentei")
@dataclass(frozen=True)
class Element(Pattern):
    """Single weights, anywhere. With k = round(size * (1 - sparsity)), exactly k are kept.

    In the file: zeros lie scattered through the tensor. Dense storage keeps its size (gzip and
    the sparse format of LiteRT, compressed rows, make it smaller).
    """

    def kept_units(self, shape: tuple[int, ...], axes: Axes, sparsity: float) -> int:
        """round(size * (1 - sparsity))."""
        return _rounded(math.prod(shape), sparsity)

    def mask(self, scores: Any, axes: Axes, keep: Any) -> Any:
        """The `keep` highest scores."""
        return keep_best(scores, keep)

    def pool(self, scores: Any, axes: Axes) -> Any:
        """The scores themselves."""
        return scores

    def spread(self, unit_mask: Any, shape: tuple[int, ...], axes: Axes) -> Any:
        """The mask itself."""
        return unit_mask


@keras.saving.register_keras_serializable("sentei")
@dataclass(frozen=True)
class Block(Pattern):
    """Rectangles of the weight's matrix, pruned as a whole.

    The matrix has a row for every kernel position and input channel (a convolution's is
    `(kernel_h * kernel_w * in, out)`) and a column for every output channel. With
    k = round(blocks * (1 - sparsity)), exactly k blocks are kept. Where the block does not divide
    the matrix, the blocks at the lower and right edge are smaller; they count as blocks and are
    scored by the weights they have.

    In the file: LiteRT stores the transpose, output channels first, so a block of `(h, w)` is `w`
    rows of `h` neighbouring weights. `(4, 1)` is four contiguous weights of a dense layer.

    Args:
        shape: `(rows, columns)` of a block, each at least 1.
        pooling: `"mean"` or `"max"`: how a block's score follows from its weights' scores.

    Raises:
        SenteiError: for a shape or a pooling that is none.
    """

    shape: tuple[int, int] = (4, 4)
    pooling: str = "mean"

    def __post_init__(self) -> None:
        shape = tuple(self.shape) if isinstance(self.shape, (list, tuple)) else ()
        if len(shape) != 2 or not all(_is_count(side) for side in shape):
            raise SenteiError(
                f"Block takes two whole numbers of at least 1, (rows, columns). "
                f"Received: shape={self.shape!r}. For example Block((4, 1))."
            )
        if self.pooling not in ("mean", "max"):
            raise SenteiError(
                f"Block pools by 'mean' or 'max'. Received: pooling={self.pooling!r}."
            )
        object.__setattr__(self, "shape", shape)

    def kept_units(self, shape: tuple[int, ...], axes: Axes, sparsity: float) -> int:
        """round(blocks * (1 - sparsity))."""
        rows, columns = self._grid(shape, axes)
        return _rounded(rows * columns, sparsity)

    def mask(self, scores: Any, axes: Axes, keep: Any) -> Any:
        """The `keep` blocks with the highest pooled scores."""
        return self.spread(keep_best(self.pool(scores, axes), keep), tuple(scores.shape), axes)

    def pool(self, scores: Any, axes: Axes) -> Any:
        """Mean or maximum over each block, of shape `(block rows, block columns)`."""
        matrix = to_matrix(scores, axes)
        rows, columns = self._grid(tuple(scores.shape), axes)
        if self.pooling == "max":
            return self._reduce(matrix, rows, columns, ops.max, fill=-math.inf)
        total = self._reduce(matrix, rows, columns, ops.sum, fill=0.0)
        # The blocks at the edges are smaller: divide by what is really there.
        return total / self._reduce(ops.ones_like(matrix), rows, columns, ops.sum, fill=0.0)

    def spread(self, unit_mask: Any, shape: tuple[int, ...], axes: Axes) -> Any:
        """Each block's flag on all its weights."""
        height, width = self.shape
        full = ops.repeat(ops.repeat(unit_mask, height, axis=0), width, axis=1)
        rows, columns = _matrix_shape(shape, axes)
        return from_matrix(full[:rows, :columns], shape, axes)

    def _grid(self, shape: tuple[int, ...], axes: Axes) -> tuple[int, int]:
        rows, columns = _matrix_shape(shape, axes)
        return -(-rows // self.shape[0]), -(-columns // self.shape[1])

    def _reduce(self, matrix: Any, rows: int, columns: int, reduce: Any, fill: float) -> Any:
        height, width = self.shape
        padding = (
            (0, rows * height - matrix.shape[0]),
            (0, columns * width - matrix.shape[1]),
        )
        padded = ops.pad(matrix, padding, constant_values=fill)
        return reduce(ops.reshape(padded, (rows, height, columns, width)), axis=(1, 3))


@keras.saving.register_keras_serializable("sentei")
@dataclass(frozen=True)
class NofM(Pattern):
    """At most `n` of every `m` neighbouring input channels are kept, such as 2 of 4.

    Groups run along the input channels at a fixed kernel position and output channel, and start
    at channel 0; a last group shorter than `m` keeps at most `n` too. On the way the schedule
    moves in the pattern's own steps, one weight a group: at sparsity s, round(m * (1 - s)) of each
    group are kept, and never fewer than `n`. The schedule must end at 1 - n/m.

    In the file: input channels are the contiguous axis of every LiteRT weight, so a group is `m`
    neighbouring values (for an embedding: along the vector).

    Args:
        n: weights kept in each group, at least 1.
        m: size of a group, more than `n`.

    Raises:
        SenteiError: for numbers that make no such pattern.
    """

    n: int = 2
    m: int = 4

    def __post_init__(self) -> None:
        if not (_is_count(self.n) and _is_count(self.m) and self.n < self.m):
            raise SenteiError(
                f"NofM keeps n of every m weights, with 1 <= n < m. Received: n={self.n!r}, "
                f"m={self.m!r}. For example NofM(2, 4)."
            )

    def kept_units(self, shape: tuple[int, ...], axes: Axes, sparsity: float) -> int:
        """Weights kept in each group of m."""
        return max(self.n, _rounded(self.m, sparsity))

    def mask(self, scores: Any, axes: Axes, keep: Any) -> Any:
        """The `keep` highest scores of each group."""
        groups, shape = self._groups(scores, axes)
        better = ops.expand_dims(groups, -2) > ops.expand_dims(groups, -1)
        equal = ops.expand_dims(groups, -2) == ops.expand_dims(groups, -1)
        place = ops.arange(self.m)
        earlier = ops.expand_dims(place, 0) < ops.expand_dims(place, 1)
        ahead = ops.logical_or(better, ops.logical_and(equal, earlier))
        rank = ops.sum(ops.cast(ahead, "int32"), axis=-1)
        kept = ops.reshape(rank < keep, (*shape[:2], -1))[:, :, : shape[2]]
        return _from_input_last(kept, tuple(scores.shape), axes)

    def pool(self, scores: Any, axes: Axes) -> Any:
        """Not defined: the pattern fixes the share of every group."""
        raise SenteiError("NofM fixes the sparsity of every group; use scope='layer' with it.")

    def check_target(self, name: str, sparsity: float) -> None:
        """Raises SenteiError unless the final sparsity is 1 - n/m."""
        if abs(sparsity - (1.0 - self.n / self.m)) > 1e-6:
            raise SenteiError(
                f"NofM({self.n}, {self.m}) ends at a sparsity of {1 - self.n / self.m:g}, but the "
                f"schedule of {name} ends at {sparsity:g}. Make them equal, or use another pattern."
            )

    def _groups(self, scores: Any, axes: Axes) -> tuple[Any, tuple[int, int, int]]:
        """Scores as `(positions, out, groups, m)`, short groups filled with the lowest score."""
        last = _to_input_last(scores, axes)
        length = last.shape[2]
        missing = -length % self.m
        # -inf is never kept before a real weight; float16 has it too.
        padded = ops.pad(last, ((0, 0), (0, 0), (0, missing)), constant_values=-math.inf)
        shape = (int(last.shape[0]), int(last.shape[1]), int(length))
        return ops.reshape(padded, (*shape[:2], -1, self.m)), shape


def to_matrix(x: Any, axes: Axes) -> Any:
    """A weight as its matrix: `(positions * in, out)`.

    Args:
        x: tensor.
        axes: what its axes mean.
    """
    order = (*axes.position, *axes.input, *axes.output)
    return ops.reshape(_transposed(x, order), _matrix_shape(tuple(x.shape), axes))


def from_matrix(matrix: Any, shape: tuple[int, ...], axes: Axes) -> Any:
    """Undoes `to_matrix`.

    Args:
        matrix: tensor of shape `(positions * in, out)`.
        shape: the weight's shape.
        axes: what its axes mean.
    """
    order = (*axes.position, *axes.input, *axes.output)
    return _untransposed(ops.reshape(matrix, tuple(shape[a] for a in order)), order)


def _to_input_last(x: Any, axes: Axes) -> Any:
    """A weight as `(positions, out, in)`."""
    shape = tuple(x.shape)
    order = (*axes.position, *axes.output, *axes.input)
    sizes = [math.prod(shape[a] for a in part) for part in (axes.position, axes.output, axes.input)]
    return ops.reshape(_transposed(x, order), sizes)


def _from_input_last(x: Any, shape: tuple[int, ...], axes: Axes) -> Any:
    order = (*axes.position, *axes.output, *axes.input)
    return _untransposed(ops.reshape(x, tuple(shape[a] for a in order)), order)


def _matrix_shape(shape: tuple[int, ...], axes: Axes) -> tuple[int, int]:
    columns = math.prod(shape[a] for a in axes.output)
    return math.prod(shape) // max(columns, 1), columns


def _transposed(x: Any, order: tuple[int, ...]) -> Any:
    return x if order == tuple(range(len(order))) else ops.transpose(x, order)


def _untransposed(x: Any, order: tuple[int, ...]) -> Any:
    return _transposed(x, tuple(sorted(range(len(order)), key=order.__getitem__)))


def _rounded(size: int, sparsity: float) -> int:
    # Python's round: halves go to the even integer, as in numpy.
    return round(size * (1.0 - check_sparsity("sparsity", sparsity)))


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
