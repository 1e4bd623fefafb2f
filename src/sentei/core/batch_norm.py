"""Batch normalization's statistics of the weights as they are, from samples.

Pruning, clustering and rounding move what a batch normalization sees. Its moving statistics follow
at one part in a hundred a step: after a short fine-tuning they are still half those of the dense
network, and inference uses them. Estimating them anew repairs this without training
(Li et al. 2020, "EagleEye", arXiv:2007.02491: adaptive batch normalization; Wu & Johnson 2021,
arXiv:2105.07576: precise batch normalization).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.samples import batches
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
    found = [_Statistics(layer) for layer in _layers(model)]
    if not found:
        return model
    shown = sys.stderr.isatty() if progress is None else progress
    count = 0
    before = [statistics.held() for statistics in found]
    try:
        with ExitStack() as stack:
            for layer in [layer for layer, _ in sublayers(model) if hasattr(layer, "in_integers")]:
                stack.enter_context(_without_integers(layer))
            for statistics in found:
                stack.enter_context(statistics.watching())
            for count, batch in enumerate(batches(model, data, batch_size), start=1):
                model(_tensors(batch), training=False)
                if shown:
                    sys.stderr.write(f"\rbatch normalization: batch {count}")
        if not count:
            raise SenteiError("The data is empty. Give at least one batch of samples.")
        after = [
            statistics.found() if statistics.count else held
            for statistics, held in zip(found, before, strict=True)
        ]
    except BaseException:
        _give(found, before)
        raise
    finally:
        if shown and count:
            sys.stderr.write("\n")
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

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Lets the layer normalize as in training, and adds up what it finds."""
        layer = self.layer
        call, momentum = layer.call, layer.momentum

        def watched(inputs: Any, training: bool | None = None, mask: Any = None) -> Any:
            # Without momentum, the moving statistics are those of this very call.
            outputs = call(inputs, training=True, mask=mask)
            self._add(inputs.shape[0])
            return outputs

        layer.call, layer.momentum = watched, 0.0
        try:
            yield
        finally:
            layer.call, layer.momentum = call, momentum

    def _add(self, samples: int) -> None:
        mean, variance = self.held()
        self._first = self._first + samples * mean
        self._second = self._second + samples * (variance + np.square(mean))
        self.count += samples


@contextmanager
def _without_integers(layer: Any) -> Iterator[None]:
    """Lets a quantized model's layer compute as in training: its batch normalizations are called.

    At inference they are folded into the integer kernels before them.
    """
    layer.in_integers = False
    try:
        yield
    finally:
        layer.in_integers = True


def _give(found: Sequence[_Statistics], values: Sequence[tuple[Any, Any]]) -> None:
    for statistics, (mean, variance) in zip(found, values, strict=True):
        statistics.layer.moving_mean.assign(mean)
        statistics.layer.moving_variance.assign(variance)


def _layers(model: Any) -> list[Any]:
    """Every batch normalization in a model that learns, each once."""
    found = {
        id(layer): layer
        for layer, _ in sublayers(model)
        if isinstance(layer, kl.BatchNormalization) and layer.built and layer.trainable
    }
    return list(found.values())


def _tensors(batch: Any) -> Any:
    return keras.tree.map_structure(ops.convert_to_tensor, batch)
