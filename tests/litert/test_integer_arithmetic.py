"""Inference in integers: what `predict` gives and what XNNPACK gives, to the last integer."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei.litert.quantized import take_census
from sentei.litert.runtime import Runner

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 12, 12, 8)).astype("float32")
OTHERS = (RNG.normal(size=(16, 12, 12, 8)) * 3 + 1).astype("float32")


def normalized(y):
    layer = kl.BatchNormalization()
    y = layer(y)
    n = y.shape[-1]
    # Negative factors turn the integers' signs; one of zero silences its channel.
    gamma = np.where(np.arange(n) == 1, 0.0, RNG.normal(size=n))
    variance = RNG.uniform(0.5, 2, size=n)
    layer.set_weights([gamma, RNG.normal(size=n), RNG.normal(size=n), variance])
    return y


def biased(layer):
    layer.bias_initializer = keras.initializers.RandomNormal(stddev=0.5, seed=1)
    return layer


def shared(x):
    layer = biased(kl.Conv2D(8, 3, padding="same"))
    y = kl.ReLU()(layer(x))
    return kl.Concatenate()([y, layer(y)])


def summed_twice(a, b):
    # The first call's partial sum must not have the name of the second call.
    add, c = kl.Add(), kl.Conv2D(8, 1)(a)
    return add([add([a, b, c]), kl.Conv2D(8, 1)(b), c])


def with_itself(x):
    # The converter refused its own graph of a reshaped tensor beside itself.
    y = kl.Reshape((144, 8))(x)
    y = kl.Add()([y, kl.Reshape((144, 8))(x)]) * y
    return kl.Multiply()([kl.Reshape((96, 12))(y), kl.Reshape((96, 12))(y)])


def excited(x):
    gate = kl.Conv2D(8, 1, activation="sigmoid")(kl.GlobalAveragePooling2D(keepdims=True)(x))
    return kl.Multiply()([x, gate])


def inverted_residual(x):
    y = kl.ReLU(6)(normalized(kl.Conv2D(24, 1, use_bias=False)(x)))
    y = kl.ReLU(6)(normalized(kl.DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
    return kl.Add()([x, normalized(kl.Conv2D(8, 1, use_bias=False)(y))])


def multiplied_and_added(x):
    # What has no convolution before it: each of these becomes one of 1 x 1.
    y = kl.ReLU()(normalized(kl.Rescaling(0.5, offset=1.0)(x)))
    y = (2.5 - y * np.linspace(-1, 2, y.shape[-1], dtype="float32")) / 3.0
    y = kl.Normalization(mean=RNG.normal(size=8), variance=RNG.uniform(0.1, 1, 8))(y)
    return kl.Activation("hard_sigmoid")(y)


ONE = {
    "conv with bias": lambda x: biased(kl.Conv2D(12, 3, padding="same"))(x),
    "conv, batch norm, relu": lambda x: kl.ReLU()(normalized(kl.Conv2D(12, 3)(x))),
    "strided, dilated, grouped": lambda x: biased(kl.Conv2D(8, 3, dilation_rate=2, groups=2))(x),
    "depthwise, batch norm, relu6": lambda x: kl.ReLU(6)(
        normalized(kl.DepthwiseConv2D(3, depth_multiplier=2)(x))
    ),
    "dense, relu6": lambda x: biased(kl.Dense(10, activation="relu6"))(x),
    "dense, tanh": lambda x: biased(kl.Dense(10, activation="tanh"))(x),
    "transposed": lambda x: biased(kl.Conv2DTranspose(6, 3, 2, activation="relu"))(x),
    "separable": lambda x: kl.SeparableConv2D(6, 3)(x),
    "a shared layer": shared,
    "reshaped, with itself": with_itself,
    "squeeze and excitation": excited,
    "inverted residual": inverted_residual,
    "mean": lambda x: kl.GlobalAveragePooling2D()(x),
    "average pool": lambda x: kl.AveragePooling2D(2)(x),
    "average pool at the border": lambda x: kl.AveragePooling2D(3, 1, padding="same")(x),
    "leaky relu": lambda x: kl.LeakyReLU(0.2)(x),
    "silu": lambda x: kl.Activation("silu")(kl.Conv2D(5, 3, activation="silu")(x)),
    "hard swish": lambda x: kl.Activation("hard_silu")(
        biased(kl.Conv2D(5, 3, activation="hard_silu"))(x * 3.0)
    ),
    "factors and offsets": multiplied_and_added,
    "the same without an image": lambda x: multiplied_and_added(kl.Dense(8)(kl.Flatten()(x))),
}
TWO = {
    "sum": lambda a, b: kl.Add()([a, b]),
    "sum, relu": lambda a, b: kl.ReLU()(kl.Add()([a, b])),
    "difference": lambda a, b: kl.Subtract()([a, b]),
    "product": lambda a, b: kl.Multiply()([a, b]),
    "ops": lambda a, b: a * b + a,
    "sum of three, relu": lambda a, b: kl.ReLU()(kl.Add()([a, b, kl.Conv2D(8, 1)(a)])),
    "a shared sum of three": summed_twice,
    "product of three": lambda a, b: kl.Multiply()([a, b, kl.Conv2D(8, 1)(a)]),
    "mean of two": lambda a, b: kl.Average()([a, b]),
    "mean of three": lambda a, b: kl.Average()([a, b, kl.Conv2D(8, 1)(a)]),
}


def both(model, samples, path):
    """The output of the file, that of the simulation, and the step of its grid."""
    qmodel = sentei.quantize(model, calibration=samples)
    sentei.export(qmodel, path, io="int8", verify=False)
    runner = Runner(path)
    assert not take_census(runner.model).floating
    (port,) = runner.outputs.values()
    (file,) = runner(samples).values()
    return file, np.asarray(qmodel.predict(samples, verbose=0)), port.scale


@pytest.fixture(autouse=True)
def _the_same_weights_whatever_ran_before():
    keras.utils.set_random_seed(0)
    RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state


@pytest.mark.parametrize("name", [*ONE, *TWO])
def test_predict_is_what_xnnpack_computes(name, tmp_path):
    shape = IMAGES.shape[1:]
    inputs = [keras.Input(shape) for _ in range(1 if name in ONE else 2)]
    model = keras.Model(inputs, (ONE.get(name) or TWO[name])(*inputs))
    samples = [IMAGES, OTHERS][: len(inputs)]
    file, simulated, step = both(model, samples, tmp_path / "m.tflite")
    assert len(np.unique(file)) > 20  # of 256
    assert np.max(np.abs(file - simulated)) < 0.01 * step


def test_a_deep_network_does_not_drift(tmp_path):
    keras.utils.set_random_seed(1)
    x = y = keras.Input((12, 12, 8))
    for _ in range(6):
        y = inverted_residual(y)
    model = keras.Model(x, kl.Dense(50)(kl.GlobalAveragePooling2D()(y)))
    file, simulated, step = both(model, IMAGES, tmp_path / "m.tflite")
    assert np.max(np.abs(file - simulated)) < 0.01 * step
