"""Quantized models made by hand, exported: integers, scales, census, ends, and what is refused."""

import hand_quantized
import keras
import numpy as np
import pytest
from hand_quantized import Grids, OnGrid
from keras import layers

import sentei
from sentei.core.errors import ExportMismatch, SenteiError
from sentei.litert import composite, export, flatbuffer, trace
from sentei.litert.runtime import Runner


@pytest.fixture(autouse=True)
def _by_hand(monkeypatch):
    # Imported beforehand: a module that is imported now would keep the stand-in.
    for module in (composite, export, trace):
        monkeypatch.setattr(module, "quantizers_of", hand_quantized.quantizers)


def randomized(model, seed=0):
    """Gives biases and normalizations numbers that a wrong fold would show."""
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if any(word in variable.name for word in ("moving_mean", "bias", "beta")):
            variable.assign(generator.normal(size=variable.shape) * 0.2)
        elif "gamma" in variable.name:
            variable.assign(generator.normal(size=variable.shape) + 0.3)
        elif "moving_variance" in variable.name:
            variable.assign(generator.uniform(0.5, 2.0, size=variable.shape))
    return model


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="image")
    x = Grids(0.021, 3)(inputs)
    x = OnGrid(layers.Conv2D(8, 3, padding="same", name="conv"))(x)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = Grids(0.011, -128)(x)
    x = OnGrid(layers.DepthwiseConv2D(3, padding="same", name="depth"), axis=2)(x)
    x = layers.ReLU(max_value=6.0)(layers.BatchNormalization(name="silenced")(x))
    y = Grids(0.0083, -128)(x)
    x = OnGrid(layers.Conv2D(8, 1, use_bias=False, name="point"))(y)
    x = Grids(0.013, 1)(layers.BatchNormalization()(x))
    x = Grids(0.0171, -10)(layers.Add()([x, y]))
    x = Grids(0.0057, -20)(layers.GlobalAveragePooling2D()(x))
    x = OnGrid(layers.Dense(16, name="hidden"))(x)
    x = Grids(0.0123, 5)(layers.BatchNormalization()(x))
    x = Grids(0.0142, 5)(OnGrid(layers.Dense(10, name="scores"))(x))
    model = randomized(keras.Model(inputs, Grids(1 / 256, -128, name="out")(layers.Softmax()(x))))
    gamma = model.get_layer("silenced").gamma
    gamma.assign(np.array(gamma) * (np.arange(8) > 0))
    return model


def stored_integers(path):
    """Kernels of a file: shape → integers and scales, output channels first."""
    return {
        tensor.name: (tensor.data().astype(int), tensor.quantization)
        for tensor in flatbuffer.load(path).tensors()
        if tensor.dtype == "int8" and tensor.data() is not None
    }


@pytest.fixture(scope="module")
def model():
    return network()


def test_everything_is_integers_and_each_is_as_simulated(model, tmp_path):
    images = np.random.default_rng(1).normal(size=(32, 16, 16, 3)).astype(np.float32)
    report = sentei.export(model, tmp_path / "m.tflite", verify=images)
    assert report.operators == {
        "QUANTIZE": 1,
        "CONV_2D": 2,
        "DEPTHWISE_CONV_2D": 1,
        "ADD": 1,
        "MEAN": 1,
        "FULLY_CONNECTED": 2,
        "SOFTMAX": 1,
        "DEQUANTIZE": 1,
    }
    check = report.integers
    assert (check.census.integer, check.census.floating, check.census.conversions) == (8, {}, 2)
    assert len(check.tensors) == 2 * 9
    assert all(tensor.largest <= 1 for tensor in check.tensors)
    assert all(t.exact > 0.999 for t in check.tensors if t.kernels == "xnnpack")
    assert check.agreement >= 0.995
    assert report.dtypes["float32"] == 2
    # An oracle of its own: the simulation, run by Keras, against the file on XNNPACK.
    want = np.asarray(model(images))
    have = Runner(tmp_path / "m.tflite")(images)["out"]
    assert np.abs(want - have).max() <= 2 / 256


def test_folding_moves_no_integer(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 4), name="image")
    x = OnGrid(layers.DepthwiseConv2D(3, depth_multiplier=1, name="depth"), axis=2)(
        Grids(0.02, 0)(inputs)
    )
    normal = layers.BatchNormalization()
    model = keras.Model(inputs, Grids(0.03, 0)(normal(x)))
    randomized(model)
    gamma, variance = np.array(normal.gamma), np.array(normal.moving_variance)
    assert (gamma < 0).any()
    sentei.export(model, tmp_path / "m.tflite")
    kernel = np.array(model.get_layer("q_depth").layer.kernel)[..., 0]
    scale = np.abs(kernel).max((0, 1)) / 127
    ((integers, grid),) = stored_integers(tmp_path / "m.tflite").values()
    factor = gamma / np.sqrt(variance + normal.epsilon)
    np.testing.assert_array_equal(integers[0], np.rint(kernel / scale) * np.sign(factor))
    np.testing.assert_allclose(grid.scale, scale * np.abs(factor), rtol=1e-6)


def test_integer_ends(model, tmp_path):
    sentei.export(model, tmp_path / "f.tflite")
    report = sentei.export(model, tmp_path / "i.tflite", io="int8")
    assert [spec.dtype for spec in (*report.inputs, *report.outputs)] == ["int8", "int8"]
    assert set(report.dtypes) == {"int8", "int32"}
    assert report.integers.census.conversions == 0
    images = np.random.default_rng(1).normal(size=(8, 16, 16, 3)).astype(np.float32)
    real, whole = Runner(tmp_path / "f.tflite"), Runner(tmp_path / "i.tflite")
    assert list(whole.inputs) == ["image"]
    np.testing.assert_array_equal(real(images)["out"], whole(images)["out"])
    assert whole(images, raw=True)["out"].dtype == np.int8
    assert sentei.benchmark([tmp_path / "i.tflite"], runs=2) is not None


def test_ends_that_are_computed_with_are_refused(tmp_path):
    inputs = keras.Input((8,), name="x")
    y = Grids(0.02, 0)(inputs)
    model = keras.Model(inputs, layers.Add()([Grids(0.02, 0)(layers.ReLU()(y)), inputs]))
    with pytest.raises(SenteiError, match="io='float'"):
        sentei.export(model, tmp_path / "no.tflite", io="int8", verify=False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"io": "int16"}, "must be 'float' or 'int8'"),
        ({"quantize": "dynamic"}, "is for float models"),
        ({"quantize": "int8", "calibration": np.zeros((2, 16, 16, 3))}, "quantized already"),
    ],
)
def test_contradictions_are_refused(model, tmp_path, keywords, message):
    with pytest.raises(SenteiError, match=message):
        sentei.export(model, tmp_path / "no.tflite", **keywords)


def test_a_wrong_scale_in_the_file_is_found_and_named(model, tmp_path, monkeypatch):
    """The file marks a kernel on a grid a little coarser than the simulation's."""
    honest = composite.marked

    def coarser(x, scale, zero_point, bits, narrow, axis):
        return honest(
            x, scale * (1.1 if np.size(scale) == 10 else 1), zero_point, bits, narrow, axis
        )

    monkeypatch.setattr(composite, "marked", coarser)
    with pytest.raises(ExportMismatch, match=r"'grids.*is the first tensor.*FULLY_CONNECTED"):
        sentei.export(model, tmp_path / "no.tflite")
    assert not list(tmp_path.iterdir())


def test_a_missing_grid_shows_in_the_census(tmp_path):
    inputs = keras.Input((8, 8, 4), name="image")
    x = OnGrid(layers.Conv2D(4, 3, name="conv"))(Grids(0.02, 0)(inputs))
    x = layers.MaxPooling2D(2)(layers.ReLU()(layers.Add()([x, x])))
    report = sentei.export(keras.Model(inputs, Grids(0.03, -128)(x)), tmp_path / "m.tflite")
    assert report.integers.census.floating
