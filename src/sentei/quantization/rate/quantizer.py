"""The quantizer of a weight whose bits have a price: a learned step, and a loss for its code."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.quantization.exactly import inverse
from sentei.quantization.grid import Grid, Kind
from sentei.quantization.rate import estimate
from sentei.quantization.weight_quantizer import WeightQuantizer

BITS_IN_KILOBYTE = 8192.0
# How much of its old table a quantizer keeps at each step.
_MEMORY = 0.9
# The first step is this share of the weights' deviation; that of a weight of zeros is fixed.
_OF_DEVIATION, _OF_ZEROS = 1.0, 1.0 / 16


@keras.saving.register_keras_serializable("sentei")
class RatedQuantizer(WeightQuantizer):
    """Rounds a weight to one learned step, and adds what its code costs to the loss.

    Training minimizes `loss + price * kilobytes` (Oktay et al. 2020, arXiv:1906.06624, eq. 3), with
    the code length of `estimate.code_length`. The step is learned by the straight-through
    estimator, as in LSQ (Esser et al. 2020, arXiv:1902.08153), in its logarithm.

    Attributes:
        price: What a kilobyte is worth at first, in units of the loss.
        factor: The variable that the price is multiplied by; `RateTarget` moves it.
        stored_float: Whether the file holds the rounded numbers in floating point (biases).
    """

    def __init__(
        self, kind: Kind | dict[str, Any], *, price: float, stored_float: bool, **kwargs: Any
    ) -> None:
        """Makes a quantizer.

        Args:
            kind: The sort of grid: symmetric, of one scale.
            price: What a kilobyte is worth at first.
            stored_float: See the class.
            **kwargs: Those of `Quantizer`.
        """
        super().__init__(kind, **kwargs)
        self.price, self.stored_float = price, stored_float

    def watch(self, variable: Any) -> None:
        """Says whose numbers are rounded, and takes the first step from them.

        Args:
            variable: The Keras variable.
        """
        super().watch(variable)
        shape = tuple(variable.shape)
        self.log_step = self._variable("log_step", (1,), trainable=True)
        self.densities = [self._variable(f"density_{a}", (n,)) for a, n in enumerate(shape)]
        self.shares = self._variable("shares", (estimate.LISTED + 1,))
        self.excess = self._variable("excess", (1,))
        self.factor = self._variable("factor", (), initializer="ones")
        self.built = True
        self.set_step(_first_step(np.asarray(ops.convert_to_numpy(variable.value)), self.kind))

    def set_step(self, step: float) -> None:
        """Sets the step, and fits the table to the weight's numbers.

        Args:
            step: The distance between two neighbours of the grid.
        """
        self.log_step.assign(np.full(1, np.log(step), np.float32))
        self._keep(estimate.fit(self.integers().astype(np.float32), np), 0.0)

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: `watch` makes the variables."""

    def call(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The weight on its grid; in training, what it costs joins the losses.

        Args:
            x: The weight.
            training: Whether it is trained.
            mask: Not used.
        """
        if self.emit is not None and self.stored_float and not self.identity:
            return ops.convert_to_tensor(self.grid().dequantize(self.integers()))
        return super().call(x, training=training, mask=mask)

    def simulate(self, x: Any, training: bool | None, mask: Any) -> Any:
        """See `call`."""
        step = self._step(x)
        places = ops.clip(ops.cast(x, "float32") * inverse(step), self.kind.low, self.kind.high)
        whole = ops.stop_gradient(ops.round(places))
        if training:
            bits = ops.sum(estimate.code_length(places, self.table(), self.kind.high))
            self.add_loss(bits * self.factor.value * (self.price / BITS_IN_KILOBYTE))
            self._keep(estimate.fit(whole), _MEMORY)
        return ops.cast((places + ops.stop_gradient(whole - places)) * step, x.dtype)

    def _step(self, x: Any) -> Any:
        # LSQ's scaling: the gradients of all weights add up in the one step.
        share = 1.0 / float(np.sqrt(max(np.prod(x.shape), 1) * self.kind.high))
        log_step = self.log_step.value
        fixed = ops.stop_gradient(log_step)
        return ops.exp(fixed) * (1.0 + share * (log_step - fixed))

    def table(self) -> estimate.Table:
        """What a coder knows of the weight's integers, a few steps old."""
        densities = [density.value for density in self.densities]
        return estimate.Table(densities, self.shares.value, self.excess.value)

    def integers(self) -> np.ndarray:
        """The integers that the weight is rounded to now, of its shape."""
        with keras.StatelessScope():
            values = np.asarray(ops.convert_to_numpy(self.variable.value), np.float32)
        return self.grid().quantize(values)

    def bits(self) -> float:
        """The bits of the weight as it is now, by a table fitted to it."""
        whole = self.integers().astype(np.float32)
        known = estimate.fit(ops.convert_to_tensor(whole))
        return float(
            ops.convert_to_numpy(ops.sum(estimate.code_length(whole, known, self.kind.high)))
        )

    def grid_of(self, value: np.ndarray) -> Grid:
        """The grid; it does not depend on the weight's numbers.

        Args:
            value: Not used.
        """
        with keras.StatelessScope():
            log_step = np.asarray(ops.convert_to_numpy(self.log_step.value), np.float32)
        return Grid(self.kind, np.exp(log_step), np.zeros(1, np.int64))

    def grid(self) -> Grid:
        """See the base class."""
        return self.grid_of(np.empty(0))

    def numbers(self) -> tuple[Any, Any]:
        """Scale and zero point as tensors of the program that is being run or traced."""
        scale = ops.exp(self.log_step.value)
        return scale, ops.zeros_like(scale)

    def _keep(self, table: estimate.Table, memory: float) -> None:
        olds = [*self.densities, self.shares, self.excess]
        for old, new in zip(olds, [*table.densities, table.shares, table.excess], strict=True):
            old.assign(old.value * memory + ops.convert_to_tensor(new, "float32") * (1.0 - memory))

    def _variable(self, name: str, shape: tuple[int, ...], **kwargs: Any) -> Any:
        own = {"initializer": "zeros", "trainable": False, **kwargs}
        return self.add_weight(shape=shape, name=name, **own)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        own = {"price": self.price, "stored_float": self.stored_float}
        return {**super().get_config(), **own}


def _first_step(values: np.ndarray, kind: Kind) -> float:
    used = values[values != 0].astype(np.float64)
    if used.size < 2:
        return _OF_ZEROS
    return float(max(used.std() * _OF_DEVIATION, np.abs(used).max() / kind.high, 1e-8))
