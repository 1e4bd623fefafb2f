"""Where clusters begin: from the numbers of one tensor or channel to at most n centroids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from sentei.clustering.line import Line, optimal, settle, settle_by_rate, spread_out
from sentei.core.errors import SenteiError

# Exact k-means fills a table of clusters x distinct values. At 2 million entries that takes about
# a second (16 clusters of 125 000 values, 256 of 7 800); beyond, k-means++ and Lloyd's iteration,
# from several starts, come within a few tenths of a percent in less.
EXACT_ENTRIES = 2_000_000
_STARTS = 4
# k-means++ looks at every value once a cluster; an even sample of this many does as well.
_SEEDED_VALUES = 65_536

Method = Callable[[np.ndarray, int, np.random.Generator], np.ndarray]


@keras.saving.register_keras_serializable("sentei")
@dataclass(frozen=True)
class Rate:
    """Entropy-constrained centroids: fewer bits a weight for a little more distance.

    Least `distance**2 + exchange * code length` (Chou, Lookabaugh & Gray 1989). At high rate a
    bit more a weight divides the squared error D by four, so a bit is worth `2 ln 2 * D`: that is
    the exchange at strength 1, with D the error of k-means with as many clusters.

    Attributes:
        strength: factor on that exchange; 0 is k-means, more gives shorter codes.
    """

    strength: float = 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.strength, (int, float)) or not 0.0 <= self.strength < np.inf:
            raise SenteiError(
                f"Rate's strength must be a number of at least 0. Received: {self.strength!r}."
            )

    def __call__(self, values: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
        """At most `n` centroids of `values`."""
        line = Line.of(values)
        start = kmeans(values, n, random)
        error = float(np.mean((values - snapped(values, start)) ** 2))
        return settle_by_rate(line, start, self.strength * 2.0 * np.log(2.0) * error)

    def get_config(self) -> dict[str, float]:
        """The strength, for saving."""
        return {"strength": self.strength}

    @classmethod
    def from_config(cls, config: dict[str, float]) -> Rate:
        """What `get_config` described."""
        return cls(**config)


def linear(values: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """`n` centroids in equal steps from the lowest value to the highest."""
    return np.linspace(values.min(), values.max(), n)


def density(values: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """The quantiles 0, 1/(n-1), ..., 1 of the values, interpolated between neighbours."""
    return np.quantile(values, np.linspace(0.0, 1.0, n))


def randomly(values: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """`n` different values, drawn (Forgy's method)."""
    distinct = np.unique(values)
    return np.sort(random.choice(distinct, size=min(n, len(distinct)), replace=False))


def kmeans(values: np.ndarray, n: int, random: np.random.Generator) -> np.ndarray:
    """The centroids of least squared error.

    Exactly, while the table of `n` x distinct values has at most `EXACT_ENTRIES` entries; beyond,
    the best of four runs of k-means++ and Lloyd's iteration to convergence.
    """
    line = Line.of(values)
    if n * len(line.values) <= EXACT_ENTRIES:
        return optimal(line, n)
    step = -(-len(line.values) // _SEEDED_VALUES)
    few = line if step == 1 else Line.of(np.sort(values, axis=None)[::step])
    found = [settle(line, spread_out(few, n, random)) for _ in range(_STARTS)]
    errors = [float(np.sum((line.values - snapped(line.values, c)) ** 2)) for c in found]
    return found[int(np.argmin(errors))]


METHODS: dict[str, Method] = {
    "kmeans++": kmeans,
    "linear": linear,
    "density": density,
    "random": randomly,
    "rate": Rate(),
}


def method_named(init: Any) -> Method:
    """The method that the user's `init` means.

    Args:
        init: a name in `METHODS`, or a `Rate`.

    Raises:
        SenteiError: when it is neither.
    """
    if isinstance(init, Rate):
        return init
    if isinstance(init, str) and init in METHODS:
        return METHODS[init]
    raise SenteiError(
        f"`init` must be one of {', '.join(map(repr, METHODS))}, or a sentei.clustering.Rate. "
        f"Received: init={init!r}."
    )


def nearest(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """The index of each value's nearest centroid; ties go to the lower one.

    Args:
        values: floats of any shape.
        centroids: increasing floats.
    """
    middles = (centroids[1:] + centroids[:-1]) / 2
    return np.searchsorted(middles, values, side="left")


def snapped(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Each value's nearest centroid."""
    return centroids[nearest(values, centroids)]


def begin(
    values: np.ndarray, n: int, method: Method, seed: int, *, keep_zero: bool, reserve_zero: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Clusters of one tensor or channel.

    Args:
        values: finite floats `(size,)`, in the dtype of the weight.
        n: the most clusters there may be; as many centroids are returned.
        method: finds centroids.
        seed: of the method's draws.
        keep_zero: zero values are a cluster of their own, of exactly 0.0, and it is cluster 0.
        reserve_zero: there is such a cluster even while no value is zero.

    Returns:
        Centroids `(n,)` in the dtype of `values` (the last is repeated where there are fewer),
        and uint8 indices `(size,)` into them.
    """
    zero = values == 0 if keep_zero else np.zeros(values.shape, bool)
    offset = int(zero.any() or reserve_zero)
    centroids = np.zeros(n, values.dtype)
    indices = np.zeros(values.shape, "uint8")
    rest = values[~zero].astype("float64") + 0.0  # -0.0 and 0.0 are one value
    if rest.size:
        # Rounded to the weight's dtype before the values choose among them.
        find = method if n - offset > 1 else kmeans  # one centroid: the mean, whatever the method
        found = np.unique(find(rest, n - offset, np.random.default_rng(seed)).astype(values.dtype))
        if keep_zero and len(found) > 1:
            found = found[found != 0]  # a kept zero would catch weights that are not
        chosen = nearest(rest, found.astype("float64"))
        indices[~zero] = (chosen + offset).astype("uint8")
        centroids[offset : offset + len(found)] = found
        centroids[offset + len(found) :] = found[-1]
    return centroids, indices
