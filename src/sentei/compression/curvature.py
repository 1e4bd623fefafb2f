"""What a model's layers are fed with, and how much their outputs matter: two factors of curvature.

The Hessian of the loss with respect to a layer's weights is taken as the product of two factors, as
in K-FAC (Martens & Grosse 2015, arXiv:1503.05671, section 3): the second moments of the layer's
inputs, and how far the model's outputs move with the layer's, measured by moving it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.seen import seen
from sentei.core.select import sublayers

# Rows of inputs (patches of an image) that are taken of a batch.
_MOST_ROWS = 16384


class Moments:
    """Mean and second moments of a layer's inputs, as the rows of its kernel see them.

    Attributes:
        second: Sum of `x x^T`, `(inputs, inputs)`; None until something was seen.
        first: Sum of x.
        count: How many rows.
    """

    def __init__(self) -> None:
        self.second: Any = None
        self.first: Any = None
        self.count = 0

    def add(self, rows: np.ndarray) -> None:
        """Takes in rows of inputs.

        Args:
            rows: `(rows, inputs)`.
        """
        if len(rows) > _MOST_ROWS:
            rows = rows[:: -(-len(rows) // _MOST_ROWS)]
        rows = rows.astype(np.float32)
        second, first = rows.T @ rows, rows.sum(0, dtype=np.float64)
        self.second = second + (0 if self.second is None else self.second)
        self.first = first + (0 if self.first is None else self.first)
        self.count += len(rows)


def rows_of(layer: Any, inputs: Any) -> np.ndarray | None:
    """The vectors that a layer multiplies its kernel with.

    Args:
        layer: Any layer.
        inputs: What it is called with.

    Returns:
        `(rows, inputs)`, in the order of the kernel's rows; None if that is not known.
    """
    if type(layer) is kl.Dense:
        return np.asarray(ops.convert_to_numpy(inputs)).reshape(-1, inputs.shape[-1])
    if type(layer) is kl.Conv2D and layer.groups == 1 and layer.data_format == "channels_last":
        patches = ops.image.extract_patches(
            inputs,
            layer.kernel_size,
            strides=layer.strides,
            dilation_rate=layer.dilation_rate,
            padding=layer.padding,
            data_format="channels_last",
        )
        return np.asarray(ops.convert_to_numpy(patches)).reshape(-1, patches.shape[-1])
    return None


def moments_of(model: Any, layers: Sequence[Any], batches: Sequence[Any]) -> dict[int, Moments]:
    """The moments of the inputs of some layers.

    Args:
        model: The model.
        layers: The layers.
        batches: What to call the model with.

    Returns:
        By the layer's identity; layers whose rows are not known are absent.
    """
    found: dict[int, Moments] = {}

    def see(layer: Any, call: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
        rows = rows_of(layer, inputs)
        if rows is not None:
            found.setdefault(id(layer), Moments()).add(rows)
        return call(inputs, *args, **kwargs)

    with seen([layer for layer in layers if type(layer) in (kl.Dense, kl.Conv2D)], see):
        for batch in batches:
            model(batch, training=False)
    return found


class Statistics:
    """What a model's batch normalizations are fed with, before its weights are rounded."""

    def __init__(self, model: Any, batch: Any) -> None:
        """Measures the model as it is.

        Args:
            model: The model.
            batch: Many samples.
        """
        self._model, self._batch = model, batch
        self._layers = [
            layer for layer, _ in sublayers(model) if type(layer) is kl.BatchNormalization
        ]
        self._kept: dict[int, tuple[Any, ...]] = {}
        self._walk(self._keep)

    def settle(self) -> None:
        """Moves every batch normalization by as much as what it is fed with has moved.

        Weights that were rounded move the statistics of all that follows. One pass does it: each
        layer sees what those before it, settled already, put out. What the few samples say of mean
        and variance is only compared, never taken for that of all data.
        """
        self._walk(self._move)

    def _walk(self, see: Callable[..., Any]) -> None:
        if self._layers:
            with seen(self._layers, see):
                self._model(self._batch, training=False)

    def _keep(
        self, layer: Any, call: Callable[..., Any], inputs: Any, *args: Any, **kw: Any
    ) -> Any:
        told = (layer.moving_mean, layer.moving_variance)
        kept = [
            np.asarray(ops.convert_to_numpy(value)) for value in (*told, *_spread(layer, inputs))
        ]
        self._kept[id(layer)] = tuple(kept)
        return call(inputs, *args, **kw)

    def _move(
        self, layer: Any, call: Callable[..., Any], inputs: Any, *args: Any, **kw: Any
    ) -> Any:
        mean, variance, before, wide = self._kept[id(layer)]
        now = [np.asarray(ops.convert_to_numpy(value)) for value in _spread(layer, inputs)]
        layer.moving_mean.assign(mean + now[0] - before)
        share = (now[1] + layer.epsilon) / (wide + layer.epsilon)
        layer.moving_variance.assign(variance * np.clip(share, 0.1, 10.0))
        return call(inputs, *args, **kw)


def _spread(layer: Any, inputs: Any) -> tuple[Any, Any]:
    """Mean and variance of each channel."""
    rank = len(inputs.shape)
    axes = [axis for axis in range(rank) if axis != layer.axis % rank]
    mean, variance = ops.moments(ops.cast(inputs, "float32"), axes)
    return mean, variance


def batches_of(inputs: Any, size: int) -> list[Any]:
    """Samples in batches.

    Args:
        inputs: An array, or a structure of arrays, of as many rows.
        size: Rows of a batch.
    """
    count = len(keras.tree.flatten(inputs)[0])
    return [
        keras.tree.map_structure(lambda array, i=i: array[i : i + size], inputs)
        for i in range(0, count, size)
    ]
