"""Clusters on a line: exact and iterated k-means of numbers, on sorted values and prefix sums."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Line:
    """Numbers in order, each once, with how often it occurs, and running sums over them.

    Invariants:
        - `values` is strictly increasing, `counts` positive;
        - `mass[i]`, `first[i]`, `second[i]` are the sums of `counts`, `counts * (values - mean)`
          and `counts * (values - mean)**2` over the `i` lowest values.

    Attributes:
        values: float64 `(distinct,)`.
        counts: float64 `(distinct,)`.
        mean: their weighted mean: sums of squares are taken about it, lest they cancel.
        mass: float64 `(distinct + 1,)`.
        first: float64 `(distinct + 1,)`.
        second: float64 `(distinct + 1,)`.
    """

    values: np.ndarray
    counts: np.ndarray
    mean: float
    mass: np.ndarray
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def of(cls, numbers: np.ndarray) -> Line:
        """The line of an array of at least one finite number, of any shape."""
        values, counts = np.unique(np.asarray(numbers, "float64"), return_counts=True)
        weights = counts.astype("float64")
        mean = float(weights @ values / weights.sum())
        centred = values - mean

        def running(terms: np.ndarray) -> np.ndarray:
            return np.concatenate([[0.0], np.cumsum(terms)])

        return cls(
            values,
            weights,
            mean,
            running(weights),
            running(weights * centred),
            running(weights * centred * centred),
        )

    def cost(self, start: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """Squared distances of values `start` to `stop` (exclusive) from their mean, summed.

        Args:
            start: int array.
            stop: int array, greater than `start`.
        """
        first = self.first[stop] - self.first[start]
        spread = self.second[stop] - self.second[start]
        spread -= first * first / (self.mass[stop] - self.mass[start])
        return np.maximum(spread, 0.0)

    def means(self, edges: np.ndarray) -> np.ndarray:
        """The mean of each cell between consecutive edges; empty cells are left out.

        Args:
            edges: increasing indices, from 0 to the number of values.
        """
        edges = np.unique(edges)
        mass = np.diff(self.mass[edges])
        return self.mean + np.diff(self.first[edges]) / mass


def optimal(line: Line, clusters: int) -> np.ndarray:
    """The centroids of least squared error: exact k-means of numbers.

    Optimal clusters of numbers are intervals (Fisher 1958), so with D[k][i] the least error of
    the i lowest values in k clusters and c(j, i) the error of one cluster of values j to i:

        D[k][i] = min over j of D[k-1][j] + c(j, i)

    (Wang & Song 2011, eq. 1, "Ckmeans.1d.dp"). The best j never falls as i grows, so each row is
    found by divide and conquer in O(N log N) (Grønlund et al. 2017, arXiv:1701.07204, section
    2.2), here one level of the recursion at a time so that NumPy does the work.

    Args:
        line: the numbers.
        clusters: at least 1.

    Returns:
        float64, increasing; `clusters` of them, or one a value where there are fewer values.
    """
    count = len(line.values)
    if clusters >= count:
        return line.values.copy()
    zeros = np.zeros(count, "int64")
    errors = np.concatenate([[0.0], line.cost(zeros, np.arange(1, count + 1))])
    splits = []
    for _ in range(1, clusters):
        errors, split = _next_row(line, errors)
        splits.append(split)
    edges = [count]
    for split in reversed(splits):
        edges.append(int(split[edges[-1]]))
    return line.means(np.array([*edges, 0]))


def _next_row(line: Line, errors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """D[k] and its best splits from D[k-1]; entry i is about the i lowest values."""
    count = len(line.values)
    result = np.zeros(count + 1)
    split = np.zeros(count + 1, "int64")
    # Solved entries stand at the borders: nothing below 0, and splits of the last need no bound.
    low, high = np.array([1]), np.array([count])
    least, most = np.array([0]), np.array([count - 1])
    while len(low):
        middle = (low + high) // 2
        last = np.minimum(most, middle - 1)  # a cluster holds at least one value
        length = last - least + 1
        starts = np.concatenate([[0], np.cumsum(length)[:-1]])
        owner = np.repeat(np.arange(len(middle)), length)
        candidate = np.arange(len(owner)) - starts[owner] + least[owner]
        total = errors[candidate] + line.cost(candidate, middle[owner])
        best = np.minimum.reduceat(total, starts)
        hits = np.flatnonzero(total == best[owner])
        _, where = np.unique(owner[hits], return_index=True)
        chosen = candidate[hits[where]]
        result[middle], split[middle] = best, chosen
        low, high, least, most = (
            np.concatenate(pair)
            for pair in ((low, middle + 1), (middle - 1, high), (least, chosen), (chosen, most))
        )
        open_ = low <= high
        low, high, least, most = low[open_], high[open_], least[open_], most[open_]
    return result, split


def spread_out(line: Line, clusters: int, random: np.random.Generator) -> np.ndarray:
    """Starting centroids far from one another: k-means++ (Arthur & Vassilvitskii 2007, §2.2).

    Each next centroid is one of the values, drawn with probability proportional to count times
    squared distance from the nearest centroid so far.

    Args:
        line: the numbers.
        clusters: at least 1.
        random: source of the draws.

    Returns:
        float64, increasing; fewer than `clusters` where there are fewer values.
    """
    first = random.choice(len(line.values), p=line.counts / line.counts.sum())
    chosen = [line.values[first]]
    distance = (line.values - chosen[0]) ** 2
    while len(chosen) < min(clusters, len(line.values)):
        running = np.cumsum(line.counts * distance)
        if running[-1] <= 0.0:  # closer together than their squares can tell
            break
        draw = np.searchsorted(running, random.random() * running[-1], side="right")
        chosen.append(line.values[min(int(draw), len(line.values) - 1)])
        distance = np.minimum(distance, (line.values - chosen[-1]) ** 2)
    return np.unique(chosen)


def settle(line: Line, centroids: np.ndarray, most_turns: int = 100_000) -> np.ndarray:
    """Lloyd's iteration until no value changes its cluster (Lloyd 1982, "method I").

    Each turn costs two binary searches a cluster, whatever the number of values, and lowers the
    error, so it ends by itself; `most_turns` is a guard.

    Args:
        line: the numbers.
        centroids: float64, increasing.
        most_turns: where to stop in any case.

    Returns:
        float64, increasing, each the mean of its cluster; empty clusters are dropped.
    """
    edges = np.empty(0, "int64")
    for _ in range(most_turns):
        middles = (centroids[1:] + centroids[:-1]) / 2
        cuts = np.searchsorted(line.values, middles, side="right")
        now = np.unique(np.concatenate([[0], cuts, [len(line.values)]]))
        if np.array_equal(now, edges):
            break
        edges = now
        centroids = line.means(edges)
    return centroids


def settle_by_rate(
    line: Line, centroids: np.ndarray, exchange: float, most_turns: int = 10_000
) -> np.ndarray:
    """Entropy-constrained k-means: least squared error plus `exchange` times code length.

    Chou, Lookabaugh & Gray 1989, eq. 5: a value x goes to the cluster k of least
    `(x - c_k)**2 + exchange * -log2(p_k)`, then c_k becomes the mean and p_k the share of its
    members, until nothing changes. As a function of x that is, but for x**2, one straight line a
    cluster: the cells are the pieces of their lower envelope, and a cluster whose line is nowhere
    lowest has died.

    Args:
        line: the numbers.
        centroids: where to start: float64, increasing.
        exchange: squared distance that one bit is worth; 0 gives `settle`.
        most_turns: where to stop in any case.

    Returns:
        float64, increasing; at most as many as there were.
    """
    middles = (centroids[1:] + centroids[:-1]) / 2
    cuts = np.searchsorted(line.values, middles, side="right")
    edges = np.unique(np.concatenate([[0], cuts, [len(line.values)]]))
    for _ in range(most_turns):
        centroids = line.means(edges)
        share = np.diff(line.mass[edges]) / line.mass[-1]
        bounds = _lowest_pieces(-2.0 * centroids, centroids**2 - exchange * np.log2(share))
        cuts = np.searchsorted(line.values, bounds, side="right")
        now = np.unique(np.concatenate([[0], cuts, [len(line.values)]]))
        if np.array_equal(now, edges):
            break
        edges = now
    return line.means(edges)


def _lowest_pieces(slopes: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Where the lower envelope of `slope * x + offset` changes line; slopes strictly fall."""
    kept: list[int] = []
    bounds: list[float] = []
    for k in range(len(slopes)):
        while kept:
            bound = (offsets[k] - offsets[kept[-1]]) / (slopes[kept[-1]] - slopes[k])
            if not bounds or bound > bounds[-1]:
                break
            kept.pop()
            bounds.pop()
        if kept:
            bounds.append(bound)
        kept.append(k)
    return np.array(bounds)
