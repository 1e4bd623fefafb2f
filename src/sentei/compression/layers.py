"""The layers of a model as matrices that can be rounded and put back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import ops

from sentei.compression.curvature import Moments, moments_of
from sentei.compression.rounding import Curved, Rounded
from sentei.core.divergence import divergence
from sentei.quantization import quantized
from sentei.quantization.rate.quantizer import RatedQuantizer

# The size of the push by which a layer's influence is measured, over that of its weights.
_PUSH = 0.05


class Matrix:
    """A kernel, its curvature, and the quantizer that holds its step.

    Attributes:
        label: Its name in the model.
        size: How many weights.
        influence: How far the predictions diverge for each unit that the products are off.
    """

    def __init__(self, weight: Any, quantizer: RatedQuantizer, moments: Moments | None) -> None:
        """Reads a kernel.

        Args:
            weight: The plan's entry.
            quantizer: Its quantizer.
            moments: Of what the kernel is multiplied with; None if that is not known.
        """
        self.label, self._variable, self._quantizer = weight.label, weight.variable, quantizer
        self._original = np.asarray(ops.convert_to_numpy(weight.variable.value), np.float64)
        self.size = self._original.size
        rows = self._original.reshape(-1, self._original.shape[-1])
        self._moments, self._mean = None, None
        if moments is not None:
            self._moments = moments.second / moments.count
            self._mean = moments.first / moments.count
        self._curved = Curved(rows, self._moments)
        self.influence = 1.0
        self._bias = next((v for v in weight.layer.weights if v.name == "bias"), None)
        self._shift = None if self._bias is None else _numbers(self._bias)

    def measure(self, predict: Callable[[], np.ndarray], expected: np.ndarray) -> None:
        """Finds the layer's influence by moving its weights at random, once.

        Args:
            predict: The model's predictions.
            expected: Those with the weights as they were.
        """
        random = np.random.default_rng(0)
        spread = _PUSH * float(np.sqrt(np.mean(self._original**2)))
        push = random.normal(size=self._original.shape) * spread
        self._variable.assign(self._original + push)
        moved = divergence(expected, predict())
        self._variable.assign(self._original)
        flat = push.reshape(-1, push.shape[-1])
        products = flat if self._moments is None else self._moments @ flat
        self.influence = max(moved, 1e-12) / max(float(np.sum(flat * products)), 1e-30)

    def round(self, price: float) -> Rounded:
        """The best rounding when a bit is worth some divergence of the predictions.

        Args:
            price: The divergence that a bit is worth.
        """
        return self._curved.best(price / self.influence, self._quantizer.kind.high)

    def put(self, rounded: Rounded) -> None:
        """Writes rounded weights into the model, and makes up for the mean of what is off.

        Args:
            rounded: What `round` gave.
        """
        values = np.float32(rounded.integers) * np.float32(rounded.step)
        self._variable.assign(values.reshape(self._original.shape))
        self._quantizer.set_step(rounded.step)
        if self._bias is not None and self._mean is not None and self._shift is not None:
            error = self._original.reshape(values.shape) - values
            self._bias.assign(self._shift + self._mean @ error)


def matrices_of(qmodel: Any, float_model: Any, batches: Sequence[Any]) -> list[Matrix]:
    """All kernels of a model.

    Args:
        qmodel: A model quantized with a price.
        float_model: What it shares its variables with.
        batches: What to call the float model with.
    """
    kernels = [pair for pair in _rated(qmodel) if not pair[1].stored_float]
    moments = moments_of(float_model, [weight.layer for weight, _ in kernels], batches)
    return [Matrix(weight, own, _fitting(weight, moments)) for weight, own in kernels]


def round_biases(qmodel: Any) -> None:
    """Gives every bias the step at which its largest number is the largest integer.

    Args:
        qmodel: A model quantized with a price.
    """
    for weight, quantizer in _rated(qmodel):
        if quantizer.stored_float:
            largest = float(np.abs(_numbers(weight.variable)).max(initial=0.0))
            quantizer.set_step(max(largest / quantizer.kind.high, 1e-8))


def _rated(qmodel: Any) -> list[tuple[Any, RatedQuantizer]]:
    layer = quantized(qmodel)
    if layer is None:
        return []
    pairs = [(weight, layer.by_name[weight.label]) for weight in layer.plan.weights]
    return [(weight, own) for weight, own in pairs if isinstance(own, RatedQuantizer)]


def _fitting(weight: Any, moments: dict[int, Moments]) -> Moments | None:
    found = moments.get(id(weight.layer))
    rows = int(np.prod(weight.variable.shape[:-1]))
    fits = found is not None and found.second is not None and len(found.second) == rows
    return found if fits and weight.variable.name == "kernel" else None


def _numbers(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable.value), np.float64)
