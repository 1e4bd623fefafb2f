"""Faults that were met, each by name."""

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei.quantization import quantizers

pytestmark = pytest.mark.core


def images():
    return np.random.default_rng(0).random((16, 8, 8, 1), dtype="float32")


def test_augmentation_rests_at_inference_though_the_graph_was_built_training():
    # RandomFlip's `training` is true by default, and Keras writes that into the graph.
    inputs = keras.Input((8, 8, 1))
    outputs = keras.layers.Conv2D(2, 3)(keras.layers.RandomFlip()(inputs))
    model = keras.Model(inputs, outputs)
    quantized = sentei.quantize(model, calibration=images())
    x = keras.ops.convert_to_tensor(images())
    found = keras.ops.convert_to_numpy(quantized(x, training=False))
    wanted = keras.ops.convert_to_numpy(model(x, training=False))
    np.testing.assert_allclose(found, wanted, atol=0.05)  # a flip would be off by whole pixels


def test_a_compiled_float_model_keeps_its_metrics_to_itself():
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    )
    settings = {"loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True)}
    model.compile("sgd", metrics=["accuracy"], **settings)
    y = np.arange(16) % 3
    model.fit(images(), y, verbose=0)
    quantized = sentei.quantize(model, calibration=images())
    quantized.compile("sgd", metrics=["accuracy"], **settings)
    loss, accuracy = quantized.evaluate(images(), y, verbose=0)
    scores = quantized.predict(images(), verbose=0)
    assert accuracy == pytest.approx(np.mean(scores.argmax(-1) == y))
    assert loss > 0


def test_a_sum_is_computed_and_its_padding_is_not_at_every_run():
    # Verification tells by this what the file must hold; it took the second run's sum for moved.
    x = keras.Input((8, 8, 4))
    y = kl.ReLU(name="sum")(kl.Add()([kl.Conv2D(4, 1)(x), kl.Conv2D(4, 1)(x)]))
    model = keras.Model(x, kl.Conv2D(4, 3)(kl.ZeroPadding2D(1)(y)))
    maps = np.random.default_rng(0).normal(size=(4, 8, 8, 4)).astype("float32")
    qmodel = sentei.quantize(model, calibration=maps)
    (quantizer,) = [q for name, q in quantizers(qmodel) if name == "sum"]
    seen = []
    quantizer.stand_in = lambda x, grid, in_steps=False: seen.append(quantizer.moved) or x
    for _ in range(2):
        qmodel(maps)
    assert seen == [False, True, False, True]
