"""Observers against closed forms and brute force."""

import numpy as np
import pytest

from sentei.quantization.grid import Grid, Kind, numbers
from sentei.quantization.observers import (
    OBSERVERS,
    Histogram,
    MeanSquaredError,
    MinMax,
    MovingAverage,
    Percentile,
)

INT8 = Kind()


def fed(observer, *batches):
    for batch in batches:
        observer.update(np.asarray(batch, "float32"))
    return observer


def squared_error(x, ends, kind):
    scale, zero = numbers(*(np.full(1, end, "float32") for end in ends), kind, np)
    grid = Grid(kind, np.asarray(scale, "float32"), np.asarray(zero, "int64"))
    return np.mean((grid.dequantize(grid.quantize(x)) - x) ** 2)


def test_min_max():
    assert fed(MinMax(), [1, 2], [-3, 0.5]).range(INT8) == (-3, 2)


def test_moving_average_has_no_bias_to_its_start():
    assert fed(MovingAverage(0.9), [-1, 4]).range(INT8) == pytest.approx((-1, 4))
    low, high = fed(MovingAverage(0.5), [-1, 4], [-4, 1], [0, 7]).range(INT8)
    weights = np.array([0.25, 0.5, 1.0]) / 1.75
    assert (low, high) == pytest.approx((weights @ [-1, -4, 0], weights @ [4, 1, 7]))


def test_histogram_loses_no_number_while_it_grows():
    rng = np.random.default_rng(0)
    batches = [rng.normal(c, s, 1000) for c, s in [(0, 1), (50, 3), (-400, 1), (0, 1e-3)]]
    observer = fed(Histogram(), *batches)
    every = np.concatenate(batches).astype("float32")
    assert observer.counts.sum() == every.size
    assert observer.range(INT8) == (every.min(), every.max())
    for cut in (-100, 10, 51):
        below = observer.counts[observer.centres < cut].sum()
        around = np.sum(np.abs(every - cut) < observer.width)
        assert abs(below - np.sum(every < cut)) <= around


def test_histogram_of_one_number():
    assert fed(Histogram(), [3.0, 3.0]).range(INT8) == (3, 3)
    for observer in OBSERVERS.values():
        low, high = fed(observer(), np.zeros(10)).range(INT8)
        assert abs(low) <= 1e-6 and abs(high) <= 1e-6


def test_percentile_of_a_uniform_distribution():
    x = np.linspace(0, 1, 100_001)
    low, high = fed(Percentile(0.9), x).range(INT8)
    assert (low, high) == pytest.approx((0.05, 0.95), abs=1e-3)


@pytest.mark.parametrize("kind", [Kind(4), Kind(4, symmetric=True), Kind(8)], ids=repr)
def test_mean_squared_error_is_near_the_best_of_all_ranges(kind):
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=20_000), [9.0, -5.0]]).astype("float32")
    found = squared_error(x, fed(MeanSquaredError(), x).range(kind), kind)
    ends = [(-a, b) for a in np.linspace(0.5, 5, 19) for b in np.linspace(0.5, 9, 35)]
    assert found <= 1.02 * min(squared_error(x, e, kind) for e in ends)
    assert found <= squared_error(x, (-5, 9), kind)


def test_four_bits_of_a_gaussian_are_clipped_where_theory_says():
    # Banner et al. 2019 (arXiv:1810.05723): the best symmetric clip of N(0, 1) at 4 bits is 2.55.
    x = np.random.default_rng(0).normal(size=200_000)
    low, high = fed(MeanSquaredError(), x).range(Kind(4, symmetric=True, narrow=True))
    assert max(-low, high) == pytest.approx(2.55, abs=0.2)


def test_entropy_clips_a_far_outlier_and_keeps_a_uniform_range():
    rng = np.random.default_rng(0)
    far = fed(OBSERVERS["entropy"](), np.append(rng.normal(size=50_000), 20.0)).range(INT8)
    assert far[1] < 15
    low, high = fed(OBSERVERS["entropy"](), rng.uniform(-1, 1, 200_000)).range(INT8)
    assert low < -0.9 and high > 0.9
