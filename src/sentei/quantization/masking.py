"""What counts of a tensor: not the steps that Keras' mask leaves out."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops


class Unmasked(keras.layers.Layer):
    """A tensor with zeros at masked steps, in float32.

    Args:
        ones: Whether to give ones in place of the tensor's values: what there is to count.
    """

    def __init__(self, ones: bool = False) -> None:
        super().__init__(autocast=False, dtype="float32", name="unmasked")
        self.ones = ones
        self.supports_masking = True
        self.built = True

    def call(self, x: Any, mask: Any = None) -> Any:
        """The tensor.

        Args:
            x: Any tensor.
            mask: Keras' mask of it, if it has one.
        """
        x = ops.ones_like(x, "float32") if self.ones else ops.cast(x, "float32")
        if mask is None or len(mask.shape) > len(x.shape):
            return x
        return ops.where(ops.expand_dims(mask, tuple(range(len(mask.shape), len(x.shape)))), x, 0.0)
