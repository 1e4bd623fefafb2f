"""AdaRound's optimization: Nagel et al. 2020 (arXiv:2004.10568), on plain arrays.

One layer is a batch of matrices: `x` of shape `(groups, n, k)`, weights `(groups, k, channels)`;
behind it a factor and an offset per channel (bias, batch normalization) and an activation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

# The stretch of the rectified sigmoid, equation 23.
_LOW, _HIGH = -0.1, 1.1
# Adam's decay of its averages, Kingma & Ba 2015.
_FIRST, _SECOND, _EPSILON = 0.9, 0.999, 1e-8
_RATE = 0.01
# The exponent of equation 24 falls from the first to the second; before, there is no pull at all.
_EXPONENTS = (20.0, 2.0)
_FREE = 0.2

ACTIVATIONS: dict[str, tuple[float, float]] = {
    "linear": (-np.inf, np.inf),
    "relu": (0.0, np.inf),
    "relu6": (0.0, 6.0),
}


@dataclass(frozen=True)
class Problem:
    """One layer's rounding.

    Invariants: `low <= whole` and `whole + 1` is cut at `high`; `fixed` weights stay as they are.

    Attributes:
        x: What the layer reads in the simulation, `(groups, n, k)`.
        wanted: What the float layer gives for the same samples, `(groups, n, channels)`.
        weight: The float weight, `(groups, k, channels)`.
        step: Its step sizes, of the same shape.
        low: The lowest integer.
        high: The highest.
        factor: Of the layer's sums, `(groups, 1, channels)`.
        offset: Added to them, of the same shape.
        activation: A key of `ACTIVATIONS`.
    """

    x: np.ndarray
    wanted: np.ndarray
    weight: np.ndarray
    step: np.ndarray
    low: int
    high: int
    factor: np.ndarray
    offset: np.ndarray
    activation: str = "linear"

    def output(self, weight: np.ndarray, x: np.ndarray | None = None) -> np.ndarray:
        """What the layer gives, with some weight.

        Args:
            weight: `(groups, k, channels)`.
            x: What it reads; None: all of it.
        """
        sums = np.matmul(self.x if x is None else x, weight) * self.factor + self.offset
        return np.clip(sums, *ACTIVATIONS[self.activation])

    def error(self, integers: np.ndarray) -> float:
        """The mean square by which the layer's output is off, over the output's own.

        Args:
            integers: The weight's.
        """
        off = self.output((integers * self.step).astype(np.float32)) - self.wanted
        return float(np.mean(off**2, dtype=np.float64) / max(np.mean(self.wanted**2), 1e-30))

    def nearest(self) -> np.ndarray:
        """The weight's integers, each rounded to the nearest."""
        return np.clip(np.round(self.weight / self.step), self.low, self.high)


def solve(
    problem: Problem,
    steps: int,
    batch: int,
    pull: float,
    seed: int = 0,
    tick: Callable[[], None] | None = None,
) -> np.ndarray:
    """The integers that reproduce the layer's output best, each up or down from its weight.

    Equations 21 to 25: the rounding is `floor(w / s) + h(V)` with h a rectified sigmoid, learned by
    Adam on the output's square error plus `pull * (1 - |2 h - 1|^b)`, which drives h to 0 or 1 as b
    falls. What we changed: the error is relative to that of rounding to nearest, and the pull a
    mean over the weights, so that one `pull` suits all layers; exact zeros stay zero (pruned
    weights); and the nearest integers are kept should they be better on all the samples.

    Args:
        problem: The layer.
        steps: How many steps of Adam.
        batch: How many of the n rows a step sees.
        pull: The weight of the pull towards whole numbers.
        seed: Of the choice of rows.
        tick: Called at every step.

    Returns:
        The integers, as floats, of the weight's shape.
    """
    generator = np.random.default_rng(seed)
    exact = problem.weight / problem.step
    whole = np.floor(exact)
    free = (problem.weight != 0) & (whole >= problem.low) & (whole < problem.high)
    v = _start(exact - whole).astype(np.float32)
    average, square = np.zeros_like(v), np.zeros_like(v)
    nearest = problem.nearest()
    scale = _scale(problem, nearest)
    if scale == 0.0 or not free.any():
        return nearest
    rows = problem.x.shape[1]
    for t in range(steps):
        chosen = generator.integers(0, rows, min(batch, rows))
        up, slope = rectified(v)
        slope_of_error = _slope(problem, chosen, whole + up) / scale
        pulled = _pull_slope(up, t / steps) * (pull / free.sum())
        gradient = np.where(free, (slope_of_error + pulled) * slope, 0.0).astype(np.float32)
        average += (1 - _FIRST) * (gradient - average)
        square += (1 - _SECOND) * (gradient**2 - square)
        rate = _RATE * np.sqrt(1 - _SECOND ** (t + 1)) / (1 - _FIRST ** (t + 1))
        v -= np.float32(rate) * average / (np.sqrt(square) + _EPSILON * np.sqrt(1 - _SECOND))
        if tick is not None:
            tick()
    found = np.where(free, whole + (rectified(v)[0] >= 0.5), nearest)
    return found if problem.error(found) < problem.error(nearest) else nearest


def rectified(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The rectified sigmoid `clip(sigmoid(v) * 1.2 - 0.1, 0, 1)`, and its slope. Equation 23.

    Args:
        v: Any shape.
    """
    sigmoid = 1.0 / (1.0 + np.exp(-v))
    h = sigmoid * (_HIGH - _LOW) + _LOW
    slope = np.where((h > 0) & (h < 1), sigmoid * (1 - sigmoid) * (_HIGH - _LOW), 0.0)
    return np.clip(h, 0, 1), slope


def _start(share: np.ndarray) -> np.ndarray:
    """The v at which h is the weight's own share between two integers."""
    sigmoid = (np.clip(share, 0.0, 1.0) - _LOW) / (_HIGH - _LOW)
    return np.log(sigmoid / (1 - sigmoid))


def _scale(problem: Problem, nearest: np.ndarray) -> float:
    off = problem.output((nearest * problem.step).astype(np.float32)) - problem.wanted
    return float(np.mean(off**2, dtype=np.float64))


def _slope(problem: Problem, chosen: np.ndarray, integers: np.ndarray) -> np.ndarray:
    """The gradient of the mean square error on some rows, by the integers."""
    x = problem.x[:, chosen]
    sums = np.matmul(x, (integers * problem.step).astype(np.float32))
    sums = sums * problem.factor + problem.offset
    low, high = ACTIVATIONS[problem.activation]
    off = np.clip(sums, low, high) - problem.wanted[:, chosen]
    passed = off * ((sums > low) & (sums < high)) * problem.factor * (2.0 / off.size)
    return np.matmul(x.transpose(0, 2, 1), passed.astype(np.float32)) * problem.step


def _pull_slope(up: np.ndarray, share: float) -> np.ndarray:
    """The slope of `1 - |2 h - 1|^b`, equation 24, with b annealed along the steps."""
    if share < _FREE:
        return np.zeros_like(up)
    done = (share - _FREE) / (1 - _FREE)
    b = _EXPONENTS[1] + (_EXPONENTS[0] - _EXPONENTS[1]) * 0.5 * (1 + np.cos(done * np.pi))
    centred = 2 * up - 1
    return -2 * b * np.sign(centred) * np.abs(centred) ** (b - 1)
