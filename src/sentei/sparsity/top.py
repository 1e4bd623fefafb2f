"""Exactly the k best, without a sort; under jit, k need not be known before the step runs."""

from __future__ import annotations

from typing import Any

from keras import ops

_LOWEST = -(2**31)


def keep_best(scores: Any, k: Any) -> Any:
    """A mask that is true for exactly the `k` highest scores; ties go to the lower position.

    The k-th highest score is found bit by bit on the order-preserving integer image of the floats
    (32 counting passes; a sort of 262 000 values under XLA on a CPU takes several times as long),
    then the ties at that value are cut by position.

    Args:
        scores: tensor of any shape, without NaN; computed in float32.
        k: int32 scalar, 0 to the number of scores.

    Returns:
        Boolean tensor of the shape of `scores` with exactly `k` true values.
    """
    shape = scores.shape
    order = _ordered_integers(ops.reshape(scores, (-1,)))
    threshold = _kth_highest(order, k)
    above = order > threshold
    ties = order == threshold
    wanted = k - ops.sum(ops.cast(above, "int32"))
    kept = ops.logical_or(above, ops.logical_and(ties, _count_so_far(ties) <= wanted))
    return ops.reshape(kept, shape)


def _ordered_integers(scores: Any) -> Any:
    """int32 with the order of the float32 scores; -0.0 and 0.0 are one value."""
    bits = ops.view(ops.cast(scores, "float32") + 0.0, "int32")
    return ops.where(bits < 0, ops.bitwise_xor(bits, 0x7FFFFFFF), bits)


def _kth_highest(order: Any, k: Any) -> Any:
    """The largest integer `t` such that at least `k` values are `>= t`."""

    def has_enough(candidate: Any) -> Any:
        return ops.sum(ops.cast(order >= candidate, "int32")) >= k

    # The sign bit first: adding 2**31 to the lowest integer would not fit into an int32.
    lowest = ops.convert_to_tensor(_LOWEST, dtype="int32")
    threshold = ops.where(has_enough(0), ops.zeros_like(lowest), lowest)

    def set_bit(i: Any, threshold: Any) -> Any:
        candidate = threshold + ops.left_shift(ops.ones_like(lowest), ops.cast(30 - i, "int32"))
        return ops.where(has_enough(candidate), candidate, threshold)

    return ops.fori_loop(0, 31, set_bit, threshold)


def _count_so_far(flags: Any) -> Any:
    return ops.cumsum(ops.cast(flags, "int32"))
