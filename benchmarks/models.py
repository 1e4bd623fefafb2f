"""The networks that benchmarks train, by the papers' descriptions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import keras
from keras import layers


@contextmanager
def precision(short: bool) -> Iterator[None]:
    """Networks made within keep float32 weights and compute in bfloat16 if `short`.

    Args:
        short: whether.
    """
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16" if short else "float32")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def resnet(depth: int = 20, classes: int = 10, width: int = 16) -> keras.Model:
    """The CIFAR ResNet of He et al. 2015, section 4.2: 6n + 2 layers, option-A shortcuts.

    Args:
        depth: 6n + 2 layers: 20, 56, ...
        classes: size of the output.
        width: channels of the first stage.
    """
    inputs = keras.Input((32, 32, 3), name="image")
    x = _convolution(inputs, width, 1)
    for stage, channels in enumerate((width, 2 * width, 4 * width)):
        for block in range((depth - 2) // 6):
            stride = 2 if stage and not block else 1
            y = _convolution(x, channels, stride)
            y = _convolution(y, channels, 1, activation=False)
            if stride == 2:
                extra = (channels - x.shape[-1]) // 2
                x = x[:, ::2, ::2]
                x = keras.ops.pad(x, ((0, 0), (0, 0), (0, 0), (extra, extra)))
            x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(classes, name="logits")(x), name=f"resnet{depth}")


def _convolution(x: object, channels: int, stride: int, activation: bool = True) -> object:
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(channels, 3, stride, use_bias=False)(x)
    x = layers.BatchNormalization(epsilon=1e-5)(x)
    return layers.ReLU()(x) if activation else x


def dense_300_100(classes: int = 10) -> keras.Model:
    """LeNet-300-100 (LeCun et al. 1998): 784-300-100-10, fully connected."""
    return keras.Sequential(
        [
            keras.Input((784,), name="pixels"),
            layers.Dense(300, activation="relu"),
            layers.Dense(100, activation="relu"),
            layers.Dense(classes, name="logits"),
        ],
        name="dense_300_100",
    )


def mobilenet_v2(classes: int = 1000, size: int = 224) -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018, table 2) with padding that is the same on every side.

    Args:
        classes: size of the output.
        size: height and width of the input.
    """
    inputs = keras.Input((size, size, 3), name="image")
    x = _normalized(layers.Conv2D(32, 3, 2, use_bias=False)(layers.ZeroPadding2D(1)(inputs)))
    blocks = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )
    return keras.Model(inputs, _mobilenet(x, blocks, 1280, classes), name="mobilenet_v2")


def mobilenet_v2_cifar(classes: int = 10) -> keras.Model:
    """A MobileNetV2 for 32 x 32 images: strides in three places, 0.35 of the usual channels.

    Args:
        classes: size of the output.
    """
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.ZeroPadding2D(1)(inputs)
    x = _normalized(layers.Conv2D(16, 3, use_bias=False)(x))
    blocks = ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 3, 2), (6, 40, 3, 2), (6, 56, 2, 1))
    return keras.Model(inputs, _mobilenet(x, blocks, 256, classes), name="mobilenet_v2_cifar")


def _mobilenet(x: object, blocks: Iterable[tuple[int, ...]], last: int, classes: int) -> object:
    """Inverted residuals, given as expansion, channels, repetitions and stride, and the head."""
    for expansion, channels, count, stride in blocks:
        for block in range(count):
            x = _inverted_residual(x, expansion, channels, 1 if block else stride)
    x = _normalized(layers.Conv2D(last, 1, use_bias=False)(x))
    return layers.Dense(classes, name="logits")(layers.GlobalAveragePooling2D()(x))


def _inverted_residual(x: object, expansion: int, channels: int, stride: int) -> object:
    y, wide = x, expansion * x.shape[-1]
    if expansion > 1:
        y = _normalized(layers.Conv2D(wide, 1, use_bias=False)(y))
    y = layers.ZeroPadding2D(1)(y)
    y = _normalized(layers.DepthwiseConv2D(3, stride, use_bias=False)(y))
    y = _normalized(layers.Conv2D(channels, 1, use_bias=False)(y), activation=False)
    return layers.Add()([x, y]) if stride == 1 and channels == x.shape[-1] else y


def _normalized(x: object, activation: bool = True) -> object:
    x = layers.BatchNormalization(epsilon=1e-5)(x)
    return layers.ReLU(max_value=6.0)(x) if activation else x
