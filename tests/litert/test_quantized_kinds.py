"""Operators one by one on hand-made grids: which become integers, and how far they round apart."""

import hand_quantized
import keras
import numpy as np
import pytest
from hand_quantized import Grids, OnGrid
from keras import layers

import sentei
from sentei.litert import export, trace

MAP, ROW = (8, 8, 8), (12, 8)


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    for module in (export, trace):
        monkeypatch.setattr(module, "quantizers_of", hand_quantized.quantizers)


def normal(layer):
    return lambda x: layers.BatchNormalization()(layer(x))


# name → (function of a tensor on a grid, its shape, the output's scale (None: the input's), zero
# point, bits of the activations, the operators that remain float)
KINDS = {
    "conv1d + norm": (lambda: normal(OnGrid(layers.Conv1D(8, 3))), ROW, 0.0373, 3, 8, {}),
    "conv2d dilated": (lambda: OnGrid(layers.Conv2D(8, 3, dilation_rate=2)), MAP, 0.0373, 0, 8, {}),
    "conv2d groups": (lambda: OnGrid(layers.Conv2D(8, 3, groups=2)), MAP, 0.0373, 0, 8, {}),
    "transposed + norm": (
        lambda: normal(OnGrid(layers.Conv2DTranspose(8, 3, strides=2, padding="same"), axis=2)),
        MAP,
        0.0373,
        0,
        8,
        {},
    ),
    "depthwise twofold + norm": (
        lambda: normal(OnGrid(layers.DepthwiseConv2D(3, depth_multiplier=2), axis=2)),
        MAP,
        0.0373,
        0,
        8,
        {},
    ),
    "dense on rows + norm": (lambda: normal(OnGrid(layers.Dense(8))), ROW, 0.0373, 0, 8, {}),
    "average pool": (lambda: layers.AveragePooling2D(2), MAP, None, 0, 8, {}),
    "padding": (lambda: layers.ZeroPadding2D(1), MAP, None, 0, 8, {}),
    "gelu": (lambda: layers.Activation("gelu"), MAP, 0.0297, -100, 8, {}),
    "sigmoid": (lambda: layers.Activation("sigmoid"), MAP, 1 / 256, -128, 8, {}),
    "tanh": (lambda: layers.Activation("tanh"), MAP, 1 / 128, 0, 8, {}),
    "int16 conv": (lambda: OnGrid(layers.Conv2D(8, 3)), MAP, 0.000213, 0, 16, {}),
    "int16 depthwise": (lambda: OnGrid(layers.DepthwiseConv2D(3), axis=2), MAP, 2e-4, 0, 16, {}),
    "int16 dense": (lambda: OnGrid(layers.Dense(8)), (8,), 0.000213, 0, 16, {}),
    "norm alone": (lambda: layers.BatchNormalization(), MAP, 0.03, 0, 8, {"MUL": 1, "ADD": 1}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_kinds_become_integers(name, tmp_path):
    make, shape, scale, zero, bits, floating = KINDS[name]
    keras.utils.set_random_seed(0)
    inputs = keras.Input(shape, name="x")
    entry = Grids(0.0313 if bits == 8 else 0.000117, 0, bits)
    leave = entry if scale is None else Grids(scale, zero, bits)
    model = keras.Model(inputs, leave(make()(entry(inputs))))
    draw = np.random.default_rng(3)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(draw.normal(size=variable.shape) * 0.2)
        elif variable.name == "gamma":
            variable.assign(draw.normal(size=variable.shape) + 0.3)
    report = sentei.export(model, tmp_path / "m.tflite")
    assert report.integers.census.floating == floating, report.operators
    assert len(report.integers.tensors) == 4  # input and output, by two kinds of kernels
    assert max(tensor.largest for tensor in report.integers.tensors) <= 1
