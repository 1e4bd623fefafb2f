"""Batch normalization in few bits: what it then holds, and that a model computes as before."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import sentei
from sentei.core.errors import SenteiError
from sentei.quantization import Custom, quantizers, round_batch_norm
from sentei.quantization.rate.coarse import significant

pytestmark = pytest.mark.core


def numbers(x):
    return ops.convert_to_numpy(x)


def shaken(model, seed=0):
    """Batch normalizations as after a long training: no two channels alike, some negative."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                low = 0.01 if "variance" in variable.path else -2
                variable.assign(random.uniform(low, 2, variable.shape))
    return model


def convolutional():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(12, 3, use_bias=False, name="full")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(name="after_full")(x))
    y = layers.DepthwiseConv2D(3, padding="same", bias_initializer="normal", name="by_depth")(x)
    y = layers.BatchNormalization(name="after_by_depth")(y)
    x = layers.Add()([x, y])
    x = layers.BatchNormalization(name="alone")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return shaken(keras.Model(inputs, layers.Dense(4)(x)))


def priced(model):
    return sentei.quantize(model, Custom(activation_bits=None, rate=0.01))


def bits_of(array):
    """The significant bits of float32 numbers, read from their bit patterns."""
    mantissa = np.asarray(array, np.float32).view(np.uint32) & 0x7FFFFF
    trailing = np.array([24 if not m else (int(m) & -int(m)).bit_length() for m in mantissa.flat])
    return 25 - trailing


def test_significant_bits_are_those_of_bfloat16():
    import ml_dtypes

    x = np.random.default_rng(0).normal(size=1000).astype("float32") * 10.0 ** np.arange(
        -30, 20, 0.05
    )
    expected = x.astype("float32").astype(ml_dtypes.bfloat16).astype("float64")
    np.testing.assert_array_equal(significant(x.astype("float32"), 8), expected)
    np.testing.assert_array_equal(significant(np.zeros(3), 8), np.zeros(3))


@pytest.mark.parametrize("bits", [5, 8, 24])
def test_a_model_computes_almost_as_before(bits):
    qmodel = priced(convolutional())
    x = np.random.default_rng(1).normal(size=(16, 8, 8, 3)).astype("float32")
    before = qmodel.predict(x, verbose=0)
    integers = {name: q.integers() for name, q in quantizers(qmodel)}
    assert round_batch_norm(qmodel, bits=bits) is qmodel
    after = qmodel.predict(x, verbose=0)
    # Every number is off by half a unit in its last place at most; three layers follow each other.
    assert np.abs(after - before).max() < 8 * 2.0**-bits * np.abs(before).max() + 1e-5
    for name, quantizer in quantizers(qmodel):
        if "by_depth/bias" in name:  # became part of the offset behind it
            assert integers[name].any() and not quantizer.integers().any()
        else:
            np.testing.assert_array_equal(quantizer.integers(), integers[name])


def test_the_numbers_are_few_bits_wide():
    """Oracle: the product of the factor and the kernel's step, and the offset, in plain numpy."""
    qmodel = priced(convolutional())
    round_batch_norm(qmodel)
    steps = {name: float(q.grid().scale[0]) for name, q in quantizers(qmodel)}
    seen = 0
    for layer in sentei.strip(qmodel).layers:
        if not isinstance(layer, layers.BatchNormalization):
            continue
        before = layer.name.removeprefix("after_")
        (step,) = [s for n, s in steps.items() if f"{before}/" in n and "bias" not in n] or [1.0]
        factor = numbers(layer.gamma) / np.sqrt(numbers(layer.moving_variance) + layer.epsilon)
        folded = (factor.astype(np.float64) * step).astype(np.float32)
        assert bits_of(folded).max() <= 8
        assert bits_of(numbers(layer.beta)).max() <= 8
        assert not numbers(layer.moving_mean).any()
        seen += 1
    assert seen == 3


def test_what_has_no_factor_or_is_frozen_stays():
    inputs = keras.Input((5,))
    x = layers.BatchNormalization(scale=False)(layers.Dense(4)(inputs))
    x = layers.BatchNormalization(trainable=False)(layers.Dense(4)(x))
    model = shaken(keras.Model(inputs, layers.Dense(2)(x)))
    held = [numbers(v) for layer in model.layers if "norm" in layer.name for v in layer.weights]
    round_batch_norm(priced(model))
    now = [numbers(v) for layer in model.layers if "norm" in layer.name for v in layer.weights]
    for old, new in zip(held, now, strict=True):
        np.testing.assert_array_equal(old, new)


def test_a_shared_kernel_is_rounded_without_its_step():
    shared, inputs = layers.Dense(3), keras.Input((3,))
    x = layers.BatchNormalization()(shared(layers.BatchNormalization()(shared(inputs))))
    model = shaken(keras.Model(inputs, x))
    round_batch_norm(priced(model))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            assert bits_of(numbers(layer.gamma)).max() <= 8


def test_what_it_refuses():
    model = convolutional()
    with pytest.raises(SenteiError, match="has a price"):
        round_batch_norm(model)
    for bits in (1, 25):
        with pytest.raises(SenteiError, match="`bits` must be from 2 to 24"):
            round_batch_norm(priced(convolutional()), bits=bits)
