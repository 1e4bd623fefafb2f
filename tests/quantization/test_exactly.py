"""Numbers that are worked out twice, by a compiler and by numpy: the same to the last bit."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.litert import flatbuffer
from sentei.quantization import exactly
from sentei.quantization.quantize import quantized

CHANNELS = 20_000


class Computed(kl.Layer):
    """What a function makes of variables, in a program as `predict` compiles it."""

    def __init__(self, function, *arrays, owner=None):
        super().__init__()
        self.function = function
        self.owner = owner  # its variables are the program's arguments, not constants
        self.held = [self.add_weight(shape=a.shape, initializer="zeros") for a in arrays]
        for variable, array in zip(self.held, arrays, strict=True):
            variable.assign(array)

    def call(self, x):
        values = self.function(*[ops.convert_to_tensor(variable) for variable in self.held])
        return ops.expand_dims(values, 0) + 0.0 * ops.sum(x)


def compiled(function, *arrays, owner=None):
    x = keras.Input((1,))
    model = keras.Model(x, Computed(function, *arrays, owner=owner)(x))
    return model.predict(np.zeros((1, 1), "float32"), verbose=0)[0]


@pytest.mark.core
@pytest.mark.parametrize(
    "function",
    {
        "one divisor": lambda xp, a, b: exactly.quotient(a, b[:1], xp),
        "of a product": lambda xp, a, b: exactly.quotient(exactly.product(a, b, xp), b[:1], xp),
        "of a quotient": lambda xp, a, b: exactly.quotient(exactly.quotient(a, b, xp), b[:1], xp),
        "by a quotient": lambda xp, a, b: exactly.quotient(a, exactly.quotient(b, a, xp), xp),
        "by a root": lambda xp, a, b: exactly.quotient(a, exactly.root(b, xp), xp),
        "product and sum": lambda xp, a, b: exactly.product(a, b, xp) + a,
        "one over": lambda xp, a, b: exactly.inverse(b, xp) * a,
        "by a constant": lambda xp, a, b: exactly.quotient(a, np.float32(3.0), xp),
    }.items(),
    ids=lambda item: item[0],
)
def test_no_compiler_changes_the_last_bit(function):
    rng = np.random.default_rng(0)
    a = rng.normal(size=CHANNELS).astype("float32")
    b = rng.lognormal(size=CHANNELS).astype("float32")
    found = compiled(lambda a, b: function[1](ops, a, b), a, b)
    np.testing.assert_array_equal(found, function[1](np, a, b))


@pytest.mark.core
def test_factors_and_biases_of_trained_statistics_are_those_of_the_file():
    # Of untrained ones all are 1 and 0. A bias beside a tie moved a whole channel of MobileNetV2.
    rng = np.random.default_rng(0)
    x = keras.Input((2, 2, 4))
    normalization = kl.BatchNormalization()
    model = keras.Model(x, normalization(kl.Conv2D(CHANNELS, 1)(x)))
    variance = rng.lognormal(size=CHANNELS)
    gamma, beta, mean = rng.normal(size=(3, CHANNELS))
    normalization.set_weights([gamma, beta, mean, variance])
    model.layers[1].bias.assign(rng.normal(size=CHANNELS))
    qmodel = sentei.quantize(model, calibration=rng.normal(size=(8, 2, 2, 4)).astype("float32"))
    layer = quantized(qmodel)
    (exact,) = (e for e in layer.plan.exact.values() if e.contraction is not None)
    found = exact.contraction
    image, kernel = layer.quantizer_of(found.image), layer.by_name[found.kernel]
    wanted = found.folded(image.grid().scale, kernel.grid().scale, np)
    for part in ("factor", "step", "bias", "real"):
        ours = compiled(
            lambda part=part: getattr(found.folded(image.numbers()[0], kernel.numbers()[0]), part),
            owner=qmodel,
        )
        np.testing.assert_array_equal(ours, getattr(wanted, part), part)


def kernel_of(quantizer):
    return quantizer.variable.value


def beside_ties(channels, rows=64):
    """A kernel whose numbers are next to halves of its steps, on either side and upon them."""
    rng = np.random.default_rng(0)
    step = rng.uniform(1e-3, 2e-3, channels).astype("float32")
    halves = ((rng.integers(-126, 126, (rows, channels)) + 0.5) * step).astype("float32")
    for _ in range(2):
        halves = np.nextafter(halves, rng.choice([-1, 1], halves.shape), dtype="float32")
    return np.concatenate([127 * step[None], halves]).astype("float32")


@pytest.mark.core
def test_a_weight_beside_a_tie_is_one_integer_everywhere():
    # XLA multiplies by the reciprocal of a scale: one weight in a million was another integer.
    kernel = beside_ties(500)
    x = keras.Input((len(kernel),))
    model = keras.Model(x, kl.Dense(500, use_bias=False)(x))
    model.layers[1].kernel.assign(kernel)
    qmodel = sentei.quantize(model, calibration=np.eye(len(kernel), dtype="float32"))
    quantizer = next(q for q in quantized(qmodel).quantizers.values() if q.kind.axis == 1)
    grid = quantizer.grid()
    inverse = (np.float32(1) / grid.scale).astype("float32")
    wanted = np.clip(np.rint(kernel * inverse), -127, 127)
    np.testing.assert_array_equal(grid.quantize(kernel), wanted)
    found = compiled(lambda: ops.reshape(quantizer(kernel_of(quantizer)), (-1,)), owner=qmodel)
    np.testing.assert_array_equal(np.rint(found.reshape(kernel.shape) / grid.scale), wanted)


@pytest.mark.parametrize("normalized", [False, True])
def test_a_file_holds_the_integers_of_weights_beside_ties(normalized, tmp_path):
    kernel = beside_ties(500)
    x = keras.Input((len(kernel),))
    y = kl.Dense(500)(x)
    model = keras.Model(x, kl.BatchNormalization(gamma_initializer="random_normal")(y))
    model = model if normalized else keras.Model(x, y)
    model.layers[1].kernel.assign(kernel)
    samples = np.random.default_rng(0).normal(size=(16, len(kernel))).astype("float32")
    qmodel = sentei.quantize(model, calibration=samples)
    sentei.export(qmodel, tmp_path / "m.tflite")
    tensors = flatbuffer.load(tmp_path / "m.tflite").subgraphs[0].tensors
    (held,) = (t for t in tensors if t.buffer is not None and t.dtype == "int8")
    scale = np.abs(kernel).max(0) * np.float32(1 / 127)
    wanted = np.clip(np.rint(kernel * (np.float32(1) / scale)), -127, 127)
    if normalized:
        wanted *= np.sign(keras.ops.convert_to_numpy(model.layers[2].gamma))
    np.testing.assert_array_equal(held.values().reshape(held.shape).T, wanted)
