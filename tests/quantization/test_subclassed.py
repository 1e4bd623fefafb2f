"""Subclassed models: their layers quantized one by one, saved, trained, and what stays float."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import UnsupportedModel
from sentei.quantization import Custom, quantized, quantizers, report

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 32)


@keras.saving.register_keras_serializable(__name__)
class Block(kl.Layer):
    def __init__(self, channels, **kwargs):
        super().__init__(**kwargs)
        self.channels = channels
        self.conv = kl.Conv2D(channels, 3, padding="same", name="conv")
        self.bn = kl.BatchNormalization(name="bn")
        self.relu = kl.ReLU(name="relu")

    def build(self, shape):
        self.conv.build(shape)
        self.bn.build((*shape[:-1], self.channels))
        self.built = True

    def call(self, x, training=None):
        return self.relu(self.bn(self.conv(x), training=training))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}


@keras.saving.register_keras_serializable(__name__)
class Network(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = Block(4, name="first"), Block(4, name="second")
        self.attention = kl.MultiHeadAttention(2, 4, name="attention")
        self.pool = kl.GlobalAveragePooling2D(name="pool")
        self.head = kl.Dense(4, name="head")

    def build(self, shape):
        self.first.build(shape)
        inner = (*shape[:-1], 4)
        self.second.build(inner)
        self.attention.build(inner, inner)
        self.head.build((shape[0], 4))
        self.built = True

    def call(self, x, training=None):
        x = self.first(x, training=training)
        x = x + 0.5 * ops.sin(self.second(x, training=training))  # code of its own
        return self.head(self.pool(x + self.attention(x, x)))


def network():
    model = Network(name="net")
    model.build((None, 8, 8, 3))
    return model


def test_each_layer_is_rounded_and_the_rest_is_named():
    model = network()
    qmodel = sentei.quantize(model, calibration=X)
    names = [name for name, _ in quantizers(qmodel)]
    assert {"first/conv/kernel", "second/conv/kernel", "head/kernel"} <= set(names)
    activations = ["first/conv/input", "first/relu", "second/relu", "pool/input", "pool", "head"]
    assert [n for n in names if not n.endswith(("kernel", "embeddings"))] == activations
    floats = {found.name: found.reason for found in quantized(qmodel).plan.floats}
    assert floats == {
        "attention": "MultiHeadAttention has no integer form in LiteRT",
        "net": "what its own code computes between layers is not seen",
    }
    found, plain = qmodel.predict(X, verbose=0), model.predict(X, verbose=0)
    step = dict(quantizers(qmodel))["head"].grid()
    np.testing.assert_allclose(found, step.dequantize(step.quantize(found)), atol=1e-6)
    assert 0 < np.abs(found - plain).max() < 0.1 * np.abs(plain).max()
    assert report(qmodel, X[:8]).rows
    assert "call" not in vars(model.first.conv) and sentei.strip(qmodel) is model


def test_with_nothing_rounded_it_is_the_model():
    model = network()
    scheme = Custom(weight_bits=None, activation_bits=None)
    qmodel = sentei.quantize(model, scheme, calibration=X)
    np.testing.assert_array_equal(qmodel.predict(X, verbose=0), model.predict(X, verbose=0))


def test_it_trains_saves_and_loads(tmp_path):
    model = network()
    qmodel = sentei.quantize(model)  # as it was built
    qmodel.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    losses = qmodel.fit(X, Y, epochs=4, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    assert dict(quantizers(qmodel))["head"].grid().scale[0] > 0
    qmodel.save(tmp_path / "q.keras")
    loaded = keras.models.load_model(tmp_path / "q.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))


def test_what_it_cannot_see_is_refused_by_name():
    class Loose(keras.Model):
        def __init__(self):
            super().__init__(name="loose")
            self.head = kl.Dense(2)

        def call(self, given):
            return self.head(given["a"] + given["b"])

    model = Loose()
    given = {"a": X[:, 0, 0], "b": X[:, 0, 1]}
    model(given)
    with pytest.raises(UnsupportedModel, match=r"'loose' .* does not know what it is called with"):
        sentei.quantize(model)
    qmodel = sentei.quantize(model, calibration=given)
    step = dict(quantizers(qmodel))[
        "dense" if "dense" in dict(quantizers(qmodel)) else model.head.name
    ]
    found = qmodel.predict(given, verbose=0)
    np.testing.assert_allclose(
        found, model.predict(given, verbose=0), atol=3 * step.grid().scale[0]
    )
