"""Batch normalization's statistics, estimated anew: against moments that numpy computes."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import SenteiError
from sentei.sparsity import ConstantSparsity

pytestmark = pytest.mark.core

RNG = np.random.default_rng(0)
X = (RNG.normal(size=(96, 5)) * 2 + 1).astype("float32")


def dense_network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), name="x")
    y = kl.BatchNormalization(name="first")(kl.Dense(6, name="one")(inputs))
    y = keras.Sequential([kl.Dropout(0.5), kl.Dense(4), kl.BatchNormalization(name="second")])(y)
    return keras.Model(inputs, y)


def statistics(layer):
    return [ops.convert_to_numpy(v) for v in (layer.moving_mean, layer.moving_variance)]


@pytest.mark.parametrize("data", [X, {"x": X}, [(X[:60], 0), (X[60:], 0)]], ids=type)
def test_it_is_the_mean_and_the_variance_of_all_that_a_layer_sees(data):
    model = dense_network()
    weights = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    assert sentei.update_batch_norm(model, data, batch_size=40) is model
    kernel, bias = weights[:2]
    seen = X.astype("float64") @ kernel + bias
    mean, variance = statistics(model.get_layer("first"))
    np.testing.assert_allclose(mean, seen.mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(variance, seen.var(axis=0), rtol=1e-5)
    for before, after in zip(weights, model.trainable_variables, strict=True):
        np.testing.assert_array_equal(before, ops.convert_to_numpy(after))
    # Layers work as ever afterwards.
    assert model.get_layer("first").momentum == 0.99
    x_hat = (seen - mean) / np.sqrt(variance + 1e-3)
    first = keras.Model(model.input, model.get_layer("first").output)
    np.testing.assert_allclose(
        ops.convert_to_numpy(first(X, training=False)), x_hat, rtol=1e-4, atol=1e-4
    )


def test_a_layer_behind_another_sees_batches_normalized_as_in_training():
    model = dense_network()
    sentei.update_batch_norm(model, X, batch_size=96)
    inner = model.layers[-1]
    first = model.get_layer("first")(
        model.get_layer("one")(ops.convert_to_tensor(X)), training=True
    )
    seen = ops.convert_to_numpy(inner.layers[1](first))  # without dropout
    mean, variance = statistics(inner.get_layer("second"))
    np.testing.assert_allclose(mean, seen.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, seen.var(axis=0), rtol=1e-4)


def test_frozen_layers_keep_theirs_and_masked_steps_do_not_count():
    x = RNG.normal(size=(8, 6, 3)).astype("float32")
    x[:, 4:] = 0.0
    inputs = keras.Input((6, 3))
    frozen = kl.BatchNormalization(trainable=False)
    norm = kl.BatchNormalization()
    model = keras.Model(inputs, frozen(norm(kl.Masking()(inputs))))
    sentei.update_batch_norm(model, x)
    mean, variance = statistics(norm)
    np.testing.assert_allclose(mean, x[:, :4].mean(axis=(0, 1)), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, x[:, :4].var(axis=(0, 1)), rtol=1e-4)
    np.testing.assert_array_equal(statistics(frozen), [np.zeros(3), np.ones(3)])


@keras.saving.register_keras_serializable(__name__)
class Around(keras.Model):
    def __init__(self):
        super().__init__()
        self.inner = dense_network()

    def call(self, x, training=None):
        return self.inner(x, training=training)


@pytest.mark.parametrize("kind", ["pruned", "quantized", "subclassed"])
def test_models_of_every_kind(kind):
    model = network = dense_network()
    if kind == "pruned":
        model.compile("adam", "mse")
        sentei.prune(model, ConstantSparsity(0.5))
        model.fit(X, np.zeros((96, 4)), verbose=0)
    if kind == "subclassed":
        model = Around()
        model(X)
        network = model.inner
    if kind == "quantized":
        model = sentei.quantize(network, calibration=X)
        network = model.layers[-1].float_model
    sentei.update_batch_norm(model, X)
    one, first = network.get_layer("one"), network.get_layer("first")
    kernel, inputs = ops.convert_to_numpy(one.kernel), X
    if kind == "quantized":
        step = np.abs(kernel).max(axis=0) / 127
        kernel = np.round(kernel / step) * step
        (grid,) = [q.grid() for _, q in sentei.quantization.quantizers(model) if q.label == "x"]
        integers = np.clip(np.round(X / grid.scale) + grid.zero_point, -128, 127)
        inputs = (integers - grid.zero_point) * grid.scale
    seen = inputs @ kernel + ops.convert_to_numpy(one.bias)
    mean, variance = statistics(first)
    np.testing.assert_allclose(mean, seen.mean(axis=0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(variance, seen.var(axis=0), rtol=1e-4, atol=1e-6)


def test_a_sequential_model_that_was_never_called():
    # It has no `input` before that.
    model = keras.Sequential([keras.Input((5,)), kl.BatchNormalization()])
    sentei.update_batch_norm(model, X)
    mean, _ = statistics(model.layers[0])
    np.testing.assert_allclose(mean, X.mean(axis=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X[:0], "data is empty"),
        (X[:, :4], r"have the shape \(96, 4\)"),
        (np.full((4, 5), np.nan, "float32"), "not finite"),
        ([X, np.full((4, 5), 1e30, "float32")], "'first' sees is not finite"),
    ],
)
def test_bad_data_leaves_a_model_as_it_was(data, message):
    model = dense_network()
    sentei.update_batch_norm(model, X)
    before = statistics(model.get_layer("first"))
    with pytest.raises(SenteiError, match=message):
        sentei.update_batch_norm(model, data)
    np.testing.assert_array_equal(before, statistics(model.get_layer("first")))
    assert model.get_layer("first").momentum == 0.99


def test_what_has_no_statistics_is_refused_by_name_or_left_alone():
    with pytest.raises(SenteiError, match="built"):
        sentei.update_batch_norm(keras.Sequential([kl.BatchNormalization()]), X)
    model = keras.Sequential([keras.Input((5,)), kl.BatchNormalization(renorm=True, name="again")])
    with pytest.raises(SenteiError, match="'again' renormalizes"):
        sentei.update_batch_norm(model, X)
    plain = keras.Sequential([keras.Input((5,)), kl.Dense(2)])
    assert sentei.update_batch_norm(plain, X) is plain
