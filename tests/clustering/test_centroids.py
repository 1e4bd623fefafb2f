"""Where clusters begin: against exhaustive search, NumPy and the definitions."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentei.clustering import centroids
from sentei.clustering.centroids import METHODS, Rate, begin, kmeans, method_named, nearest, snapped
from sentei.clustering.line import Line, optimal, settle, settle_by_rate, spread_out
from sentei.core.errors import SenteiError


def error(values, found):
    return float(np.min((np.asarray(values)[:, None] - found[None]) ** 2, axis=1).sum())


def least_error(values, clusters):
    """Over every way to cut the sorted values into intervals."""
    values = np.sort(values)
    best = np.inf
    for cuts in itertools.combinations(range(1, len(values)), min(clusters, len(values)) - 1):
        parts = np.split(values, cuts)
        best = min(best, sum(float(((p - p.mean()) ** 2).sum()) for p in parts))
    return best


numbers = st.lists(st.integers(-40, 40).map(lambda i: i / 8), min_size=1, max_size=11)


@given(numbers, st.integers(1, 6))
def test_optimal_is_no_worse_than_exhaustive_search(values, clusters):
    found = optimal(Line.of(np.array(values)), clusters)
    assert len(found) <= clusters and np.all(np.diff(found) > 0)
    assert error(values, found) == pytest.approx(least_error(values, clusters), abs=1e-9)


def test_optimal_on_many_values_is_a_fixed_point_that_iteration_does_not_beat():
    values = np.random.default_rng(0).laplace(size=5000)
    line = Line.of(values)
    best = optimal(line, 16)
    np.testing.assert_allclose(settle(line, best), best, rtol=1e-12)
    for seed in range(5):
        found = settle(line, spread_out(line, 16, np.random.default_rng(seed)))
        assert error(values, found) >= error(values, best) * (1 - 1e-12)


def test_settled_centroids_are_the_means_of_what_is_nearest_to_them():
    values = np.random.default_rng(1).normal(size=2000)
    found = settle(Line.of(values), np.linspace(-1, 1, 9))
    chosen = np.argmin(np.abs(values[:, None] - found), axis=1)
    means = [values[chosen == k].mean() for k in range(len(found))]
    np.testing.assert_allclose(found, means, rtol=1e-9)


def test_beyond_the_exact_size_iteration_comes_close(monkeypatch):
    values = np.random.default_rng(2).normal(size=20_000)
    best = error(values, kmeans(values, 16, np.random.default_rng(0)))
    monkeypatch.setattr(centroids, "EXACT_ENTRIES", 0)
    monkeypatch.setattr(centroids, "_SEEDED_VALUES", 3000)
    iterated = error(values, kmeans(values, 16, np.random.default_rng(0)))
    assert best <= iterated <= 1.02 * best


def test_spread_out_prefers_what_is_far_and_frequent():
    line = Line.of(np.array([0.0] * 50 + [1.0] * 50 + [1.01]))
    draws = [spread_out(line, 2, np.random.default_rng(s)).tolist() for s in range(50)]
    assert sum(0.0 in d and d[1] >= 1.0 for d in draws) == 50


@pytest.mark.parametrize("exchange", [0.0, 0.01, 0.1])
def test_by_rate_every_value_takes_the_cheapest_cluster(exchange):
    values = np.random.default_rng(3).normal(size=3000)
    line = Line.of(values)
    found = settle_by_rate(line, np.linspace(-2, 2, 12), exchange)
    # The definition, one value at a time, from the same start.
    chosen = np.argmin(np.abs(values[:, None] - np.linspace(-2, 2, 12)), axis=1)
    for _ in range(500):
        alive = np.unique(chosen)
        share = np.array([np.mean(chosen == k) for k in alive])
        means = np.array([values[chosen == k].mean() for k in alive])
        price = (values[:, None] - means) ** 2 - exchange * np.log2(share)
        now = alive[np.argmin(price, axis=1)]
        if np.array_equal(now, chosen):
            break
        chosen = now
    np.testing.assert_allclose(found, means, rtol=1e-6)
    if exchange == 0.0:
        np.testing.assert_allclose(found, settle(line, np.linspace(-2, 2, 12)))


def entropy(indices):
    share = np.bincount(indices) / len(indices)
    share = share[share > 0]
    return float(-(share * np.log2(share)).sum())


def test_rate_trades_error_for_bits_at_its_price():
    values = np.random.default_rng(4).laplace(size=20_000)
    bits, errors = [], []
    for strength in (0.0, 1.0, 4.0):
        found = Rate(strength)(values, 16, np.random.default_rng(0))
        bits.append(entropy(nearest(values, found)))
        errors.append(error(values, found) / len(values))
    assert bits[0] > bits[1] > bits[2] and errors[0] < errors[1] < errors[2]
    price = 2 * np.log(2) * errors[0]
    assert errors[1] + price * bits[1] < errors[0] + price * bits[0]


def test_linear_density_and_random_are_what_they_say():
    values = np.random.default_rng(5).normal(size=999)
    random = np.random.default_rng(0)
    np.testing.assert_allclose(
        METHODS["linear"](values, 5, random), np.linspace(values.min(), values.max(), 5)
    )
    ordered = np.sort(values)
    found = METHODS["density"](values, 4, random)
    place = np.array([0.0, 998 / 3, 2 * 998 / 3, 998.0])
    np.testing.assert_allclose(found, np.interp(place, np.arange(999), ordered))
    assert set(METHODS["random"](values, 7, random)) <= set(values)
    again = [METHODS["random"](values, 7, np.random.default_rng(3)).tolist() for _ in range(2)]
    assert again[0] == again[1]


# Every method, on every awkward tensor.
AWKWARD = {
    "plain": np.random.default_rng(6).normal(size=300),
    "half zeros": np.where(np.arange(300) % 2, np.random.default_rng(7).normal(size=300), 0.0),
    "constant": np.full(40, 0.7),
    "zeros": np.zeros(40),
    "one value": np.array([3.0]),
    "few values": np.repeat([-1.0, 0.0, 0.25], 10),
    "minus zero": np.repeat([-0.0, 1.0, 2.0, 3.0], 10),
    "tiny": np.random.default_rng(8).normal(size=300) * 1e-38,
    "huge": np.random.default_rng(9).normal(size=300) * 1e30,
}


@pytest.mark.parametrize("keep_zero", [False, True])
@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("method", [*METHODS, Rate(3.0)], ids=str)
def test_begin_gives_each_value_a_cluster_and_zeros_their_own(method, name, keep_zero):
    values = AWKWARD[name].astype("float32")
    for n in (2, 16, 256):
        for reserve in {False, keep_zero}:
            found, indices = begin(
                values, n, method_named(method), 0, keep_zero=keep_zero, reserve_zero=reserve
            )
            assert found.shape == (n,) and found.dtype == values.dtype and np.isfinite(found).all()
            assert indices.dtype == np.uint8 and indices.shape == values.shape
            result = found[indices]
            assert not np.signbit(result[result == 0]).any()
            if keep_zero and name != "minus zero":
                np.testing.assert_array_equal(result == 0, values == 0)
            if reserve:
                assert found[0] == 0
            if method == "kmeans++" and len(np.unique(values)) + reserve <= n:
                np.testing.assert_array_equal(result, values)


def test_nearest_agrees_with_every_distance():
    random = np.random.default_rng(10)
    found = np.sort(random.normal(size=9))
    values = random.normal(size=500)
    distances = np.abs(values[:, None] - found)
    np.testing.assert_array_equal(nearest(values, found), np.argmin(distances, axis=1))
    np.testing.assert_array_equal(snapped(values, found), found[np.argmin(distances, axis=1)])


@pytest.mark.parametrize("init", ["kmeans", 3, None])
def test_an_unknown_method_is_named(init):
    with pytest.raises(SenteiError, match=r"`init` must be one of 'kmeans\+\+', 'linear'"):
        method_named(init)


@pytest.mark.parametrize("strength", [-1.0, np.inf, "1"])
def test_a_wrong_strength_is_named(strength):
    with pytest.raises(SenteiError, match="at least 0"):
        Rate(strength)
