"""Choices among numbers in quantized models: the file computes what was simulated."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei

IMAGES = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype("float32")


def gated(x):
    return ops.where(x > 0.3, x, x * 0.1 - 0.27)


ACTIVATIONS = {
    "elu": kl.ELU(),
    "a lower elu": kl.ELU(0.5),
    "selu": kl.Activation("selu"),
    "hard tanh": kl.Activation("hard_tanh"),
    "a threshold": kl.ReLU(threshold=0.3),
    "one's own": kl.Lambda(gated),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_a_choice_is_not_rounded_to_the_grid_of_what_is_chosen(name, tmp_path):
    # An ELU was refused, 0.8 % of its integers being others; one of 0.5 was 20 steps off.
    keras.utils.set_random_seed(0)
    x = keras.Input(IMAGES.shape[1:])
    y = ACTIVATIONS[name](kl.Conv2D(8, 3, padding="same")(x))
    model = keras.Model(x, kl.Dense(5)(kl.GlobalAveragePooling2D()(y)))
    qmodel = sentei.quantize(model, calibration=IMAGES)
    report = sentei.export(qmodel, tmp_path / "m.tflite", verify=IMAGES)
    chosen = [c for c in report.integers.tensors if c.kernels == "xnnpack"]
    assert all(check.exact == 1.0 for check in chosen), report.integers.table()
