"""The network of the demo: small enough to train in a minute, made of what phones run fast."""

from typing import Any

import keras
from keras import layers

from sentei.demo.images import CLASSES

# name, filters, kernel size, stride: each a convolution, batch normalization and a ReLU, which the
# exporter turns into one operator. 28x28 pixels become 14x14, then 7x7, early: that is what keeps
# a training step short.
_BLOCKS = (
    ("stem", 32, 3, 2),
    ("conv_1", 64, 3, 2),
    ("conv_2", 96, 3, 1),
    ("mix", 192, 1, 1),
)
_DROPOUT = 0.3
# The default of 0.99 still remembers the first epoch's statistics after ten short ones.
_STATISTICS_MOMENTUM = 0.9


def build() -> Any:
    """Makes the network, untrained: about 96,000 parameters, images in, one score a class out.

    Returns:
        A functional Keras model from `(batch, 28, 28, 1)` to `(batch, 10)` (scores before the
        softmax).
    """
    inputs = outputs = keras.Input((28, 28, 1), name="image")
    outputs = layers.RandomFlip("horizontal", name="flip")(outputs)
    for name, filters, size, stride in _BLOCKS:
        outputs = layers.Conv2D(
            filters, size, strides=stride, padding="same", use_bias=False, name=name
        )(outputs)
        outputs = layers.BatchNormalization(momentum=_STATISTICS_MOMENTUM, name=f"{name}_norm")(
            outputs
        )
        outputs = layers.ReLU(name=f"{name}_relu")(outputs)
    outputs = layers.GlobalAveragePooling2D(name="pool")(outputs)
    outputs = layers.Dropout(_DROPOUT, name="dropout")(outputs)
    outputs = layers.Dense(len(CLASSES), name="scores")(outputs)
    return keras.Model(inputs, outputs, name="fashion")
