"""Batch normalization's statistics of the weights as they are, from samples.

Pruning, clustering and rounding move what a batch normalization sees. Its moving statistics follow
at one part in a hundred a step: after a short fine-tuning they are still half those of the dense
network, and inference uses them. Estimating them anew repairs this without training
(Li et al. 2020, "EagleEye", arXiv:2007.02491: adaptive batch normalization; Wu & Johnson 2021,
arXiv:2105.07576: precise batch normalization).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.samples import batches, told
from sentei.core.seen import seen
from sentei.core.select import require_built, sublayers


def update_batch_norm(
    model: Any, data: Any, *, batch_size: int = 128, progress: bool | None = None
) -> Any:
    """Gives every batch normalization the mean and variance of what it sees on samples.

    Call it when training is done, before a model is evaluated or exported, or right after pruning
    without any training. Each layer normalizes with the statistics of the batch while samples run,
    as in training, and ends with the mean over all batches, and the variance about it. Nothing else
    changes: no weight, no range, and dropout is off. Frozen layers (`trainable=False`) keep what
    they have. Masked steps do not count.

    Args:
        model: a built Keras model, also one made by `sentei.quantize`; changed in place.
        data: samples of the training data, augmented as in training (a ResNet-20 trained on
            shifted images lost 3 points with statistics of unshifted ones): an array, a dict of
            arrays by input name, a list of arrays (one per input), or batches (a PyDataset,
            generator, tf.data.Dataset or DataLoader); targets are left out. 1,000 to 10,000 are
            enough.
        batch_size: how many samples of an array to run at once: that of training, or more.
        progress: whether to show progress on a terminal; None: if there is one.

    Returns:
        The same model. One without batch normalization is returned as it is.

    Raises:
        SenteiError: when the model is not built, a batch normalization renormalizes
            (`renorm=True`), or the samples are none, do not fit, or lead to NaN or infinite
            statistics. The model is then as it was.
    """
    require_built(model)
    found = {layer: _Statistics(layer) for layer in _layers(model)}
    if not found:
        return model
    before = [statistics.held() for statistics in found.values()]
    try:
        with ExitStack() as stack:
            for layer in [layer for layer, _ in sublayers(model) if hasattr(layer, "in_integers")]:
                stack.enter_context(_with(layer, "in_integers", False))
            for layer in found:
                # Without momentum, the moving statistics are those of the very call.
                stack.enter_context(_with(layer, "momentum", 0.0))
            stack.enter_context(
                seen([*found], lambda layer, *call, **kw: found[layer].see(*call, **kw))
            )
            for batch in told(batches(model, data, batch_size), "batch normalization", progress):
                model(_tensors(batch), training=False)
        after = [
            statistics.found() if statistics.count else held
            for statistics, held in zip(found.values(), before, strict=True)
        ]
    except BaseException:
        _give(found, before)
        raise
    _give(found, after)
    return model


class _Statistics:
    """What one batch normalization sees, summed up over its calls."""

    def __init__(self, layer: Any) -> None:
        if getattr(layer, "renorm", False):
            raise SenteiError(
                f"{layer.name!r} renormalizes (`renorm=True`): its statistics cannot be estimated "
                "apart from its corrections. Freeze it (`trainable = False`) to leave it out."
            )
        self.layer = layer
        self.count = 0.0
        self._first: Any = 0.0
        self._second: Any = 0.0

    def held(self) -> tuple[Any, Any]:
        """The mean and variance the layer has now."""
        pair = (self.layer.moving_mean, self.layer.moving_variance)
        mean, variance = (np.array(ops.convert_to_numpy(x), np.float64) for x in pair)
        return mean, variance

    def found(self) -> tuple[Any, Any]:
        """Those of all that was seen, each call weighing as much as it had samples."""
        mean = self._first / self.count
        variance = np.maximum(self._second / self.count - np.square(mean), 0.0)
        with np.errstate(over="ignore"):
            result = mean.astype("float32"), variance.astype("float32")
        if not all(np.isfinite(x).all() for x in result):
            raise SenteiError(
                f"What {self.layer.name!r} sees is not finite (NaN or infinite). Check the data "
                "and the model's weights."
            )
        return result

    def see(
        self,
        call: Callable[..., Any],
        inputs: Any,
        training: bool | None = None,
        mask: Any = None,
    ) -> Any:
        """Lets the layer normalize as in training, and adds up what it finds."""
        outputs = call(inputs, training=True, mask=mask)
        samples = inputs.shape[0]
        mean, variance = self.held()
        self._first = self._first + samples * mean
        self._second = self._second + samples * (variance + np.square(mean))
        self.count += samples
        return outputs


@contextmanager
def _with(layer: Any, name: str, value: Any) -> Iterator[None]:
    """Gives a layer's attribute another value for a time.

    `in_integers` false lets a quantized model compute as in training: at inference, its batch
    normalizations are folded into the integer kernels before them, and not called.
    """
    before = getattr(layer, name)
    setattr(layer, name, value)
    try:
        yield
    finally:
        setattr(layer, name, before)


def _give(layers: Iterable[Any], values: Sequence[tuple[Any, Any]]) -> None:
    for layer, (mean, variance) in zip(layers, values, strict=True):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)


def _layers(model: Any) -> list[Any]:
    """Every batch normalization in a model that learns."""
    return [
        layer
        for layer, _ in sublayers(model)
        if isinstance(layer, kl.BatchNormalization) and layer.built and layer.trainable
    ]


def _tensors(batch: Any) -> Any:
    return keras.tree.map_structure(ops.convert_to_tensor, batch)
