"""The layer through which a quantized tensor passes: one for each grid of a model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.quantization import grid as grids
from sentei.quantization.grid import Grid, Kind
from sentei.quantization.learned import learned, slowed

RANGES = ("fixed", "moving", "learned")


@keras.saving.register_keras_serializable("sentei")
class Quantizer(keras.layers.Layer):
    """Rounds a tensor to its grid: simulates integers in floating point.

    There is one object per grid: tensors that must have the same scale (a max pooling's input and
    output, all inputs of a concatenation) pass through the same object.

    Attributes:
        kind: The sort of grid.
        label: The tensor's name in the model, for reports.
        emit: When set, what a call returns instead of simulating: a function of the tensor and
            the concrete `Grid`. Export sets it for the time of tracing; biases stay float then.
        stand_in: The same, of a simulation that goes on with other numbers than its own, as
            verification does; biases are rounded as ever. Called with `in_steps=True` it takes the
            tensor in steps from the zero point.
        identity: When true, a call returns the tensor as it is.
        moved: Whether what is being rounded was on the grid before: reshaped, padded, the largest
            of others.
    """

    def __init__(self, kind: Kind | dict[str, Any], *, label: str = "", **kwargs: Any) -> None:
        """Makes a quantizer.

        Args:
            kind: The sort of grid.
            label: The tensor's name, for reports.
            **kwargs: Keras' own.
        """
        kwargs.setdefault("dtype", "float32")
        super().__init__(autocast=False, **kwargs)
        self.kind = kind if isinstance(kind, Kind) else Kind(**kind)
        self.label = label
        self.emit: Callable[[Any, Grid], Any] | None = None
        self.stand_in: Callable[..., Any] | None = None
        self.identity = False
        self.moved = False
        self.supports_masking = True

    def call(self, x: Any, training: bool | None = None, mask: Any = None) -> Any:
        """The tensor on its grid.

        Args:
            x: A floating tensor.
            training: Whether ranges may move.
            mask: Keras' mask of the tensor, if it has one: masked steps are not observed.
        """
        if self.identity:
            return x
        replaced = self.emit or self.stand_in
        if replaced is not None:
            return replaced(x, self.grid())
        return self.simulate(x, training, mask)

    def simulate(self, x: Any, training: bool | None, mask: Any) -> Any:
        """What a call returns when nothing else is asked for; see `call`."""
        raise NotImplementedError

    def numbers(self) -> tuple[Any, Any]:
        """Scale and zero point as tensors of the program that is being run or traced."""
        raise NotImplementedError

    def ready(self) -> Any:
        """Whether it rounds: a truth value, or a tensor of one."""
        return not self.identity

    @property
    def surely_ready(self) -> bool:
        """Whether it is known to round, also while a model is traced."""
        return not self.identity

    def grid(self) -> Grid:
        """The concrete grid, from the current variables; also while a model is traced."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "kind": asdict(self.kind), "label": self.label}


@keras.saving.register_keras_serializable("sentei")
class ActivationQuantizer(Quantizer):
    """The quantizer of an activation: its range is calibrated, and may go on moving in training.

    Until it has a range, it returns the tensor as it is (and observes it in training if `ranges`
    is `"moving"`).

    Attributes:
        ranges: What training does with the range: `"fixed"`: nothing; `"moving"`: it follows the
            batches' extremes; `"learned"`: by gradient.
        momentum: How much of the old range a moving one keeps at each step.
        frozen_after: After how many steps a moving range stays as it is; None: never.
    """

    def __init__(
        self,
        kind: Kind | dict[str, Any],
        *,
        label: str = "",
        ranges: str = "fixed",
        momentum: float = 0.99,
        frozen_after: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Makes a quantizer without a range yet.

        Args:
            kind: The sort of grid.
            label: The tensor's name, for reports.
            ranges: `"fixed"`, `"moving"` or `"learned"`.
            momentum: Of a moving range, between 0 and 1.
            frozen_after: See the class.
            **kwargs: Keras' own.

        Raises:
            SenteiError: An argument is out of its bounds.
        """
        super().__init__(kind, label=label, **kwargs)
        if ranges not in RANGES:
            raise SenteiError(f"`ranges` must be one of {RANGES}. Received: ranges={ranges!r}.")
        if not 0.0 <= momentum < 1.0:
            raise SenteiError(f"`momentum` must be in [0, 1). Received: momentum={momentum}.")
        self.ranges, self.momentum, self.frozen_after = ranges, momentum, frozen_after
        self.low = self._variable("low", trainable=ranges == "learned")
        self.high = self._variable("high", trainable=ranges == "learned")
        # The weight of what the range has seen, in batches; 0: there is no range yet.
        self.seen = self._variable("seen", trainable=False)
        self.steps = self._variable("steps", trainable=False)
        self._known = False
        self.built = True

    def _variable(self, name: str, trainable: bool) -> Any:
        return self.add_weight(shape=(1,), initializer="zeros", trainable=trainable, name=name)

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the variables exist already."""

    @property
    def calibrated(self) -> bool:
        """Whether there is a range."""
        return bool(concrete(self.seen)[0] > 0)

    def set_range(self, low: float, high: float) -> None:
        """Calibrates.

        Args:
            low: The lowest number to be represented.
            high: The highest.

        Raises:
            SenteiError: They are not finite, or in the wrong order.
        """
        if not (np.isfinite(low) and np.isfinite(high) and low <= high):
            raise SenteiError(f"{self.label!r} cannot have the range {low} to {high}.")
        self.low.assign(np.full(1, low, "float32"))
        self.high.assign(np.full(1, high, "float32"))
        # A moving range starts from it as from its own past.
        self.seen.assign(np.full(1, 1.0 / (1.0 - self.momentum), "float32"))
        self._known = True

    @property
    def surely_ready(self) -> bool:
        """See the base class."""
        return self._known and not self.identity

    def load_own_variables(self, store: Any) -> None:
        """Takes up what was saved.

        Args:
            store: Keras' own.
        """
        super().load_own_variables(store)
        self._known = self.calibrated

    def simulate(self, x: Any, training: bool | None, mask: Any) -> Any:
        """See `call`."""
        full = ops.cast(x, "float32")
        if training and self.ranges == "moving":
            self._observe(ops.stop_gradient(full), mask)
        low, high = self.low.value, self.high.value
        if self.ranges == "learned":
            # Per sample: a batch's gradients are averaged by the loss.
            count = ops.size(full) / ops.shape(full)[0] if len(full.shape) else 1
            low, high = (slowed(end, count, self.kind) for end in (low, high))
        scale, zero = grids.numbers(low, high, self.kind)
        function = learned if self.ranges == "learned" else grids.fake_quantize
        rounded = function(full, scale, ops.stop_gradient(zero), self.kind)
        if not self.surely_ready:
            rounded = ops.where(self.ready(), rounded, full)
        return ops.cast(rounded, x.dtype)

    def ready(self) -> Any:
        """See the base class."""
        return False if self.identity else self.seen.value[0] > 0

    def numbers(self) -> tuple[Any, Any]:
        """See the base class."""
        return grids.numbers(self.low.value, self.high.value, self.kind)

    def _observe(self, x: Any, mask: Any) -> None:
        """Moves the range towards the batch's extremes.

        An exponential moving average without a bias towards its start: the n-th batch has the
        weight `max(1 - momentum, 1 / n)`, so the first ones are averaged evenly.
        """
        if mask is not None:
            mask = ops.expand_dims(mask, tuple(range(len(mask.shape), len(x.shape))))
            x = ops.where(mask, x, 0.0)  # every range holds 0 anyway
        seen = self.seen.value
        weight = ops.maximum(1.0 - self.momentum, 1.0 / (seen + 1.0))
        if self.frozen_after is not None:
            weight = ops.where(self.steps.value >= self.frozen_after, 0.0, weight)
        for end, value in ((self.low, ops.min(x)), (self.high, ops.max(x))):
            end.assign(end.value + weight * (value - end.value))
        self.seen.assign(seen + 1.0)
        self.steps.assign(self.steps.value + 1.0)

    def grid(self) -> Grid:
        """See the base class.

        Raises:
            SenteiError: It is not calibrated.
        """
        if not self.calibrated:
            raise SenteiError(
                f"The activation {self.label!r} has no range yet. Calibrate the model: "
                "sentei.quantization.calibrate(qmodel, samples)."
            )
        return _grid(concrete(self.low), concrete(self.high), self.kind)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        names = ("ranges", "momentum", "frozen_after")
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}


@keras.saving.register_keras_serializable("sentei")
class FixedQuantizer(Quantizer):
    """The quantizer of an operation whose output grid LiteRT prescribes: softmax, tanh, sigmoid."""

    def __init__(
        self,
        kind: Kind | dict[str, Any],
        *,
        scale: float,
        zero_point: int,
        label: str = "",
        **kwargs: Any,
    ) -> None:
        """Makes a quantizer.

        Args:
            kind: The sort of grid.
            scale: The step.
            zero_point: The integer of 0.
            label: The tensor's name, for reports.
            **kwargs: Keras' own.
        """
        super().__init__(kind, label=label, **kwargs)
        self.scale, self.zero_point = scale, zero_point

    def simulate(self, x: Any, training: bool | None, mask: Any) -> Any:
        """See `call`."""
        rounded = grids.fake_quantize(ops.cast(x, "float32"), *self.numbers(), self.kind)
        return ops.cast(rounded, x.dtype)

    def numbers(self) -> tuple[Any, Any]:
        """See the base class."""
        scale = ops.convert_to_tensor(np.full(1, self.scale, "float32"))
        return scale, ops.convert_to_tensor(np.full(1, self.zero_point, "float32"))

    def grid(self) -> Grid:
        """See the base class."""
        scale, zero = np.full(1, self.scale, np.float32), np.full(1, self.zero_point, np.int64)
        return Grid(self.kind, scale, zero)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {**super().get_config(), "scale": self.scale, "zero_point": self.zero_point}


def concrete(variable: Any) -> np.ndarray:
    """A variable's own numbers, also inside a scope or trace that shows others in its place."""
    with keras.StatelessScope():
        return np.asarray(ops.convert_to_numpy(variable.value), np.float32)


def _grid(low: np.ndarray, high: np.ndarray, kind: Kind) -> Grid:
    scale, zero = grids.numbers(np.float32(low), np.float32(high), kind, np)
    return Grid(kind, np.asarray(scale, np.float32), np.asarray(zero, np.int64))
