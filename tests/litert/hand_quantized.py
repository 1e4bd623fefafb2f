"""Quantized models made by hand, independent of `sentei.quantize`: grids are given, not found."""

from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.quantization.grid import Grid, Kind


class HandQuantizer:
    """Simulates one grid, or lets whoever exports mark it."""

    def __init__(self, scale, zero_point=0, kind=None, name=""):
        scale = np.atleast_1d(np.asarray(scale, np.float32))
        zero = np.broadcast_to(zero_point, scale.shape).astype(np.int64)
        self._grid = Grid(kind or Kind(), scale, zero)
        self.emit: Any = None
        self.stand_in: Any = None
        self.moved = False
        self.label = name

    def grid(self):
        return self._grid

    def __call__(self, x):
        replaced = self.emit or self.stand_in
        if replaced is not None:
            return replaced(x, self._grid)
        kind = self._grid.kind
        shape = [1] * len(x.shape)
        if kind.axis is not None:
            shape[kind.axis] = -1
        scale, zero = (
            v.reshape(shape).astype(np.float32) for v in (self._grid.scale, self._grid.zero_point)
        )
        low, high = -(2 ** (kind.bits - 1)) + kind.narrow, 2 ** (kind.bits - 1) - 1
        return (ops.clip(ops.round(x / scale) + zero, low, high) - zero) * scale


class Grids(keras.layers.Layer):
    """An activation on a grid."""

    def __init__(self, scale, zero_point=0, bits=8, **kwargs):
        super().__init__(**kwargs)
        self.quantizer = HandQuantizer(scale, zero_point, Kind(bits, bits == 16), self.name)

    def call(self, x):
        return self.quantizer(x)


class OnGrid(keras.layers.Wrapper):
    """A layer seen through an int8 kernel per channel on `axis`."""

    def __init__(self, layer, axis=-1, bits=8, **kwargs):
        super().__init__(layer, **{"name": f"q_{layer.name}", **kwargs})
        self.axis, self.bits = axis, bits

    def build(self, input_shape):
        super().build(input_shape)
        if self.axis is None or getattr(self, "quantizer", None) is not None:
            return
        kernel = np.asarray(ops.convert_to_numpy(self.layer.kernel))
        axis = self.axis % kernel.ndim
        others = tuple(i for i in range(kernel.ndim) if i != axis)
        top = 2 ** (self.bits - 1) - 1
        scale = np.maximum(np.abs(kernel).max(others), 1e-6) / top
        self.quantizer = HandQuantizer(scale, 0, Kind(self.bits, True, True, axis), self.name)

    def call(self, inputs):
        kernel = self.layer.kernel
        pairs = [(v, v.value) for v in self.layer.variables if v is not kernel]
        with keras.StatelessScope([*pairs, (kernel, self.quantizer(kernel.value))]):
            return self.layer(inputs)


def quantizers(model):
    """All hand-made quantizers of a model, in the order of its layers."""
    layers = model._flatten_layers()
    return [layer.quantizer for layer in layers if hasattr(layer, "quantizer")]
