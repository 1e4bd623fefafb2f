"""Which channels of a tensor are alike enough to share a model, and what it costs to say so."""

from __future__ import annotations

import math

import numpy as np

from sentei.codec import model as models
from sentei.codec.model import Alphabet, Groups

_TRIED_GROUPS = 3
# Groups are sought where a channel has at least so many symbols, on axes of at most so many.
_LEAST_CHANNEL, _MOST_CHANNELS = 8, 1 << 14
# What the model of a group costs about, in bits.
_COST_GROUP = 60.0


def entropy(counts: np.ndarray) -> float:
    """Bits of symbols that occur so often, each row coded by its own frequencies."""
    counts = counts.astype(np.float64)
    totals = counts.sum(-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        inner = np.where(counts > 0, counts * np.log2(counts), 0.0).sum()
        outer = np.where(totals > 0, totals * np.log2(totals), 0.0).sum()
    return float(outer - inner)


def id_bits(ids: np.ndarray, count: int) -> float:
    """Bits of a list of groups, each expected from the one before."""
    pairs = np.bincount(ids[:-1].astype(np.int64) * count + ids[1:], minlength=count * count)
    return entropy(pairs.reshape(count, count)) + count * count


def groupings(symbols: np.ndarray, alphabet: Alphabet) -> list[Groups]:
    """The most promising groups of alike channels along some axis.

    Args:
        symbols: The symbols, in the order of coding.
        alphabet: What they are.
    """
    kinds, buckets = _buckets(alphabet)
    inside = kinds[symbols]
    whole = entropy(np.bincount(inside.ravel(), minlength=buckets)[None])
    found: list[tuple[float, int, Groups]] = []
    for axis, size in enumerate(symbols.shape):
        channel = symbols.size // size
        if size < 2 or size > _MOST_CHANNELS or channel < _LEAST_CHANNEL:
            continue
        stride = math.prod(symbols.shape[axis + 1 :])
        index = np.arange(size).reshape(-1, *[1] * (symbols.ndim - axis - 1)) * buckets
        counts = np.bincount((inside + index).ravel(), minlength=size * buckets)
        counts = counts.reshape(size, buckets)
        if whole - entropy(counts) < 2 * size:
            continue
        for wanted in (2, 4, 8, models.MOST_GROUPS):
            ids = _cluster(counts.astype(np.float64), wanted) if wanted <= size else [0]
            used, ids = np.unique(ids, return_inverse=True)
            if len(used) < wanted:
                break
            sums = np.zeros((wanted, buckets), np.int64)
            np.add.at(sums, ids, counts)
            gain = whole - entropy(sums) - id_bits(ids, wanted) - wanted * _COST_GROUP
            found.append((-gain, len(found), Groups(stride, ids.astype(np.uint8))))
    best = [groups for gain, _, groups in sorted(found)[:_TRIED_GROUPS] if gain < 0]
    return best + _positions(symbols.shape)


def _positions(shape: tuple[int, ...]) -> list[Groups]:
    """A group for each place in the innermost axes, such as those of a small kernel.

    What the first one of a row has before it is the end of another row.
    """
    sizes = {math.prod(shape[-rank:]) for rank in (1, 2) if len(shape) > rank}
    return [
        Groups(1, np.arange(size, dtype=np.uint8))
        for size in sorted(sizes)
        if 2 <= size <= models.MOST_GROUPS
    ]


def _buckets(alphabet: Alphabet) -> tuple[np.ndarray, int]:
    """A coarse kind for each symbol: centre, and magnitudes by half octaves."""
    distance = np.abs(np.arange(alphabet.size) - alphabet.centre)
    kinds = np.where(distance == 0, 0, 1 + np.floor(2 * np.log2(np.maximum(distance, 1))))
    kinds = kinds.astype(np.int64)
    return kinds, int(kinds.max()) + 1


def _cluster(counts: np.ndarray, wanted: int) -> np.ndarray:
    """Lloyd's iteration with code length as the distance; returns a group for each row."""
    density = counts[:, 0] / np.maximum(counts.sum(1), 1)
    spread = (counts * np.arange(counts.shape[1])).sum(1) / np.maximum(counts[:, 1:].sum(1), 1)
    ranked = np.argsort(spread if np.ptp(density) < 0.02 else density, kind="stable")
    ids = np.zeros(len(counts), np.int64)
    ids[ranked] = np.arange(len(counts)) * wanted // len(counts)
    for _ in range(8):
        sums = np.zeros((wanted, counts.shape[1]))
        np.add.at(sums, ids, counts)
        shares = (sums + 0.05) / (sums + 0.05).sum(1, keepdims=True)
        moved = (-counts @ np.log2(shares).T).argmin(1)
        if (moved == ids).all():
            break
        ids = moved
    return ids
