import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.select import Axes
from sentei.sparsity.patterns import Block, Element, NofM

pytestmark = pytest.mark.core

DENSE = Axes((), (0,), (1,))
CONV = Axes((0, 1), (2,), (3,))
TRANSPOSED = Axes((0, 1), (3,), (2,))
PROJECTION = Axes((), (0, 1), (2,))
EMBEDDING = Axes((), (1,), (0,))


def matrix(x, axes):
    order = [*axes.position, *axes.input, *axes.output]
    return np.transpose(x, order).reshape(-1, int(np.prod([x.shape[a] for a in axes.output])))


def weights(shape, seed):
    # Few distinct values: ties are the interesting case.
    return np.random.default_rng(seed).integers(-3, 4, shape).astype("float32")


def mask_of(pattern, scores, axes, sparsity):
    keep = pattern.kept_units(scores.shape, axes, sparsity)
    return ops.convert_to_numpy(pattern.mask(ops.convert_to_tensor(scores), axes, np.int32(keep)))


shapes = st.sampled_from(
    [
        ((7, 5), DENSE),
        ((16, 8), DENSE),
        ((3, 3, 5, 6), CONV),
        ((2, 2, 6, 5), TRANSPOSED),
        ((2, 5, 7), PROJECTION),
        ((9, 6), EMBEDDING),
        ((1, 1), DENSE),
    ]
)
shares = st.floats(0, 0.99)
seeds = st.integers(0, 1000)


@given(shapes, shares, seeds)
def test_element_keeps_the_rounded_share_in_the_variables_own_order(case, sparsity, seed):
    shape, axes = case
    scores = np.abs(weights(shape, seed))
    mask = mask_of(Element(), scores, axes, sparsity)
    order = np.argsort(-scores.ravel(), kind="stable")
    expected = np.zeros(scores.size, bool)
    expected[order[: round(scores.size * (1 - sparsity))]] = True
    np.testing.assert_array_equal(mask.ravel(), expected)


def block_mask_by_loops(scores, axes, block, pooling, sparsity):
    """The oracle: cut the matrix into rectangles one by one."""
    m = matrix(scores, axes)
    corners = [
        (r, c) for r in range(0, m.shape[0], block[0]) for c in range(0, m.shape[1], block[1])
    ]
    tiles = [m[r : r + block[0], c : c + block[1]] for r, c in corners]
    values = np.array([t.mean(dtype="float32") if pooling == "mean" else t.max() for t in tiles])
    kept = np.argsort(-values, kind="stable")[: round(len(tiles) * (1 - sparsity))]
    mask = np.zeros(m.shape, bool)
    for i in kept:
        r, c = corners[i]
        mask[r : r + block[0], c : c + block[1]] = True
    return mask


@given(
    shapes,
    st.sampled_from([(1, 1), (1, 4), (3, 1), (2, 3), (5, 4)]),
    st.sampled_from(["mean", "max"]),
    shares,
    seeds,
)
def test_blocks_of_the_matrix_also_where_they_do_not_divide_it(case, block, pooling, share, seed):
    shape, axes = case
    scores = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape)
    scores = (scores / 4).astype("float32")  # sums are exact: pooled scores tie only if equal
    mask = mask_of(Block(block, pooling), scores, axes, share)
    expected = block_mask_by_loops(scores, axes, block, pooling, share)
    means = pooling == "max" or expected.all() or not expected.any()
    if means:
        np.testing.assert_array_equal(matrix(mask, axes), expected)
    else:  # a mean is rounded: two blocks may tie in one arithmetic and not in the other
        assert matrix(mask, axes).sum() > 0
        differing = matrix(mask, axes) != expected
        assert differing.sum() <= 2 * block[0] * block[1]


def test_block_1x1_is_element():
    scores = np.abs(weights((13, 7), 3))
    for share in (0.0, 0.3, 0.77):
        np.testing.assert_array_equal(
            mask_of(Block((1, 1)), scores, DENSE, share),
            mask_of(Element(), scores, DENSE, share),
        )


@given(shapes, st.sampled_from([(1, 2), (2, 4), (3, 4), (2, 5)]), shares, seeds)
def test_n_of_m_groups_run_along_the_input_channels(case, n_m, share, seed):
    (shape, axes), (n, m) = case, n_m
    scores = np.abs(weights(shape, seed))
    mask = mask_of(NofM(n, m), scores, axes, share)
    keep = max(n, round(m * (1 - share)))
    order = [*axes.position, *axes.output, *axes.input]
    inputs = int(np.prod([shape[a] for a in axes.input]))
    rows_of = lambda x: np.transpose(x, order).reshape(-1, inputs)  # noqa: E731
    for row, kept in zip(rows_of(scores), rows_of(mask), strict=True):
        for start in range(0, inputs, m):
            group = row[start : start + m]
            expected = np.zeros(len(group), bool)
            expected[np.argsort(-group, kind="stable")[:keep]] = True
            np.testing.assert_array_equal(kept[start : start + m], expected)


def test_n_of_m_moves_in_whole_weights_a_group():
    kept = [NofM(2, 4).kept_units((8, 8), DENSE, s) for s in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)]
    assert kept == [4, 4, 3, 3, 2, 2]


@pytest.mark.parametrize("pattern", [Element(), Block((2, 3)), Block((2, 2), "max")], ids=repr)
@pytest.mark.parametrize(("shape", "axes"), [((7, 5), DENSE), ((3, 3, 4, 6), CONV)])
def test_spread_undoes_pool(pattern, shape, axes):
    scores = np.abs(weights(shape, 1))
    units = pattern.pool(ops.convert_to_tensor(scores), axes)
    assert int(np.prod(units.shape)) == pattern.units(shape, axes)
    flags = np.random.default_rng(0).integers(0, 2, tuple(units.shape)).astype(bool)
    spread = ops.convert_to_numpy(pattern.spread(ops.convert_to_tensor(flags), shape, axes))
    assert spread.shape == shape
    again = ops.convert_to_numpy(pattern.pool(ops.cast(spread, "float32"), axes))
    np.testing.assert_array_equal(again > 0.5, flags)


@pytest.mark.parametrize("pattern", [Element(), Block((4, 2), "max"), NofM(1, 4)], ids=repr)
def test_patterns_survive_saving(pattern):
    saved = keras.saving.serialize_keras_object(pattern)
    assert keras.saving.deserialize_keras_object(saved) == pattern


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Block((0, 4)), r"Received: shape=\(0, 4\)"),
        (lambda: Block(4), "Received: shape=4"),
        (lambda: Block((4, 4), "median"), "pooling='median'"),
        (lambda: NofM(4, 4), "1 <= n < m"),
        (lambda: NofM(0, 4), "n=0"),
        (lambda: NofM(2, 4).check_target("dense", 0.6), r"ends at a sparsity of 0\.5, but.* 0\.6"),
        (lambda: NofM(2, 4).pool(None, DENSE), "use scope='layer'"),
    ],
)
def test_a_wrong_argument_is_named(make, message):
    with pytest.raises(SenteiError, match=message):
        make()
