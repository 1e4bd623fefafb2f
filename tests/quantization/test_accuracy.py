"""The post-training accuracy tools: what they promise, on numpy restatements and brute force."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl
from uneven import convolutional, values

import sentei
from sentei.core.errors import SenteiError
from sentei.quantization import (
    Custom,
    Int4,
    adaround,
    correct_bias,
    matrices,
    quantized,
    quantizers,
    rounding,
)

pytestmark = pytest.mark.core


IMAGES = np.random.default_rng(1).normal(size=(16, 9, 9, 3)).astype("float32")


def test_corrected_biases_give_the_means_of_the_float_model():
    model = convolutional()
    start = dict(zip([v.path for v in model.variables], map(values, model.variables), strict=True))
    qmodel = sentei.quantize(model, Int4(activation_bits=None), calibration=IMAGES)
    wanted = keras.Model(model.input, [model.get_layer(n).output for n in ("a_bn", "b")])
    wanted = [value.mean((0, 1, 2)) for value in wanted.predict(IMAGES, verbose=0)]
    done = correct_bias(qmodel, IMAGES)
    assert all(row.after < row.before for row in done.rows) and len(done.rows) == 5
    changed = {v.path for v in model.variables if not np.array_equal(values(v), start[v.path])}
    assert {path.rpartition("/")[2] for path in changed} == {"bias", "beta"}
    for _, quantizer in quantizers(qmodel):  # what a user's eyes see: on rounded weights
        quantizer.variable.assign(
            quantizer.grid().dequantize(quantizer.grid().quantize(values(quantizer.variable)))
        )
    found = keras.Model(model.input, [model.get_layer(n).output for n in ("a_bn", "b")])
    for have, want in zip(found.predict(IMAGES, verbose=0), wanted, strict=True):
        np.testing.assert_allclose(have.mean((0, 1, 2)), want, rtol=1e-4, atol=1e-5)


def test_masked_steps_do_not_move_biases():
    generator = np.random.default_rng(2)
    steps = generator.normal(1, 1, (8, 5, 3)).astype("float32")
    padded = np.concatenate([steps, np.zeros((8, 6, 3), "float32")], axis=1)

    def corrected(samples):
        x = keras.Input((None, 3))
        y = kl.Dense(4, activation="relu", name="a")(kl.Masking()(x))
        model = keras.Model(x, kl.Dense(2, name="b")(y))
        for number, variable in enumerate(model.variables):
            draw = np.random.default_rng(number)
            variable.assign(draw.normal(size=variable.shape).astype("float32"))
        done = correct_bias(sentei.quantize(model, Int4(), calibration=steps), samples)
        return [values(model.get_layer(name).bias) for name in "ab"], done.rows

    for have, want in zip(*(corrected(samples)[0] for samples in (padded, steps)), strict=True):
        np.testing.assert_allclose(have, want, rtol=1e-5, atol=1e-6)
    assert all(row.after < row.before for row in corrected(padded)[1])


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (kl.Conv2D(6, 3, strides=2, padding="same"), (9, 10, 4)),
        (kl.Conv2D(6, (3, 2), dilation_rate=2), (9, 10, 4)),
        (kl.DepthwiseConv2D(3, depth_multiplier=2, padding="same"), (7, 7, 3)),
        (kl.DepthwiseConv1D(3, strides=2), (9, 3)),
        (kl.Conv1D(5, 3, padding="causal", dilation_rate=2), (9, 3)),
        (kl.Conv3D(2, 2, strides=2, padding="same"), (5, 4, 3, 2)),
        (kl.Dense(3), (4, 5)),
    ],
    ids=["strided", "dilated", "depthwise", "depthwise1d", "causal", "conv3d", "dense"],
)
def test_layers_are_matrices(layer, shape):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, *shape)).astype("float32")
    y = values(layer(x))
    rows = matrices.choose(y.shape, 11, generator)
    matrix = matrices.as_matrix(layer, values(layer.kernel))
    np.testing.assert_array_equal(matrices.as_kernel(layer, matrix), values(layer.kernel))
    found = np.matmul(matrices.read_at(layer, x, rows), matrix)
    np.testing.assert_allclose(found, matrices.given_at(layer, y, rows), rtol=1e-4, atol=1e-5)


def problem(activation="relu", k=8):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(256, k)) @ generator.normal(size=(k, k)) / np.sqrt(k) + 0.5
    x = x[None].astype("float32")
    weight = generator.normal(size=(1, k, 1)).astype("float32")
    made = rounding.Problem(
        x=x,
        wanted=np.zeros((1, 256, 1), "float32"),
        weight=weight,
        step=np.full_like(weight, 0.5),
        low=-7,
        high=7,
        factor=np.full((1, 1, 1), 1.5, "float32"),
        offset=np.full((1, 1, 1), 0.2, "float32"),
        activation=activation,
    )
    made.wanted[:] = made.output(weight)
    return made


@pytest.mark.parametrize("activation", ["linear", "relu"])
def test_adaround_finds_nearly_the_best_of_all_roundings(activation):
    made = problem(activation)
    whole = np.floor(made.weight / made.step)
    errors = [
        made.error(whole + np.reshape(up, whole.shape))
        for up in itertools.product((0, 1), repeat=8)
    ]
    found = made.error(rounding.solve(made, steps=1500, batch=64, pull=1.0))
    assert found < 0.6 * made.error(made.nearest())
    assert np.mean(np.array(errors) < found) < 0.06  # among the best 15 of 256


def test_its_gradient_is_that_of_the_error():
    made = problem()
    rows = np.arange(256)
    at = made.weight / made.step

    def loss(integers):
        return float(np.mean((made.output(integers * made.step) - made.wanted) ** 2))

    moved = at + np.random.default_rng(1).uniform(-0.5, 0.5, at.shape)
    slope = rounding._slope(made, rows, moved).ravel()
    for index in range(at.size):
        bump = np.zeros(at.size)
        bump[index] = 1e-2
        bump = bump.reshape(at.shape)
        numeric = (loss(moved + bump) - loss(moved - bump)) / 2e-2
        assert slope[index] == pytest.approx(numeric, rel=0.05, abs=1e-3)


def test_adaround_bakes_integers_that_everything_else_sees(tmp_path):
    model = convolutional()
    kernel = model.get_layer("c").kernel
    kernel.assign(values(kernel) * (np.random.default_rng(0).random(kernel.shape) > 0.5))
    zeros = values(kernel) == 0
    wanted = model.predict(IMAGES, verbose=0)
    qmodel = sentei.quantize(model, Int4(weight_steps="nearest"), calibration=IMAGES)
    before = np.mean((qmodel.predict(IMAGES, verbose=0) - wanted) ** 2)
    done = adaround(qmodel, IMAGES, steps=300)
    found = qmodel.predict(IMAGES, verbose=0)
    assert np.mean((found - wanted) ** 2) < 0.6 * before
    assert all(row.after <= row.before for row in done.rows)
    assert (values(kernel)[zeros] == 0).all()
    for name, quantizer in quantizers(qmodel):
        if hasattr(quantizer, "step"):
            grid, value = quantizer.grid(), values(quantizer.variable)
            np.testing.assert_array_equal(grid.dequantize(grid.quantize(value)), value, name)
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded.predict(IMAGES, verbose=0), found)
    assert sentei.strip(qmodel) is model


def test_the_tools_say_what_they_need():
    model = convolutional()
    with pytest.raises(SenteiError, match="has no range yet"):
        correct_bias(sentei.quantize(model), IMAGES)
    qmodel = sentei.quantize(model, calibration=IMAGES)
    with pytest.raises(SenteiError, match=r"`steps` must be a positive integer"):
        adaround(qmodel, IMAGES, steps=0)
    with pytest.raises(SenteiError, match="data is empty"):
        adaround(qmodel, [], steps=1)
    assert Custom(weight_steps="nearest").weight_steps == "nearest"
    with pytest.raises(SenteiError, match="`weight_steps` must be one of"):
        Custom(weight_steps="x")
    assert quantized(qmodel) is not None
