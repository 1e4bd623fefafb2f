"""Blocks of pixels moved into channels and back: one operator, and the same numbers."""

import keras
import numpy as np
import pytest
from keras import layers

import sentei
from sentei.litert.runtime import Runner

_EXCHANGE = (1, 3, 2, 4, 5)


def _outward(x, block, order=_EXCHANGE):
    """Channels to blocks of pixels, as programs say it."""
    _, rows, columns, depth = x.shape
    channels = depth // block**2
    x = layers.Reshape((rows, columns, block, block, channels))(x)
    return layers.Reshape((rows * block, columns * block, channels))(layers.Permute(order)(x))


def _inward(x, block):
    """Blocks of pixels to channels."""
    _, rows, columns, channels = x.shape
    x = layers.Reshape((rows // block, block, columns // block, block, channels))(x)
    x = layers.Permute(_EXCHANGE)(x)
    return layers.Reshape((rows // block, columns // block, channels * block**2))(x)


def _pixel_by_pixel(x, block):
    """What DEPTH_TO_SPACE is, by its definition: channel `(i * block + j) * c + k` of a pixel goes
    to row `i` and column `j` of its block."""
    batch, rows, columns, depth = x.shape
    channels = depth // block**2
    out = np.zeros((batch, rows * block, columns * block, channels), x.dtype)
    for i in range(block):
        for j in range(block):
            start = (i * block + j) * channels
            out[:, i::block, j::block] = x[..., start : start + channels]
    return out


@pytest.mark.parametrize("batch_size", [2, None])
@pytest.mark.parametrize("block", [2, 3])
def test_each_way_is_one_operator(block, batch_size, tmp_path):
    deep = keras.Input((4, 6, block**2 * 5), name="deep")
    wide = keras.Input((4 * block, 6 * block, 5), name="wide")
    model = keras.Model([deep, wide], [_outward(deep, block), _inward(wide, block)])
    path = tmp_path / "m.tflite"
    report = sentei.export(model, path, batch_size=batch_size)
    assert report.operators == {"DEPTH_TO_SPACE": 1, "SPACE_TO_DEPTH": 1}
    x = np.random.default_rng(0).normal(size=(2, *deep.shape[1:])).astype("float32")
    image = _pixel_by_pixel(x, block)
    found = {y.shape: y for y in Runner(path)({"deep": x, "wide": image}).values()}
    np.testing.assert_array_equal(found[image.shape], image)
    np.testing.assert_array_equal(found[x.shape], x)


def test_integers_move_as_real_numbers_do(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6, 4, 3))
    model = keras.Model(inputs, _outward(layers.Conv2D(12, 3, padding="same")(inputs), 2))
    data = np.random.default_rng(0).normal(size=(8, 6, 4, 3)).astype("float32")
    report = sentei.export(model, tmp_path / "m.tflite", quantize="int8", calibration=data)
    assert report.operators["DEPTH_TO_SPACE"] == 1
    assert report.integers is not None and not report.integers.census.floating


def test_other_orders_stay_three_operators(tmp_path):
    """PyTorch's order of channels is another function."""
    inputs = keras.Input((4, 4, 8))
    model = keras.Model(inputs, _outward(inputs, 2, (1, 4, 2, 3, 5)))
    assert "DEPTH_TO_SPACE" not in sentei.export(model, tmp_path / "m.tflite").operators


def test_what_is_read_in_between_stays(tmp_path):
    inputs = keras.Input((4, 4, 8))
    split = layers.Reshape((4, 4, 2, 2, 2))(inputs)
    merged = layers.Reshape((8, 8, 2))(layers.Permute(_EXCHANGE)(split))
    model = keras.Model(inputs, [merged, split])
    assert sentei.export(model, tmp_path / "m.tflite").operators == {"RESHAPE": 2, "TRANSPOSE": 1}


def test_regression_integers_of_six_axes_are_exported(tmp_path):
    """The converter refused to quantize a tensor of more than five axes."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(inputs)
    x = layers.Reshape((2, 4, 2, 4, 4))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)  # windows, as in a Swin transformer
    x = layers.Add()([layers.ReLU()(x), x])
    x = layers.Dense(5)(layers.Reshape((4, 16, 4))(x))
    model = keras.Model(inputs, x)
    data = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")
    report = sentei.export(model, tmp_path / "m.tflite", quantize="int8", calibration=data)
    assert report.integers is not None and not report.integers.census.floating
