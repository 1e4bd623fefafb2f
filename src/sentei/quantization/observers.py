"""Finding the range of an activation from samples of it: one class per method.

Every observer is fed batch by batch and asked once: `update(values)`, then `range(kind)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

import numpy as np

from sentei.quantization.grid import Grid, Kind, numbers

_BINS = 4096


class Observer(ABC):
    """Sees numbers in batches and says which range a grid should cover."""

    @abstractmethod
    def update(self, values: np.ndarray) -> None:
        """Sees a batch.

        Args:
            values: Finite numbers, of any shape, at least one.
        """

    @abstractmethod
    def range(self, kind: Kind) -> tuple[float, float]:
        """The range to cover, from all that was seen.

        Args:
            kind: The sort of grid that shall cover it.
        """


class MinMax(Observer):
    """The lowest and highest number of all batches."""

    def __init__(self) -> None:
        self.low, self.high = np.inf, -np.inf

    def update(self, values: np.ndarray) -> None:
        """See `Observer`."""
        self.low = min(self.low, float(values.min()))
        self.high = max(self.high, float(values.max()))

    def range(self, kind: Kind) -> tuple[float, float]:
        """See `Observer`."""
        return self.low, self.high


class MovingAverage(Observer):
    """The exponential moving average of the batches' extremes, without a bias to its start.

    With momentum m and batches x_1..x_n: `(1 - m) sum_i m^(n-i) x_i / (1 - m^n)`, the correction
    of Kingma & Ba 2015 (arXiv:1412.6980), section 3.
    """

    def __init__(self, momentum: float = 0.9) -> None:
        self.momentum, self.count = momentum, 0
        self.sums = np.zeros(2)

    def update(self, values: np.ndarray) -> None:
        """See `Observer`."""
        extremes = np.array([values.min(), values.max()], np.float64)
        self.sums = self.momentum * self.sums + (1 - self.momentum) * extremes
        self.count += 1

    def range(self, kind: Kind) -> tuple[float, float]:
        """See `Observer`."""
        low, high = self.sums / (1 - self.momentum**self.count)
        return float(low), float(high)


class Histogram(Observer):
    """Counts numbers in equal bins that grow with the range seen.

    Invariants: bin i covers `low + i * width` to `low + (i + 1) * width`; no number seen is outside
    of the bins; `width` only ever doubles, so counts are moved whole.
    """

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS)
        self.low = self.width = 0.0
        self.least, self.most = np.inf, -np.inf

    def update(self, values: np.ndarray) -> None:
        """See `Observer`."""
        values = np.ravel(values).astype(np.float64)
        least, most = float(values.min()), float(values.max())
        if not self.counts.any():
            self.low = least
            self.width = max((most - least) / _BINS, 1e-30, abs(least) * 1e-12)
        self.least, self.most = min(self.least, least), max(self.most, most)
        while least < self.low:
            self._widen(down=True)
        while most > self.low + self.width * _BINS:
            self._widen(down=False)
        bins = np.clip((values - self.low) / self.width, 0, _BINS - 1).astype(np.int64)
        self.counts += np.bincount(bins, minlength=_BINS)

    def _widen(self, *, down: bool) -> None:
        merged = self.counts.reshape(-1, 2).sum(1)
        self.counts = np.zeros(_BINS)
        if down:
            self.counts[_BINS // 2 :] = merged
            self.low -= self.width * _BINS
        else:
            self.counts[: _BINS // 2] = merged
        self.width *= 2

    @property
    def centres(self) -> np.ndarray:
        """The middle of each bin."""
        return self.low + (np.arange(_BINS) + 0.5) * self.width

    def range(self, kind: Kind) -> tuple[float, float]:
        """See `Observer`."""
        return self.least, self.most


class Percentile(Histogram):
    """The range without the outermost numbers: `share` of all lie within it."""

    def __init__(self, share: float = 0.9999) -> None:
        super().__init__()
        self.share = share

    def range(self, kind: Kind) -> tuple[float, float]:
        """See `Observer`."""
        below = np.cumsum(self.counts) / self.counts.sum()
        outside = (1 - self.share) / 2
        first = int(np.searchsorted(below, outside, side="right"))
        last = int(np.searchsorted(below, 1 - outside, side="left"))
        low = self.low + first * self.width
        high = self.low + (last + 1) * self.width
        return max(low, self.least), min(high, self.most)


class MeanSquaredError(Histogram):
    """The range whose grid is nearest to the numbers seen, in the mean of squares.

    Both ends are searched: first together, as shares of the full range, then each by itself. (As
    in Nagel et al. 2021, arXiv:2106.08295, equation 5, on a histogram.)
    """

    def range(self, kind: Kind) -> tuple[float, float]:
        """See `Observer`."""
        used = self.counts > 0
        x, weight = self.centres[used], self.counts[used]
        full = min(self.least, 0.0), max(self.most, 0.0)
        return _searched(full, lambda ends: _squared_error(x, weight, ends, kind))


class Entropy(Histogram):
    """The range that loses the least information about the distribution (Kullback-Leibler).

    Migacz 2017 ("8-bit inference with TensorRT"): for each clipping, the distribution P with what
    is clipped added to its outermost bins is compared to Q, its bins merged to the grid's levels
    and spread evenly over the bins that hold numbers. Zeros are left out: they are exact on every
    grid, and a ReLU's many would be spread over their level and speak for clipping all else.
    """

    def update(self, values: np.ndarray) -> None:
        """See `Observer`."""
        values = np.ravel(values)
        some = values[values != 0]
        super().update(some if some.size else values[:1])

    def range(self, kind: Kind) -> tuple[float, float]:
        """See `Observer`."""
        full = min(self.least, 0.0), max(self.most, 0.0)
        levels = min(kind.high - kind.low + 1, _BINS // 4)
        return _searched(full, lambda ends: self._divergence(ends, levels))

    def _divergence(self, ends: tuple[float, float], levels: int) -> float:
        inside = (self.centres >= ends[0]) & (self.centres <= ends[1])
        if inside.sum() < levels:
            return np.inf
        kept = self.counts[inside]
        real = kept.copy()
        first = int(np.argmax(inside))
        real[0] += self.counts[:first].sum()
        real[-1] += self.counts[first + len(kept) :].sum()
        level = np.arange(len(kept)) * levels // len(kept)
        filled = kept > 0
        totals = np.bincount(level, kept, levels)
        occupied = np.bincount(level, filled, levels)
        spread = np.where(filled, (totals / np.maximum(occupied, 1))[level], 0.0)
        p, q = real / real.sum(), spread / max(spread.sum(), 1e-30)
        some = p > 0
        return float(np.sum(p[some] * np.log(p[some] / np.maximum(q[some], 1e-12))))


def _searched(
    full: tuple[float, float], cost: Callable[[tuple[float, float]], float]
) -> tuple[float, float]:
    """The range of least cost: both ends as one share of the full range, then each by itself."""
    (low, high), shares = full, np.linspace(1.0, 0.1, 46)
    best = min(((low * s, high * s) for s in shares), key=cost)
    for _ in range(2):
        if low < 0:
            best = min(((low * s, best[1]) for s in shares), key=cost)
        if high > 0:
            best = min(((best[0], high * s) for s in shares), key=cost)
    return best


def _squared_error(
    x: np.ndarray, weight: np.ndarray, ends: tuple[float, float], kind: Kind
) -> float:
    scale, zero = numbers(
        np.full(1, ends[0], np.float32), np.full(1, ends[1], np.float32), kind, np
    )
    grid = Grid(kind, np.asarray(scale, np.float32), np.asarray(zero, np.int64))
    return float(np.sum(weight * (grid.dequantize(grid.quantize(x)) - x) ** 2))


OBSERVERS: dict[str, type[Observer]] = {
    "entropy": Entropy,
    "minmax": MinMax,
    "moving_average": MovingAverage,
    "mse": MeanSquaredError,
    "percentile": Percentile,
}
