"""The layer that shows a weight on its grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.quantization import grid as grids
from sentei.quantization.grid import Grid, Kind
from sentei.quantization.learned import learned, slowed
from sentei.quantization.quantizer import Quantizer, concrete

_LEAST_RATIO = 1 / 16


@keras.saving.register_keras_serializable("sentei")
class WeightQuantizer(Quantizer):
    """The quantizer of a weight: its range is that of the weight's current numbers.

    Unless it has steps of its own, which then stay as they are, or are learned by gradient. Zeros
    stay zeros, for the grid is symmetric.

    Attributes:
        learned: Whether training moves the steps.
        step: The variable that holds them, one per scale of the grid; 0: that of the largest
            number.
        depthwise: Whether the weight is the kernel of a depthwise convolution, which LiteRT has
            no operator of 4 bits for.
        ratio: What training multiplies them with, if they are learned. Steps are often smaller
            than what Adam moves a variable by at once; their ratios to the first ones are not.
    """

    _read: Callable[[], Any] | None = None

    def __init__(
        self, kind: Kind | dict[str, Any], *, label: str = "", learned: bool = False, **kwargs: Any
    ) -> None:
        """Makes a quantizer.

        Args:
            kind: The sort of grid.
            label: The tensor's name, for reports.
            learned: Whether training moves the steps.
            **kwargs: Keras' own.
        """
        super().__init__(kind, label=label, **kwargs)
        self.learned = learned
        self.depthwise = False

    def watch(self, variable: Any) -> None:
        """Says whose numbers make the grid.

        Args:
            variable: The Keras variable.
        """
        # In a function: as an attribute, Keras would count the variable as this layer's own.
        self._read = lambda: variable
        self.step = self.add_weight(
            shape=grids.scales(tuple(variable.shape), self.kind),
            initializer="zeros",
            trainable=False,
            name="step",
        )
        if self.learned:
            self.ratio = self.add_weight(
                shape=self.step.shape, initializer="ones", trainable=True, name="ratio"
            )
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the variables exist already."""

    @property
    def variable(self) -> Any:
        """The Keras variable that is quantized."""
        if self._read is None:
            raise SenteiError(f"Quantizer {self.label!r} has no weight: call watch(variable).")
        return self._read()

    def set_steps(self, step: np.ndarray) -> None:
        """Gives the grid steps of its own.

        Args:
            step: Positive, one per scale; all 0: those of the largest numbers again.

        Raises:
            SenteiError: They are negative or not finite, or there are too few.
        """
        step = np.asarray(step, np.float32)
        if step.shape != tuple(self.step.shape) or not np.isfinite(step).all() or step.min() < 0:
            raise SenteiError(f"{self.label!r} cannot have these steps: {step!r}.")
        self.step.assign(step)
        if self.learned:
            self.ratio.assign(np.ones_like(step))

    def simulate(self, x: Any, training: bool | None, mask: Any) -> Any:
        """See `call`."""
        full = ops.cast(x, "float32")
        scale, zero = self.numbers()
        if self.learned:
            count = math.prod(self.variable.shape) / math.prod(self.step.shape)
            # The ratio moves as LSQ moves the step, in units of the first step.
            ratio = self.ratio.value
            moving = (ratio - ops.stop_gradient(ratio)) / ops.maximum(self.step.value, 2.0**-60)
            scale = ops.stop_gradient(scale) + slowed(moving, count, self.kind)
            return ops.cast(learned(full, scale, zero, self.kind), x.dtype)
        return ops.cast(grids.fake_quantize(full, scale, zero, self.kind), x.dtype)

    def numbers(self) -> tuple[Any, Any]:
        """See the base class."""
        values = ops.cast(self.variable.value, "float32")
        low, high = grids.extremes(ops.stop_gradient(values), self.kind)
        scale, zero = grids.numbers(low, high, self.kind)
        if self.learned:
            scale = ops.where(
                self.step.value == 0, scale, _times(self.step.value, self.ratio.value)
            )
            return scale, zero
        return ops.where(self.step.value == 0, scale, self.step.value), zero

    def grid(self) -> Grid:
        """See the base class."""
        values = np.asarray(concrete(self.variable), np.float32)
        scale, zero = grids.numbers(*grids.extremes(values, self.kind, np), self.kind, np)
        step = concrete(self.step)
        own = _times(step, concrete(self.ratio), np) if self.learned else step
        scale = np.where(step == 0, scale, own)
        return Grid(self.kind, np.asarray(scale, np.float32), np.asarray(zero, np.int64))

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "learned": self.learned}


def _times(step: Any, ratio: Any, xp: Any = ops) -> Any:
    """The learned steps: they stay positive, whatever the optimizer does."""
    return step * xp.maximum(ratio, _LEAST_RATIO)
