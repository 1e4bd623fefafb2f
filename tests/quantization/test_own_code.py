"""Layers of a quantized model that run by code of the user's own."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei.core.errors import SenteiError
from sentei.quantization import OwnCode, quantizers

X = np.random.default_rng(0).normal(size=(32, 5)).astype("float32")


@keras.saving.register_keras_serializable(__name__)
class Halved(kl.Layer):
    """What a layer gives, halved, and how often it was asked for it in training."""

    def __init__(self, layer):
        super().__init__(autocast=False)
        self.layer = layer
        self.count = self.add_weight(shape=(), initializer="zeros", trainable=False, name="count")
        self.built = True

    def call(self, x, training=False):
        if training:
            self.count.assign(self.count.value + 1.0)
        return self.layer(x) / 2


@keras.saving.register_keras_serializable(__name__)
class Halving(OwnCode):
    def around(self, layer):
        return Halved(layer)


@keras.saving.register_keras_serializable(__name__)
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one = kl.Dense(3, name="one")

    def call(self, x):
        return self.one(x)


@pytest.mark.core
def test_it_runs_in_place_of_the_layer_wherever_it_is_called(tmp_path):
    x = keras.Input((5,), name="x")
    shared = kl.Dense(5, name="shared")
    model = keras.Model(x, kl.Dense(2, name="last")(shared(shared(x))))
    qmodel = sentei.quantize(model, layers={"shared": Halving(), "last": None})
    assert [name for name, _ in quantizers(qmodel)] == ["x"]
    kernel, bias, last, other = model.get_weights()
    expected = (X @ kernel + bias) / 2
    expected = ((expected @ kernel + bias) / 2) @ last + other
    np.testing.assert_allclose(qmodel.predict(X, verbose=0), expected, atol=1e-5)
    assert len(qmodel.trainable_variables) == 4
    qmodel.compile("sgd", "mse")
    qmodel.fit(X, np.zeros((32, 2)), batch_size=8, verbose=0)
    assert not np.array_equal(model.get_weights()[0], kernel)
    (count,) = [float(v.value) for v in qmodel.variables if v.name == "count"]
    assert count == 8  # four batches, two calls
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    assert sentei.strip(qmodel) is model


def test_it_is_refused_in_a_subclassed_model():
    model = Subclassed()
    model(X)
    with pytest.raises(SenteiError, match="OwnCode is for layers of a Sequential or Functional"):
        sentei.quantize(model, layers={"one": Halving()})
