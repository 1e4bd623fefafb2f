"""Weights of bits that no LiteRT type has: held in 8, on their own grid."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import UnsupportedModel
from sentei.litert import flatbuffer
from sentei.litert.runtime import Runner
from sentei.quantization import Custom

X = np.random.default_rng(0).normal(size=(8, 8, 8, 3)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            kl.Conv2D(6, 3, activation="relu", name="conv"),
            kl.DepthwiseConv2D(3, name="depthwise"),
            kl.Flatten(),
            kl.Dense(7, name="scores"),
        ]
    )


@pytest.mark.parametrize("steps", ["largest", "nearest"])
@pytest.mark.parametrize("bits", [2, 3, 5, 6, 7])
def test_the_file_holds_the_integers_of_the_narrower_grid(bits, steps, tmp_path):
    model = network()
    qmodel = sentei.quantize(model, Custom(weight_bits=bits, weight_steps=steps), calibration=X)
    sentei.export(qmodel, tmp_path / "m.tflite")  # verifies every tensor
    high = 2 ** (bits - 1) - 1
    stored = [
        (tensor.data().reshape(tensor.shape).astype(int), np.asarray(tensor.quantization.scale))
        for tensor in flatbuffer.load(tmp_path / "m.tflite").tensors()
        if tensor.dtype == "int8" and tensor.data() is not None
    ]
    kernels = [ops.convert_to_numpy(model.get_layer(n).kernel) for n in ("conv", "depthwise")]
    # As the file lays them out: output channels first; depthwise: last.
    wanted = [
        np.moveaxis(kernels[0], -1, 0),
        kernels[1].reshape(1, 3, 3, 6),
        ops.convert_to_numpy(model.get_layer("scores").kernel).T,
    ]
    assert len(stored) == len(wanted)
    for (integers, scale), kernel in zip(stored, wanted, strict=True):
        axis = 3 if len(kernel) == 1 else 0
        step = scale.reshape([-1 if i == axis else 1 for i in range(kernel.ndim)])
        np.testing.assert_array_equal(integers, np.clip(np.rint(kernel / step), -high, high))
        largest = np.max(np.abs(kernel), axis=tuple(i for i in range(kernel.ndim) if i != axis))
        if steps == "largest":
            np.testing.assert_allclose(scale, largest / high, rtol=1e-6)
        elif bits < 4:  # something is clipped, or the test shows nothing
            assert (scale < 0.9 * largest / high).any()


def test_depthwise_kernels_of_4_bits_are_held_in_8(tmp_path):
    """The runtime refused every file of `"int4"` with a depthwise or separable convolution."""
    x = keras.Input((8, 8, 3))
    y = kl.SeparableConv2D(4, 3)(kl.DepthwiseConv2D(3)(kl.Conv2D(6, 1)(x)))
    y = kl.Reshape((4, 16))(y)
    y = kl.SeparableConv1D(5, 2)(kl.DepthwiseConv1D(2)(y))
    qmodel = sentei.quantize(keras.Model(x, y), "int4", calibration=X)
    sentei.export(qmodel, tmp_path / "m.tflite")
    tensors = flatbuffer.load(tmp_path / "m.tflite").tensors()
    stored = [t for t in tensors if t.dtype in ("int4", "int8") and t.data() is not None]
    assert sorted(t.dtype for t in stored) == ["int4"] * 3 + ["int8"] * 4
    for tensor in stored:
        assert np.abs(tensor.data().astype(int)).max() == 7


_FOUR_BITS = {
    "convolution": lambda x: kl.Conv2D(17, 3)(x),
    "normalized, rectified": lambda x: kl.ReLU()(kl.BatchNormalization()(kl.Conv2D(17, 3)(x))),
    "groups": lambda x: kl.Conv2D(18, 3, groups=3)(x),
    "dilated": lambda x: kl.Conv2D(17, 3, dilation_rate=2, activation="relu6")(x),
    "transposed": lambda x: kl.Conv2DTranspose(17, 3, 2)(x),
    "one axis": lambda x: kl.Conv1D(17, 3)(kl.Reshape((64, 9))(x)),
    "dense, odd": lambda x: kl.Dense(200)(x),
    "dense, even": lambda x: kl.Dense(200)(kl.Conv2D(10, 1)(x)),
}


@pytest.mark.parametrize("kind", _FOUR_BITS)
def test_regression_4_bits_are_rounded_as_the_runtime_does(kind, tmp_path):
    """XNNPACK takes no convolution of 4 bits and no dense layer of odd inputs: the runtime's own
    kernels round twice. One integer in thirty was another, and such dense layers were refused."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 3))
    x = kl.Conv2D(9, 3, padding="same", activation="relu")(inputs)
    qmodel = sentei.quantize(keras.Model(inputs, _FOUR_BITS[kind](x)), "int4", calibration=X)
    report = sentei.export(qmodel, tmp_path / "m.tflite", verify=X)
    # The runtime's factors have 31 bits, float32 has 24: beside a tie that may be another integer.
    assert min(check.exact for check in report.integers.tensors) > 0.9999
    runner = Runner(tmp_path / "m.tflite")
    found = np.concatenate([next(iter(runner(x[None]).values())) for x in X])
    assert np.mean(found == qmodel.predict(X, verbose=0)) > 0.9999


def test_activations_of_other_bits_are_refused(tmp_path):
    qmodel = sentei.quantize(network(), Custom(activation_bits=5), calibration=X)
    with pytest.raises(UnsupportedModel, match="quantized to 5 bits"):
        sentei.export(qmodel, tmp_path / "m.tflite")
    assert not list(tmp_path.iterdir())
