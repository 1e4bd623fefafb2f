"""How far two models' predictions are apart."""

from __future__ import annotations

import numpy as np


def divergence(expected: np.ndarray, found: np.ndarray) -> float:
    """How far predictions are apart: the mean Kullback-Leibler divergence, or square for others.

    Args:
        expected: `(samples, classes)`: probabilities or logits; other shapes count as numbers.
        found: Of the same shape.
    """
    expected, found = expected.astype(np.float64), found.astype(np.float64)
    if expected.ndim != 2 or expected.shape[1] < 2:
        return float(np.mean((expected - found) ** 2)) / max(float(np.var(expected)), 1e-12)
    p, q = (_log_probabilities(item) for item in (expected, found))
    return float(np.mean(np.sum(np.exp(p) * (p - q), axis=1)))


def _log_probabilities(scores: np.ndarray) -> np.ndarray:
    sums = scores.sum(1)
    if scores.min() >= 0 and np.allclose(sums, 1.0, atol=1e-3):
        return np.log(np.maximum(scores, 1e-7))
    shifted = scores - scores.max(1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
