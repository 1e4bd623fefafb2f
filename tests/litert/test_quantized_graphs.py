"""Random small graphs, quantized by `sentei.quantize` and exported: integers as simulated."""

import keras
import numpy as np
import pytest
from keras import layers

import sentei
from sentei.litert.runtime import Runner
from sentei.quantization import Custom, quantized

SIZE = 8
# Each takes the generator and feature maps of shape (SIZE, SIZE, 8), and gives such a map.
_RELU = (None, "relu", "relu6")


def _convolution(draw, a, b):
    x = layers.Conv2D(
        8, int(draw.choice([1, 3])), padding="same", use_bias=bool(draw.random() < 0.5)
    )(a)
    if draw.random() < 0.5:
        x = layers.BatchNormalization()(x)
    return _rectified(draw, x)


def _depthwise(draw, a, b):
    x = layers.DepthwiseConv2D(3, padding="same")(a)
    return _rectified(draw, layers.BatchNormalization()(x) if draw.random() < 0.5 else x)


def _rectified(draw, x):
    kind = _RELU[draw.integers(len(_RELU))]
    return x if kind is None else layers.Activation(kind)(x)


def _pooled(draw, a, b):
    return layers.UpSampling2D(2)(layers.MaxPooling2D(2)(a))


def _padded(draw, a, b):
    return layers.Cropping2D(((2, 0), (1, 1)))(layers.ZeroPadding2D(1)(a))


def _reshaped(draw, a, b):
    return layers.Permute((2, 1, 3))(layers.Reshape((SIZE, SIZE, 8))(layers.Flatten()(a)))


def _concatenated(draw, a, b):
    return layers.Conv2D(8, 1)(layers.Concatenate()([a, b]))


def _separable(draw, a, b):
    return _rectified(draw, layers.SeparableConv2D(8, 3, padding="same")(a))


def _sum(draw, a, b):
    return _rectified(draw, layers.Add()([a, b]))


STEPS = {
    "convolution": _convolution,
    "depthwise": _depthwise,
    "pooled": _pooled,
    "padded": _padded,
    "reshaped": _reshaped,
    "concatenated": _concatenated,
    "separable": _separable,
    "sum": _sum,
    "product": lambda draw, a, b: layers.Multiply()([a, b]),
    "difference": lambda draw, a, b: layers.Subtract()([a, b]),
    "largest": lambda draw, a, b: layers.Maximum()([a, b]),
    "squashed": lambda draw, a, b: layers.Activation("tanh")(a),
}


def random_network(seed):
    """A graph of six random steps on one or two inputs, with a shared layer now and then."""
    draw = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    inputs = [keras.Input((SIZE, SIZE, 8), name=f"x{i}") for i in range(1 + seed % 2)]
    maps = list(inputs)
    if draw.random() < 0.5:
        shared = layers.Conv2D(8, 3, padding="same", activation="relu")
        maps += [shared(one) for one in inputs] + [shared(shared(inputs[0]))]
    for name in draw.choice(list(STEPS), 6):
        a, b = (maps[draw.integers(len(maps))] for _ in range(2))
        maps.append(STEPS[name](draw, a, maps[-1] if b is a else b))
    x = layers.Dense(5, name="scores")(layers.GlobalAveragePooling2D()(maps[-1]))
    model = keras.Model(inputs if len(inputs) > 1 else inputs[0], x)
    for variable in model.variables:
        if variable.name in ("bias", "beta", "moving_mean"):
            variable.assign(draw.normal(size=variable.shape) * 0.2)
        elif variable.name == "gamma":
            variable.assign(draw.normal(size=variable.shape) * 0.4 + 0.9)
    return model


def check(seed, path):
    model = random_network(seed)
    draw = np.random.default_rng(seed + 1)
    data = [draw.normal(size=(48, *one.shape[1:])).astype(np.float32) for one in model.inputs]
    given = data if len(data) > 1 else data[0]
    qmodel = sentei.quantize(model, calibration=given)
    report = sentei.export(qmodel, path, io="int8", verify=given)
    assert not quantized(qmodel).plan.floats
    assert not report.integers.census.floating, report.integers.table()
    assert all(tensor.largest <= 2 for tensor in report.integers.tensors)
    # An oracle of its own: Keras' prediction against the file on XNNPACK.
    runner = Runner(path)
    want, (have,) = np.asarray(qmodel(given)), runner(data).values()
    steps = np.abs(want - have) / next(iter(runner.outputs.values())).scale
    assert np.mean(steps < 2.01) > 0.97, f"up to {steps.max():.1f} steps"


@pytest.mark.parametrize("seed", range(2))
def test_random_graphs_are_as_simulated(seed, tmp_path):
    check(seed, tmp_path / "m.tflite")


def test_moves_that_undo_each_other_are_not_looked_for(tmp_path):
    # The converter drops both; the tensor between them is in no file.
    inputs = keras.Input((SIZE, SIZE, 8))
    x = layers.Permute((2, 1, 3))(layers.Conv2D(8, 1, activation="relu", name="first")(inputs))
    model = keras.Model(inputs, layers.Conv2D(4, 1, name="last")(layers.Permute((2, 1, 3))(x)))
    data = np.random.default_rng(0).normal(size=(16, SIZE, SIZE, 8)).astype(np.float32)
    qmodel = sentei.quantize(model, calibration=data)
    path = tmp_path / "m.tflite"
    report = sentei.export(qmodel, path, verify=data)
    assert "TRANSPOSE" not in str(sentei.inspect(path))
    assert {tensor.name for tensor in report.integers.tensors} >= {"first", "last"}
    assert all(
        tensor.exact == 1 for tensor in report.integers.tensors if tensor.kernels == "xnnpack"
    )


def test_dense_layers_round_once_in_the_reference_kernels(tmp_path):
    # Few weights make large steps of the product: rounded twice, 3 in 1,000 would be another.
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((20, 4)), layers.Dense(96)])
    data = np.random.default_rng(0).normal(size=(64, 20, 4)).astype(np.float32)
    qmodel = sentei.quantize(model, calibration=data)
    report = sentei.export(qmodel, tmp_path / "m.tflite", io="int8", verify=data)
    assert {t.operator: t.exact for t in report.integers.tensors if t.kernels == "reference"}[
        "FULLY_CONNECTED"
    ] == 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 10))
def test_more_random_graphs_are_as_simulated(seed, tmp_path):
    check(seed, tmp_path / "m.tflite")


def test_a_padding_that_the_file_does_not_hold_is_not_taken_for_another(tmp_path):
    # The first became the convolution's own; the second has its grid and size (MobileNetV2 with
    # ReLU6 that reach 6 was refused).
    keras.utils.set_random_seed(0)
    x = y = keras.Input((8, 8, 4))
    for stride in (1, 2):
        y = layers.ReLU(6)(layers.Conv2D(12, 1)(y * 100.0))
        y = layers.DepthwiseConv2D(3, stride)(layers.ZeroPadding2D(1)(y))
    model = keras.Model(x, layers.Dense(5)(layers.GlobalAveragePooling2D()(y)))
    images = np.random.default_rng(0).normal(size=(16, 8, 8, 4)).astype("float32")
    qmodel = sentei.quantize(model, Custom(observer="minmax"), calibration=images)
    report = sentei.export(qmodel, tmp_path / "m.tflite", verify=images)
    assert report.operators["PAD"] == 1
    assert report.integers.agreement == 1.0


def test_a_relu6_whose_grid_ends_long_before_6_is_exported(tmp_path):
    """Regression: the runtime refused networks that were never trained, as 6 / scale overflows."""
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.ReLU(max_value=6.0)(layers.Conv2D(4, 3, name="faint")(inputs))
    model = keras.Model(inputs, layers.Conv2D(2, 1)(x))
    random = np.random.default_rng(0)
    model.get_layer("faint").kernel.assign(1e-9 * random.normal(size=(3, 3, 3, 4)))
    x = random.normal(size=(8, 6, 6, 3)).astype("float32")
    qmodel = sentei.quantize(model, calibration=x)
    report = sentei.export(qmodel, tmp_path / "m.tflite", verify=x)
    assert report.integers.agreement == 1.0
    (found,) = Runner(tmp_path / "m.tflite")({"image": x}).values()
    np.testing.assert_array_equal(found, qmodel.predict(x, verbose=0))
    assert found.any()
