"""Any JAX program and what the rules make of it compute the same, run by JAX itself."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from test_rewrite import Does, chain, normal, operators

from sentei.litert.rewrites.walk import simplified

pytestmark = pytest.mark.skipif(keras.backend.backend() != "jax", reason="traces on JAX")


def agree(function: Callable[..., Any], *arrays: np.ndarray, tolerance: float = 1e-5) -> None:
    expected = jax.jit(function)(*arrays)
    actual = jax.jit(simplified(function))(*arrays)
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == e.dtype
        np.testing.assert_allclose(a, e, rtol=tolerance, atol=tolerance)


@st.composite
def windows(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, Any]]:
    rank = draw(st.integers(2, 5))
    shape = tuple(draw(st.integers(3, 6)) for _ in range(rank))
    lengths = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    strides = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    padding = draw(
        st.sampled_from(["VALID", "SAME"])
        | st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * rank)
    )
    return shape, {"window_dimensions": lengths, "window_strides": strides, "padding": padding}


@settings(max_examples=12)
@given(windows(), st.booleans())
def test_windows_of_any_shape(case: tuple[Any, dict[str, Any]], mean: bool) -> None:
    shape, window = case

    def pool(x: Any) -> Any:
        if not mean:
            return lax.reduce_window(x, -jnp.inf, lax.max, **window)
        total = lax.reduce_window(x, 0.0, lax.add, **window)
        counts = lax.reduce_window(jnp.ones_like(x), 0.0, lax.add, **window)
        return {"sum": total, "mean": total / counts}

    agree(pool, normal(*shape))


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[int, dict[str, Any]]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    return rank, {
        "kernel": each(1, 4),
        "window_strides": each(1, 2),
        "padding": tuple((draw(st.integers(0, 5)), draw(st.integers(0, 5))) for _ in range(rank)),
        "lhs_dilation": each(1, 3),
        "rhs_dilation": each(1, 2),
        "feature_group_count": draw(st.sampled_from([1, 2])),
    }


@settings(max_examples=12)
@given(convolutions())
def test_convolutions_of_any_kind(case: tuple[int, dict[str, Any]]) -> None:
    rank, options = case
    kernel = options.pop("kernel")
    if any(d > 1 for d in options["lhs_dilation"]):
        options["window_strides"] = (1,) * rank
    groups = options["feature_group_count"]
    weights = normal(*kernel, 4 // groups, 6, seed=1)
    places = "DHW"[-rank:]
    numbers = (f"N{places}C", f"{places}IO", f"N{places}C")
    image = normal(2, *[6] * rank, 4)

    def convolve(x: Any) -> Any:
        y = lax.conv_general_dilated(x, weights, dimension_numbers=numbers, **options)
        return jax.nn.relu(y * 1.5 + np.arange(6, dtype="f"))

    agree(convolve, image, tolerance=1e-4)


@pytest.mark.slow
@settings(max_examples=25)
@given(convolutions())
def test_transposed_convolutions_in_the_runtime(case: tuple[int, dict[str, Any]]) -> None:
    """The converter's own way with padding is not to be trusted: run the file."""
    rank, options = case
    kernel = options.pop("kernel")
    options |= {"window_strides": (1,) * rank, "feature_group_count": 1}
    options["lhs_dilation"] = tuple(max(2, d) for d in options["lhs_dilation"])
    weights = normal(*kernel, 2, 3, seed=1)
    places = "DHW"[-rank:]
    numbers = (f"N{places}C", f"{places}IO", f"N{places}C")

    def convolve(x: Any) -> Any:
        return lax.conv_general_dilated(x, weights, dimension_numbers=numbers, **options)

    shape = [4] * rank + [2]
    with tempfile.TemporaryDirectory() as folder:
        operators(chain(tuple(shape), Does(convolve)), normal(2, *shape), Path(folder))


@jax.custom_vjp
def straight_through(x: Any) -> Any:
    return jnp.round(x)


straight_through.defvjp(lambda x: (jnp.round(x), None), lambda _, g: (g,))


def quotient(x: Any, axis: int) -> Any:
    return x / jnp.sum(x, axis, keepdims=True)


def crossed(x: Any) -> Any:
    return x / jnp.sum(x, -1)[:, None, :]


def normalized(x: Any, other: float) -> Any:
    """Written as Keras does; with another scale for the mean, it is none."""
    mean, scale = jnp.mean(x, -1, keepdims=True), lax.rsqrt(jnp.var(x, -1, keepdims=True) + 0.1)
    return x * scale + (-mean * (scale if other == 1.0 else scale * other) + 0.5)


PROGRAMS = {
    "softmax": lambda x: jax.nn.softmax(x, axis=1),
    "softmax of two axes": lambda x: jax.nn.softmax(x, axis=(0, 2)),
    "softmax without shift": lambda x: quotient(jnp.exp(x), -1),
    "softmax shifted by the input": lambda x: quotient(jnp.exp(x - x * 0.5), -1),
    "softmax shifted along its axis": lambda x: quotient(jnp.exp(x - jnp.arange(4.0)), -1),
    "softmax by logsumexp": lambda x: jnp.exp(x - jax.nn.logsumexp(x, axis=(1, 2), keepdims=True)),
    "not softmax: other total": lambda x: crossed(jnp.exp(x[:, :4] - 1.0)),
    "not softmax: masked": lambda x: jnp.exp(x) / jnp.sum(jnp.exp(x) * (x > 0) + 1, -1)[..., None],
    "normalization": lambda x: normalized(x, 1.0),
    "not normalization": lambda x: normalized(x, 0.9),
    "repeat": lambda x: jnp.repeat(x, 3, axis=1),
    "repeat both": lambda x: jnp.repeat(jnp.repeat(x[..., None], 2, axis=1), 3, axis=2),
    "repeat other order": lambda x: jnp.repeat(jnp.repeat(x[..., None], 3, axis=2), 2, axis=1),
    "tile": lambda x: jnp.tile(x, (1, 3, 1)),
    "searchsorted": lambda x: jnp.searchsorted(
        np.array([-1.0, 0.0, 0.5], "f"), jnp.round(2 * x) / 2
    ),
    "searchsorted right": lambda x: jnp.searchsorted(
        np.array([-1.0, 0.0, 0.5], "f"), jnp.round(2 * x) / 2, side="right"
    ),
    "digitize down": lambda x: jnp.digitize(x, np.array([0.5, 0.0, -1.0], "f")),
    "top_k": lambda x: lax.top_k(x, 3),
    "cumprod": lambda x: lax.cumprod(x, axis=1),
    "cummax back": lambda x: lax.cummax(x, axis=1, reverse=True),
    "cummin": lambda x: lax.cummin(x, axis=2),
    "cbrt": jnp.cbrt,
    "xor": lambda x: jnp.logical_xor(x > 0, x > 1),
    "rfft": lambda x: [f(jnp.fft.rfft(x, n=4) * 2.0) for f in (jnp.real, jnp.imag, jnp.abs)],
    "rfft of six": lambda x: jnp.abs(jnp.fft.rfft(jnp.tile(x, (1, 1, 2))[..., :6]).swapaxes(1, 2)),
    "rfft of six, imaginary": lambda x: jnp.imag(jnp.fft.rfft(jnp.tile(x, (1, 1, 2))[..., :6])),
    "spectrum quotient": lambda x: jnp.real(
        jnp.fft.rfft(x, n=4) / (jnp.fft.rfft(x[:, ::-1], n=4) + 9)
    ),
    "gather inside": lambda x: x[:, np.array([2, 0, 1])],
    "gather wrapped": lambda x: x[:, np.array([-1, 0])],
    "gather outside": lambda x: jnp.take(x, np.array([0, 9]), axis=1),
    "gather by data": lambda x: jnp.take(x, jnp.argmax(x[0], 0), axis=1, mode="clip"),
    "gather by data outside": lambda x: jnp.take(x, jnp.argmax(x[0], 0) * 9, axis=1),
    "table": lambda x: jnp.asarray(np.arange(12, dtype="f").reshape(4, 3))[jnp.argmax(x, 1)],
    "resize": lambda x: jax.image.resize(x[..., None], (2, 7, 9, 1), "bilinear", antialias=False),
    "resize nearest first": lambda x: jax.image.resize(
        x[:, None], (2, 1, 7, 9), "nearest", antialias=False
    ),
    "resize cubic": lambda x: jax.image.resize(x[..., None], (2, 7, 9, 1), "cubic"),
    "elu": jax.nn.elu,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "selu": jax.nn.selu,
    "checkpoint": jax.checkpoint(lambda x: jnp.sin(x) * jax.nn.gelu(x)),
    "custom derivative": lambda x: straight_through(x),
    "named": jax.jit(jax.named_call(lambda x: jax.nn.relu(x) + 1, name="named")),
    "known choice": lambda x: jnp.where(jnp.arange(3).sum() == 3, x, -x),
    "sliced stack": lambda x: lax.scan(lambda c, v: (c + v, c), x[0], x)[1][1],
    "whole stack": lambda x: lax.scan(lambda c, v: (c + v, c), x[0], x)[1],
    "no sequence": lambda x: lax.scan(lambda c, _: (c * 2, c), x, None, length=3),
}


@pytest.mark.parametrize("function", PROGRAMS.values(), ids=PROGRAMS)
def test_programs_compute_the_same(function: Callable[[Any], Any]) -> None:
    agree(function, normal(2, 5, 4))
