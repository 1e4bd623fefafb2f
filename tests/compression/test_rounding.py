"""Rounding at a price, against plain rounding and an exhaustive search."""

import itertools

import numpy as np
import pytest

from sentei.compression import rounding
from sentei.compression.rounding import Curved
from sentei.quantization.rate import estimate

RANDOM = np.random.default_rng(0)
WEIGHTS = RANDOM.normal(size=(90, 40)) * 0.1


def correlated(count=90):
    mixing = RANDOM.normal(size=(count, count)) * np.linspace(0.1, 2, count)
    inputs = RANDOM.normal(size=(400, count)) @ mixing / count
    return inputs.T @ inputs / len(inputs)


def distortion(error, moments):
    return np.trace(error.T @ moments @ error)


def test_without_curvature_or_price_it_rounds_to_the_nearest():
    found = Curved(WEIGHTS, None).rounded(0.03, 0.0, 127)
    assert (found.integers == np.round(WEIGHTS / 0.03)).all()
    assert found.distortion == pytest.approx(np.sum((WEIGHTS - 0.03 * found.integers) ** 2))


def test_feedback_makes_up_for_most_of_the_error():
    moments = correlated()
    found = Curved(WEIGHTS, moments).rounded(0.1, 0.0, 127)
    nearest = distortion(WEIGHTS - 0.1 * np.round(WEIGHTS / 0.1), moments)
    own = distortion(WEIGHTS - 0.1 * found.integers, moments)
    assert found.distortion == pytest.approx(own)
    assert own < 0.5 * nearest


def test_a_dearer_bit_is_saved():
    curved = Curved(WEIGHTS, correlated())
    tried = [curved.best(price, 127) for price in (1e-7, 1e-5, 1e-3)]
    for cheap, dear in itertools.pairwise(tried):
        assert dear.bits < 0.8 * cheap.bits
        assert dear.distortion > cheap.distortion
    assert curved.best(1e9, 127).integers.any() == 0


def test_the_integers_chosen_are_the_cheapest_of_all():
    table = estimate.fit(np.round(RANDOM.laplace(size=(30, 200)) * 1.5).astype(np.float32), np)
    zero, other = (bits[3] for bits in estimate.of_occupation((30, 200), table, np))
    magnitudes = np.sort(estimate.of_magnitudes(table, 9, np))
    places = RANDOM.normal(size=200) * 3
    every = np.arange(-8, 9)[:, None]
    price = np.where(every == 0, zero, other + magnitudes[np.abs(every)])
    for weight in (3.0, 10.0, 30.0):
        costs = weight * (places - every) ** 2 + price
        found = rounding._choose(places, weight, (zero, other, magnitudes), 8)
        chosen = costs[found.astype(int) + 8, np.arange(200)]
        # What it does not look at, three or more below the nearest but not zero, hardly ever wins.
        assert np.mean(chosen <= costs.min(0) + 1e-9) > 0.95
        assert chosen.sum() < 1.01 * costs.min(0).sum()


def test_no_integer_is_larger_than_can_be_stored():
    wild = WEIGHTS.copy()
    wild[5, 5] = 40.0
    found = Curved(wild, correlated()).best(1e-6, 7)
    assert np.abs(found.integers).max() <= 7
