"""Rounding a matrix so that its bits and the error of its products are in balance.

Optimal Brain Surgeon's error feedback (Frantar et al. 2023, GPTQ, arXiv:2210.17323, eq. 2 and 3)
with the choice of each integer by rate and distortion in place of the nearest one:

    q_i = argmin (w_i - step q)^2 / [H^-1]_ii + price * bits(q)

Rows are rounded one after the other, those with the most curvature first, and what a row is off is
made up for by the rows that are still to come.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sentei.quantization.rate import estimate

# Of the mean curvature, added to all: directions that no sample showed are not free.
_DAMPING = 0.01
_BLOCK = 64
# Steps that are tried, over the one that is best at many bits a weight.
_STEPS = (0.8, 1.2, 1.8)


@dataclass(frozen=True)
class Rounded:
    """A matrix of integers.

    Attributes:
        integers: int32, of the matrix's shape.
        step: What a 1 stands for.
        bits: What they are estimated to take.
        distortion: The error of the products: the trace of `E^T H E`.
    """

    integers: np.ndarray
    step: float
    bits: float
    distortion: float

    def cost(self, price: float) -> float:
        """Distortion and bits at a price."""
        return self.distortion + price * self.bits


class Curved:
    """A matrix of weights with the curvature of what it is multiplied with.

    Attributes:
        weights: float64 `(inputs, outputs)`.
    """

    def __init__(self, weights: np.ndarray, moments: np.ndarray | None) -> None:
        """Factors the curvature.

        Args:
            weights: `(inputs, outputs)`.
            moments: Mean of `x x^T` over inputs, `(inputs, inputs)`; None: the identity.
        """
        self.weights = np.asarray(weights, np.float64)
        count = len(self.weights)
        self._moments = np.eye(count) if moments is None else np.asarray(moments, np.float64)
        damping = _DAMPING * max(float(np.mean(np.diag(self._moments))), 1e-12)
        damped = self._moments + damping * np.eye(count)
        self._order = np.argsort(-np.diag(damped), kind="stable")
        ordered = damped[np.ix_(self._order, self._order)]
        # H^-1 = U^T U with U upper triangular: its rows are the feedback, in the order of rounding.
        self._feedback = np.linalg.cholesky(np.linalg.inv(ordered)).T
        self._stiffness = np.diag(self._feedback) ** -2.0

    def best(self, price: float, most: int) -> Rounded:
        """The rounding of the least distortion and bits.

        Args:
            price: What a bit is worth, in units of distortion.
            most: The largest magnitude of an integer.
        """
        power = np.sum(self.weights[self._order] ** 2, axis=1)
        stiffness = float(np.sum(power * self._stiffness) / max(power.sum(), 1e-30))
        # At many bits a weight the error is step^2 / 12 and quarters with each bit.
        fine = math.sqrt(6 * price / (math.log(2) * max(stiffness, 1e-30)))
        least = max(float(np.abs(self.weights).max()) / most, 1e-12)
        steps = dict.fromkeys(max(fine * factor, least) for factor in _STEPS)
        tried = [self.rounded(step, price, most) for step in steps]
        return min(tried, key=lambda one: one.cost(price))

    def rounded(self, step: float, price: float, most: int) -> Rounded:
        """The rounding at a step.

        Args:
            step: What a 1 stands for.
            price: What a bit is worth, in units of distortion.
            most: The largest magnitude of an integer.
        """
        integers = np.clip(np.round(self.weights / step), -most, most)
        for _ in range(2):  # the table is that of the pass before
            integers = self._pass(step, price, most, estimate.fit(integers.astype(np.float32), np))
        table = estimate.fit(integers.astype(np.float32), np)
        zero, other = estimate.of_occupation(integers.shape, table, np)
        magnitudes = estimate.of_magnitudes(table, most + 1, np)
        size = np.abs(integers).astype(np.int64)
        bits = float(np.where(size > 0, other + magnitudes[size], zero).sum())
        error = self.weights - step * integers
        distortion = float(np.sum(error * (self._moments @ error)))
        return Rounded(integers.astype(np.int32), step, bits, distortion)

    def _pass(self, step: float, price: float, most: int, table: estimate.Table) -> np.ndarray:
        order, feedback = self._order, self._feedback
        zero, other = (
            price * item[order] for item in estimate.of_occupation(self.weights.shape, table, np)
        )
        magnitudes = price * estimate.of_magnitudes(table, most + 1, np).astype(np.float64)
        left = self.weights[order] / step
        chosen = np.zeros_like(left)
        for begin in range(0, len(left), _BLOCK):
            end = min(begin + _BLOCK, len(left))
            errors = np.zeros((end - begin, left.shape[1]))
            for row in range(begin, end):
                weight = self._stiffness[row] * step * step
                costs = (zero[row], other[row], magnitudes)
                chosen[row] = _choose(left[row], weight, costs, most)
                error = (left[row] - chosen[row]) / feedback[row, row]
                left[row + 1 : end] -= np.outer(feedback[row, row + 1 : end], error)
                errors[row - begin] = error
            left[end:] -= feedback[begin:end, end:].T @ errors
        back = np.empty_like(chosen)
        back[order] = chosen
        return back


def _choose(
    places: np.ndarray, weight: float, costs: tuple[np.ndarray, np.ndarray, np.ndarray], most: int
) -> np.ndarray:
    """The integers of a row: the nearest, one or two closer to zero, or zero."""
    zero, other, magnitudes = costs
    near = np.clip(np.round(np.abs(places)), 0, most).astype(np.int64)
    size = np.abs(places)
    best, least = np.zeros_like(places), weight * size**2 + zero
    for closer in (2, 1, 0):
        candidate = np.maximum(near - closer, 0)
        price = np.where(candidate > 0, other + magnitudes[candidate], zero)
        cost = weight * (size - candidate) ** 2 + price
        better = cost < least
        best, least = np.where(better, candidate, best), np.where(better, cost, least)
    return np.sign(places) * best
