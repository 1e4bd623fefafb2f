import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

from sentei.sparsity.top import keep_best

pytestmark = pytest.mark.core


def best_by_sorting(scores, k):
    """The oracle: a stable sort of everything."""
    order = np.argsort(-scores.astype("float64").ravel(), kind="stable")
    mask = np.zeros(scores.size, bool)
    mask[order[:k]] = True
    return mask.reshape(scores.shape)


few_values = st.sampled_from([-np.inf, -1.0, -0.0, 0.0, 1e-45, 1e-30, 0.5, 1.0, np.inf])
floats = st.floats(width=32, allow_nan=False)


@given(st.data())
def test_exactly_k_are_kept_the_highest_first_ties_by_position(data):
    shape = data.draw(st.sampled_from([(1,), (6,), (5, 9), (2, 3, 4)]))
    elements = data.draw(st.sampled_from([few_values, floats]))
    scores = data.draw(hnp.arrays("float32", shape, elements=elements))
    k = data.draw(st.integers(0, scores.size))
    mask = ops.convert_to_numpy(keep_best(ops.convert_to_tensor(scores), np.int32(k)))
    assert mask.sum() == k
    if not ((np.abs(scores) < 1e-37) & (scores != 0)).any():  # XLA may flush denormals to zero
        np.testing.assert_array_equal(mask, best_by_sorting(scores, k))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("size", [1, 2, 1000, 70_001])
def test_every_dtype_and_size(dtype, size):
    rng = np.random.default_rng(size)
    scores = ops.cast(rng.normal(size=size).astype("float32"), dtype)
    exact = ops.convert_to_numpy(ops.cast(scores, "float32"))
    for k in {0, 1, size // 3, size - 1, size}:
        mask = ops.convert_to_numpy(keep_best(scores, np.int32(k)))
        np.testing.assert_array_equal(mask, best_by_sorting(exact, k))
