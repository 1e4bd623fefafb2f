"""Cross-layer equalization: the same function, on equal ranges."""

import itertools

import keras
import numpy as np
import pytest
from keras import layers as kl
from uneven import convolutional, uneven, values

import sentei
from sentei.core.errors import UnsupportedModel
from sentei.quantization import equalize

pytestmark = pytest.mark.core


IMAGES = np.random.default_rng(1).normal(size=(24, 9, 9, 3)).astype("float32")


def test_equalized_it_computes_the_same_on_equal_ranges():
    model = convolutional()
    before = model.predict(IMAGES, verbose=0)
    done = equalize(model)
    after = model.predict(IMAGES, verbose=0)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())
    assert [(p.first, p.second) for p in done.pairs] == [*itertools.pairwise("abcde")]
    assert list(done.skipped) == ["e"]
    a, bn, b, c, d = (model.get_layer(name) for name in ("a", "a_bn", "b", "c", "d"))
    folded = values(bn.gamma) / np.sqrt(values(bn.moving_variance) + bn.epsilon)
    ranges = np.abs(values(a.kernel) * folded).max((0, 1, 2)), np.abs(values(b.kernel)).max((0, 1))
    np.testing.assert_allclose(ranges[0], ranges[1].max(-1), rtol=2e-3)
    flat = np.abs(values(d.kernel)).reshape(-1, 5, 6).max((0, 2))
    np.testing.assert_allclose(np.abs(values(c.kernel)).max((0, 1, 2)), flat, rtol=2e-3)


def test_equalization_leaves_what_a_factor_does_not_go_through():
    def build():
        x = keras.Input((6,), name="x")
        y = kl.ReLU(6, name="six")(kl.Dense(5, name="a")(x))
        y = kl.Dense(5, activation="tanh", name="b")(y)
        z = kl.Dense(5, name="c")(y)
        return uneven(keras.Model(x, kl.Add(name="sum")([kl.Dense(5, name="d")(z), z])))

    model = build()
    before = model.get_weights()
    done = equalize(model)
    assert not done.pairs
    assert done.skipped == {
        "a": "ReLU6 behind it would cut elsewhere",
        "b": "tanh behind it does not let a factor through",
        "c": "not one layer alone reads it",
        "d": "not one layer alone reads it",
    }
    for was, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)
    x = 0.1 * np.random.default_rng(0).normal(size=(8, 6)).astype("float32")
    before = model.predict(x, verbose=0)  # small: nothing reaches 6
    done = equalize(model, widen_relu6=True)
    assert done.rectified == ("six",) and done.pairs[0].after < 1.01 < done.pairs[0].before
    np.testing.assert_allclose(model.predict(x, verbose=0), before, rtol=1e-5, atol=1e-6)
    with pytest.raises(UnsupportedModel, match=r"is quantized\. Equalize the float model"):
        equalize(sentei.quantize(build()))
