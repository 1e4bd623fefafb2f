"""Shares of zeros that harm least: against closed forms and a search over a grid."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sentei.core.errors import SenteiError
from sentei.sparsity.balance import MOST, balance

LEVELS = np.array([0.5, 0.7, 0.85, 0.95])
CONVEX = 1.5  # a power of s / (1 - s) that is convex from 0 to 1


def harm(scale, power=CONVEX, s=LEVELS):
    return np.asarray(scale)[:, None] * (s / (1 - s)) ** power


def test_alike_layers_get_the_same_share():
    shares = balance(np.array([10.0, 1000.0]), np.ones(2), LEVELS, harm([1.0, 100.0]), 0.8)
    assert shares == pytest.approx([0.8, 0.8], abs=0.01)


def test_a_layer_that_bears_everything_takes_all_it_can():
    shares = balance(np.array([50.0, 50.0]), np.ones(2), LEVELS, harm([1e-6, 1.0]), 0.7)
    assert shares == pytest.approx([MOST, 2 * 0.7 - MOST], abs=0.01)


@settings(deadline=None, max_examples=30)
@given(
    sizes=st.lists(st.floats(1, 100), min_size=3, max_size=3),
    scales=st.lists(st.floats(0.01, 10), min_size=3, max_size=3),
    uses=st.lists(st.sampled_from([1.0, 16.0, 64.0]), min_size=3, max_size=3),
    sparsity=st.floats(0.2, 0.9),
    spared=st.floats(0.0, 0.9),
    least=st.sampled_from([0.0, 0.17]),
)
def test_nothing_on_a_grid_harms_less(sizes, scales, uses, sparsity, spared, least):
    sizes, uses = np.array(sizes), np.array(uses)
    weights = sizes / sizes.sum()
    work = sizes * uses / (sizes * uses).sum()

    def total(shares):
        return float((np.array(scales) * (shares / (1 - shares)) ** CONVEX).sum())

    try:
        found = balance(sizes, uses, LEVELS, harm(scales), sparsity, spared, least)
    except SenteiError:
        found = None
    else:
        assert weights @ found == pytest.approx(sparsity, abs=1e-6)
        assert work @ found >= spared - 1e-9
        assert found.min() >= least and found.max() <= MOST
    best = np.inf
    for first, second in itertools.product(np.linspace(least, MOST, 50), repeat=2):
        third = (sparsity - weights[:2] @ [first, second]) / weights[2]
        shares = np.array([first, second, third])
        if least <= third <= MOST and work @ shares >= spared:
            best = min(best, total(shares))
    if found is None:
        assert best == np.inf
    else:
        assert total(found) <= 1.02 * best + 1e-6


def test_multiplications_that_must_go_are_taken_where_they_are():
    sizes, uses, alike = np.array([100.0, 100.0]), np.array([64.0, 1.0]), harm([1.0, 1.0])
    free = balance(sizes, uses, LEVELS, alike, 0.6)
    spared = balance(sizes, uses, LEVELS, alike, 0.6, spared=0.75)
    assert free == pytest.approx([0.6, 0.6], abs=0.01)
    assert 64 / 65 * spared[0] + 1 / 65 * spared[1] == pytest.approx(0.75, abs=0.01)
    assert spared.sum() == pytest.approx(1.2, abs=1e-6)


def test_harm_that_flattens_out_is_no_reason_to_give_a_layer_up():
    flat = np.array([[0.1, 0.5, 0.55, 0.56], [0.1, 0.5, 2.0, 10.0]])
    shares = balance(np.array([10.0, 10.0]), np.ones(2), LEVELS, flat, 0.7)
    assert shares == pytest.approx([0.7, 0.7], abs=0.03)


def test_too_many_multiplications_are_refused_with_the_most_there_are():
    with pytest.raises(SenteiError, match=r"At 20% zeros at most [\d.]+% .*multiplications=0.9"):
        balance(np.array([10.0, 10.0]), np.ones(2), LEVELS, harm([1.0, 1.0]), 0.2, spared=0.9)
