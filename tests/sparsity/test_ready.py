"""Symmetric padding: the same shapes and weights, a function that XNNPACK can run sparse."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from sentei.core.errors import SenteiError
from sentei.sparsity import xnnpack_ready

pytestmark = pytest.mark.core


def strided(size=3, padding="same", before=None, activation="relu", image=12):
    inputs = keras.Input((image, image, 3), name="image")
    x = kl.Conv2D(8, 3, 2, padding="same", activation=activation, name="stem")(inputs)
    if before is not None:
        x = kl.ZeroPadding2D(before, name="before")(x)
    x = kl.DepthwiseConv2D(size, 2, padding, name="depth")(x)
    x = kl.Conv2D(4, 1, name="point")(x)
    return keras.Model(inputs, x, name="strided")


def by_hand(model, image, amount):
    """The same weights applied by Keras' own operations with symmetric padding."""
    layers = {layer.name: layer for layer in model.layers}

    def pad(x, n):
        return keras.ops.pad(x, ((0, 0), (n, n), (n, n), (0, 0)))

    stem, depth, point = (layers[name] for name in ("stem", "depth", "point"))
    x = keras.ops.conv(pad(image, 1), stem.kernel, 2, "valid") + stem.bias
    x = stem.activation(x)
    x = keras.ops.depthwise_conv(pad(x, amount), depth.kernel, 2, "valid") + depth.bias
    return keras.ops.convert_to_numpy(keras.ops.conv(x, point.kernel, 1, "valid") + point.bias)


@pytest.mark.parametrize(
    ("size", "padding", "before"),
    [
        (3, "same", None),
        (5, "same", None),
        (3, "valid", ((0, 1), (0, 1))),
        (5, "valid", ((1, 2), (1, 2))),
        (3, "valid", 1),
    ],
)
def test_strided_convolutions_are_padded_on_every_side(size, padding, before):
    model = strided(size, padding, before)
    ready = xnnpack_ready(model)
    image = np.random.default_rng(0).normal(size=(2, 12, 12, 3)).astype("float32")
    found = keras.ops.convert_to_numpy(ready(image))
    np.testing.assert_allclose(found, by_hand(model, image, size // 2), atol=1e-5)
    assert ready.output_shape == model.output_shape
    assert ready.name == "strided"
    names = {layer.name for layer in model.layers}
    assert names <= {layer.name for layer in ready.layers}


def test_sequential_and_nested_models_are_rewritten_too():
    inner = keras.Sequential(
        [keras.Input((8, 8, 4)), kl.DepthwiseConv2D(3, 2, "same", name="deep")], name="inner"
    )
    outer = keras.Sequential(
        [keras.Input((16, 16, 3)), kl.Conv2D(4, 3, 2, "same", name="stem"), inner, kl.Flatten()]
    )
    ready = xnnpack_ready(outer)
    assert [type(layer).__name__ for layer in ready.get_layer("inner").layers] == [
        "ZeroPadding2D",
        "DepthwiseConv2D",
    ]
    for old, new in zip(outer.get_weights(), ready.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert ready.output_shape == outer.output_shape
    assert outer.get_layer("stem").padding == "same"


def test_what_needs_no_change_is_left_alone(caplog):
    inputs = keras.Input((12, 12, 8))
    x = kl.Conv2D(8, 3, 2, padding="same")(inputs)  # on 8 channels: no start of a sparse part
    x = kl.DepthwiseConv2D(3, 1, padding="same")(x)
    model = keras.Model(inputs, x)
    ready = xnnpack_ready(model)
    assert [type(a) for a in ready.layers] == [type(b) for b in model.layers]
    assert not caplog.messages


def test_what_changed_is_told(caplog):
    xnnpack_ready(strided(3, "valid", ((0, 1), (0, 1))))
    (message,) = caplog.messages
    assert "stem is padded by 1 on every side, not 'same'" in message
    assert "before pads by 1 on every side" in message
    assert "fine-tune" in message


@pytest.mark.parametrize("swish", [None, "hard_swish"])
def test_swish_is_replaced_on_request_only(swish):
    ready = xnnpack_ready(strided(activation="swish"), swish=swish)
    name = ready.get_layer("stem").activation.__name__
    assert name == ("silu" if swish is None else "hard_silu")


def test_a_padding_that_something_else_reads_stays():
    inputs = keras.Input((12, 12, 4))
    x = kl.ZeroPadding2D(((0, 1), (0, 1)), name="before")(inputs)
    a = kl.DepthwiseConv2D(3, 2, name="depth")(x)
    model = keras.Model(inputs, [a, kl.GlobalAveragePooling2D()(x)])
    assert xnnpack_ready(model).get_layer("before").padding == ((0, 1), (0, 1))


def test_what_is_no_activation_is_refused():
    with pytest.raises(SenteiError, match=r"must name an activation of Keras.*'zzz'"):
        xnnpack_ready(strided(activation="swish"), swish="zzz")


def test_a_subclassed_model_is_refused():
    class Own(keras.Model):
        def __init__(self):
            super().__init__(name="own")
            self.dense = kl.Dense(2)

        def call(self, x):
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    with pytest.raises(SenteiError, match=r"'own' is a subclass of keras.Model"):
        xnnpack_ready(model)
