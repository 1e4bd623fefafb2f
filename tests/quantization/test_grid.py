"""Grids against a restatement in plain Python, on every backend."""

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import ops

from sentei.core.errors import SenteiError
from sentei.quantization.grid import Grid, Kind, extremes, fake_quantize, numbers

pytestmark = pytest.mark.core

ends = st.floats(-1e4, 1e4, width=32).filter(lambda v: v == 0 or abs(v) > 1e-6)


def grid_over(low, high, kind):
    scale, zero = numbers(np.full(1, low, "float32"), np.full(1, high, "float32"), kind, np)
    return Grid(kind, np.asarray(scale, "float32"), np.asarray(zero, "int64"))


@given(ends, ends, st.sampled_from([4, 8, 16]), st.booleans())
def test_zero_is_on_the_grid_and_the_range_is_covered(a, b, bits, symmetric):
    low, high = min(a, b, 0.0), max(a, b, 0.0)
    grid = grid_over(low, high, Kind(bits, symmetric=symmetric))
    step = float(grid.scale[0])
    assert grid.dequantize(grid.quantize(np.zeros(1)))[0] == 0
    for end in (low, high):
        error = abs(grid.dequantize(grid.quantize(np.float32([end])))[0] - end)
        assert error <= step * (1.0 + 1e-3)  # the zero point is rounded too
    if high > low:
        span = 2 * max(-low, high) if symmetric else high - low
        levels = 2**bits - (2 if symmetric else 1)
        assert step == pytest.approx(span / levels, rel=1e-5)


@given(st.integers(0, 2**32 - 1), st.sampled_from(["half_even", "half_away"]))
def test_backend_equals_restatement(seed, rounding):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(3, 4, 5)).astype("float32") * rng.lognormal(size=5).astype("float32")
    for kind in (Kind(rounding=rounding), Kind(symmetric=True, narrow=True, axis=2)):
        low, high = extremes(x * np.float32(0.7), kind, np)
        scale, zero = numbers(low, high, kind, np)
        grid = Grid(kind, np.asarray(scale, "float32"), np.asarray(zero, "int64"))
        on_backend = numbers(ops.convert_to_tensor(low), ops.convert_to_tensor(high), kind)
        np.testing.assert_array_equal(ops.convert_to_numpy(on_backend[0]), grid.scale)
        simulated = ops.convert_to_numpy(fake_quantize(ops.convert_to_tensor(x), *on_backend, kind))
        np.testing.assert_array_equal(simulated, grid.dequantize(grid.quantize(x)))
        for index in np.ndindex(2, 2, 2):  # and one by one, without arrays
            c = index[2] if kind.axis is not None else 0
            q = float(x[index]) / float(grid.scale[c])
            near = {np.floor(q + 0.5 - 1e-4), np.floor(q + 0.5 + 1e-4)}  # either side of a tie
            near = {min(max(n + grid.zero_point[c], kind.low), kind.high) for n in near}
            assert grid.quantize(x)[index] in near


def gradient(function, value):
    """The gradient of a scalar function of one variable, on this backend."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return np.asarray(jax.grad(function)(value))
    if backend == "tensorflow":
        import tensorflow as tf

        tensor = tf.constant(value)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            result = function(tensor)
        return tape.gradient(result, tensor).numpy()
    import torch

    tensor = torch.tensor(value, requires_grad=True)
    function(tensor).backward()
    return tensor.grad.numpy()


def test_gradient_goes_straight_through_inside_the_range_only():
    x = np.array([-3.0, -1.0, -0.2, 0.0, 0.5, 1.98, 2.0, 2.5, 9.0], "float32")
    weights = np.arange(1.0, 10.0, dtype="float32")
    inside = (x >= -2.0 * 128 / 127) & (x <= 2.0)

    def loss(x):
        scale, zero = numbers(*(ops.convert_to_tensor(np.float32([v])) for v in (-2, 2)), kind)
        return ops.sum(fake_quantize(x, scale, zero, kind) * ops.convert_to_tensor(weights))

    kind = Kind(8, symmetric=True)
    np.testing.assert_array_equal(gradient(loss, x), inside * weights)


def test_a_range_of_zero_width_has_a_scale():
    for kind in (Kind(), Kind(symmetric=True, narrow=True)):
        grid = grid_over(0.0, 0.0, kind)
        assert np.all(grid.scale > 0) and not grid.dequantize(grid.quantize(np.zeros(3))).any()
    x = np.ones((4, 3), "float32") * np.float32([1.0, 0.0, 2.0])
    kind = Kind(symmetric=True, narrow=True, axis=1)
    scale, _ = numbers(*extremes(x, kind, np), kind, np)
    np.testing.assert_allclose(scale, np.float32([1 / 127, 2 / 127 * 2**-14, 2 / 127]))


def test_blocks_have_a_scale_each():
    x = np.repeat(np.float32([[1.0, 2.0], [4.0, 8.0], [16.0, 32.0]]), [3, 3, 2], axis=0)
    kind = Kind(4, symmetric=True, narrow=True, axis=1, block=3)
    scale, zero = numbers(*extremes(x, kind, np), kind, np)
    grid = Grid(kind, np.asarray(scale, "float32"), np.asarray(zero, "int64"))
    assert grid.scale.shape == (3, 2)
    assert (grid.quantize(x) == 7).all()
    tensors = [ops.convert_to_tensor(np.float32(v)) for v in (scale, zero)]
    simulated = fake_quantize(ops.convert_to_tensor(x), *tensors, kind)
    np.testing.assert_allclose(ops.convert_to_numpy(simulated), x, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bits": 1}, "between 2 and 32 bits. Received: bits=1"),
        ({"narrow": True}, "narrow grid must be symmetric"),
        ({"rounding": "up"}, "rounding='up'"),
        ({"block": 0, "axis": 1}, "`block` must be at least 1"),
    ],
)
def test_kinds_that_are_none(changes, message):
    with pytest.raises(SenteiError, match=message):
        Kind(**changes)


@pytest.mark.parametrize(
    ("scale", "zero", "line"),
    [
        (np.ones(1), np.zeros(1, "int64"), "scale is float32"),
        (np.zeros(1, "float32"), np.zeros(1, "int64"), "finite and positive"),
        (np.ones(2, "float32"), np.zeros(2, "int64"), "one scale"),
        (np.ones(1, "float32"), np.full(1, 128), "zero_point is on the grid"),
    ],
)
def test_grids_that_are_none(scale, zero, line):
    with pytest.raises(SenteiError, match=line):
        Grid(Kind(), scale, zero)
