"""A network whose channels reach very differently far, which rounding suffers from."""

import keras
import numpy as np
from keras import layers as kl


def values(variable):
    return np.asarray(keras.ops.convert_to_numpy(variable), np.float32)


def uneven(model, seed=0):
    """Random weights whose channels reach very differently far."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        numbers = generator.normal(size=variable.shape)
        if "variance" in variable.name:
            numbers = np.exp(numbers)
        elif len(variable.shape) > 0:
            numbers *= np.exp(generator.normal(size=variable.shape[-1:]))
            numbers /= np.sqrt(max(np.prod(variable.shape[:-1]), 1))
        variable.assign(numbers)
    return model


def convolutional():
    x = keras.Input((9, 9, 3), name="x")
    y = kl.Conv2D(6, 3, use_bias=False, name="a")(x)
    y = kl.ReLU(name="a_relu")(kl.BatchNormalization(name="a_bn")(y))
    y = kl.ReLU(name="b_relu")(kl.DepthwiseConv2D(3, depth_multiplier=2, name="b")(y))
    y = kl.MaxPooling2D(name="pool")(kl.Conv2D(5, 1, activation="relu", name="c")(y))
    y = kl.Dense(6, activation="leaky_relu", name="d")(kl.Flatten(name="flat")(y))
    return uneven(keras.Model(x, kl.Dense(4, name="e")(y), name="net"))
