"""What the study of sparsity trains: a classifier and a segmenter, and the images they see.

Both are built as XNNPACK's sparse kernels want it: padding is the same on every side, the first
convolution has stride 2, only 1x1 and depthwise convolutions follow. The classifier ends in a
global average, the segmenter in blocks of pixels (DEPTH_TO_SPACE): one of the two must be.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import data
import keras
import numpy as np
from keras import layers

Batch = tuple[np.ndarray, np.ndarray]
CANVAS, GARMENTS, CLASSES = 64, 5, 11  # a side, garments on it, the background's class is 10


@dataclass(frozen=True)
class Task:
    """A network and what it has to do.

    Attributes:
        name: of the task; its results have it in their names.
        measure: what `score` is called.
        size: side of the images.
        network: makes the network, by a factor on its channels.
        batch: images and labels to train on, by how many and a random generator.
        tests: the first images and labels that are tested on, by how many.
        score: how good logits are for labels, 0 to 1.
        share: of the setting's images a step; squared, of those that are tested.
    """

    name: str
    measure: str
    size: int
    network: Callable[[float], keras.Model]
    batch: Callable[[int, np.random.Generator], Batch]
    tests: Callable[[int], Batch]
    score: Callable[[np.ndarray, np.ndarray], float]
    share: float


def classifier(width: float) -> keras.Model:
    """MobileNetV2's blocks for 32 x 32 images with one stride less; it ends at 4 x 4.

    Args:
        width: factor on every number of channels.
    """
    inputs = keras.Input((32, 32, 3), name="image")
    x = layers.Conv2D(_channels(32, width), 3, 2, use_bias=False, name="stem")(_padded(inputs))
    x = _normalized(x)
    for expansion, number, blocks, stride in (
        (1, 16, 1, 1),
        (6, 24, 2, 1),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 2, 1),
    ):
        for block in range(blocks):
            wide = expansion * x.shape[-1]
            x = _block(x, wide, _channels(number, width), 1 if block else stride)
    x = _normalized(layers.Conv2D(_channels(640, width), 1, use_bias=False)(x))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, name="logits")(x), name="sparse_mobile")


def segmenter(width: float) -> keras.Model:
    """MobileNetV3's blocks (Howard et al. 2019, arXiv:1905.02244), and a head like its LR-ASPP.

    Features of 8 x 8, scaled by what is in the whole image, are enlarged and added to those of
    16 x 16; each of these gives a block of 4 x 4 pixels.

    Args:
        width: factor on every number of channels.
    """
    inputs = keras.Input((CANVAS, CANVAS, 3), name="image")
    x = layers.Conv2D(_channels(32, width), 3, 2, use_bias=False, name="stem")(_padded(inputs))
    x = _normalized(x, "hard_silu")
    early = x
    for wide, number, stride, kernel, activation, attention in (
        (128, 48, 2, 3, "relu", False),
        (144, 48, 1, 3, "relu", False),
        (192, 80, 2, 5, "hard_silu", True),
        (480, 80, 1, 5, "hard_silu", True),
        (480, 96, 1, 5, "hard_silu", True),
        (576, 128, 1, 5, "hard_silu", True),
    ):
        if stride == 2:
            early = x
        sizes = _channels(wide, width), _channels(number, width)
        x = _block(x, *sizes, stride, kernel, activation, attention)
    head = _channels(192, width)
    high = _normalized(layers.Conv2D(head, 1, use_bias=False)(x), "relu")
    high = layers.Multiply()([high, _gate(x, head, None)])
    high = layers.UpSampling2D(2, interpolation="bilinear")(high)
    block = CANVAS // high.shape[1]
    each = CLASSES * block**2
    x = layers.Add()([layers.Conv2D(each, 1)(high), layers.Conv2D(each, 1)(early)])
    x = layers.Reshape((*high.shape[1:3], block, block, CLASSES))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    x = layers.Reshape((CANVAS, CANVAS, CLASSES), name="logits")(x)
    return keras.Model(inputs, x, name="sparse_scene")


def _channels(number: int, width: float) -> int:
    return max(8, round(number * width / 8) * 8)


def _block(
    x: Any,
    wide: int,
    channels: int,
    stride: int,
    kernel: int = 3,
    activation: str = "relu6",
    attention: bool = False,
) -> Any:
    """An inverted residual; what is as wide as it comes is not expanded."""
    y = x
    if wide != x.shape[-1]:
        y = _normalized(layers.Conv2D(wide, 1, use_bias=False)(y), activation)
    y = _padded(y, kernel // 2)
    y = layers.DepthwiseConv2D(kernel, stride, use_bias=False)(y)
    y = _normalized(y, activation)
    if attention:
        y = layers.Multiply()([y, _gate(y, wide, wide // 4)])
    y = layers.BatchNormalization()(layers.Conv2D(channels, 1, use_bias=False)(y))
    return layers.Add()([x, y]) if stride == 1 and channels == x.shape[-1] else y


def _gate(x: Any, channels: int, squeezed: int | None) -> Any:
    """A factor for each channel, by the mean of all; a hard sigmoid could not run sparse."""
    x = layers.GlobalAveragePooling2D(keepdims=True)(x)
    if squeezed is not None:
        x = layers.Conv2D(squeezed, 1, activation="relu")(x)
    return layers.Conv2D(channels, 1, activation="sigmoid")(x)


def _padded(x: Any, size: int = 1) -> Any:
    return layers.ZeroPadding2D(size)(x)


def _normalized(x: Any, activation: str = "relu6") -> Any:
    return layers.Activation(activation)(layers.BatchNormalization()(x))


def pixels(images: np.ndarray) -> np.ndarray:
    """Images as the networks take them: about -2 to 2."""
    return (images.astype("float32") - 120.7) / 64.0


@functools.cache
def _cifar10() -> data.Split:
    return data.cifar10()


def photos(count: int, random: np.random.Generator) -> Batch:
    """Images of CIFAR-10, shifted by up to 4 pixels and mirrored, and their classes."""
    split = _cifar10()
    chosen = random.integers(0, len(split.x_train), count)
    x = np.pad(split.x_train[chosen], ((0, 0), (4, 4), (4, 4), (0, 0)), mode="reflect")
    down, right = random.integers(0, 9, 2)
    x = x[:, down : down + 32, right : right + 32]
    mirrored = random.random(len(x)) < 0.5
    x[mirrored] = x[mirrored, :, ::-1]
    return pixels(x), split.y_train[chosen]


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """The share of images that are right."""
    return float((logits.argmax(-1) == labels).mean())


@functools.cache
def _garments() -> data.Split:
    return data.fashion_mnist()


def scenes(count: int, random: np.random.Generator, test: bool = False) -> Batch:
    """Garments on a canvas, and each pixel's class.

    Each lies at a random place, mirrored half of the time, has a random colour and hides what lies
    under it. The background is a random colour that changes along the canvas, and noise.
    """
    split = _garments()
    images, labels = (split.x_test, split.y_test) if test else (split.x_train, split.y_train)
    ramps = np.linspace(0, 1, CANVAS)
    ends = random.uniform(0, 160, (3, count, 1, 1, 3))
    canvas = ends[0] + (ends[1] - ends[0]) * ramps[:, None, None] / 2
    canvas = canvas + (ends[2] - ends[0]) * ramps[:, None] / 2
    classes = np.full((count, CANVAS, CANVAS), CLASSES - 1, "int64")
    side = images.shape[1]
    for n in range(count):
        for chosen in random.integers(0, len(images), GARMENTS):
            down, right = random.integers(-side // 4, CANVAS - side + side // 4, 2)
            garment = images[chosen][:, :: random.choice([-1, 1])]
            rows = slice(max(0, -down), min(side, CANVAS - down))
            columns = slice(max(0, -right), min(side, CANVAS - right))
            garment = garment[rows, columns].astype("float64")
            place = (
                n,
                slice(down + rows.start, down + rows.stop),
                slice(right + columns.start, right + columns.stop),
            )
            seen = garment > 20
            coloured = garment[..., None] * random.uniform(0.4, 1.0, 3)
            canvas[place][seen] = coloured[seen]
            classes[place][seen] = labels[chosen]
    canvas += random.normal(0, 6, canvas.shape)
    return pixels(np.clip(canvas, 0, 255)), classes


def intersection_over_union(logits: np.ndarray, labels: np.ndarray) -> float:
    """The mean over the classes, of all pixels together."""
    found, counts = logits.argmax(-1), np.zeros((CLASSES, CLASSES))
    np.add.at(counts, (labels.ravel(), found.ravel()), 1)
    both = np.diag(counts)
    return float(np.mean(both / (counts.sum(0) + counts.sum(1) - both)))


def _photo_tests(count: int) -> Batch:
    split = _cifar10()
    return pixels(split.x_test[:count]), split.y_test[:count]


def _scene_tests(count: int) -> Batch:
    return scenes(count, np.random.default_rng(0), test=True)


TASKS = {
    "classification": Task(
        "classification", "accuracy", 32, classifier, photos, _photo_tests, accuracy, 1.0
    ),
    "segmentation": Task(
        "segmentation", "mean IoU", CANVAS, segmenter, scenes, _scene_tests,
        intersection_over_union, 0.5,
    ),
}  # fmt: skip
