"""The quantizers that the old toolkit's `QuantizeConfig`s name, and the base of users' own."""

from __future__ import annotations

import abc
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.quantization import grid as grids
from sentei.quantization.grid import Kind

# As in sentei's own moving ranges: the n-th batch weighs max(1 - momentum, 1 / n).
_MOMENTUM = 0.99
_LONG = 1e6


class Quantizer(abc.ABC):
    """Rounds a tensor. Subclass it to write your own."""

    @abc.abstractmethod
    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any] | None:
        """Makes the variables that it needs.

        Args:
            tensor_shape: Shape of the tensor; None where it is not known.
            name: The tensor's name: a weight's, `"output"`, `"pre_activation"`, ...
            layer: Who owns them: `layer.add_weight(name, shape=..., initializer=...)`.

        Returns:
            The variables by name.
        """

    @abc.abstractmethod
    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """The tensor, rounded.

        Args:
            inputs: The tensor.
            training: Whether the model trains.
            weights: What `build` gave.
            **kwargs: None at present.
        """

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        raise NotImplementedError("Quantizer should implement get_config().")

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Quantizer:
        """The quantizer that `get_config` described.

        Args:
            config: What it gave.
        """
        return cls(**config)


class _Known(Quantizer):
    """One of those below: equal when class and arguments are."""

    num_bits: int

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other.get_config() == self.get_config()

    def __hash__(self) -> int:
        return hash((type(self), str(self.get_config())))

    def _check(self) -> None:
        if isinstance(self.num_bits, bool) or not isinstance(self.num_bits, int):
            raise SenteiError(f"`num_bits` must be an integer. Received: {self.num_bits!r}.")
        Kind(bits=self.num_bits)


class _Ranged(_Known):
    """A quantizer whose range follows what it sees in training."""

    of_tensor_at_first = False

    def __init__(self, num_bits: int, per_axis: bool, symmetric: bool, narrow_range: bool) -> None:
        self.num_bits, self.per_axis = num_bits, per_axis
        self.symmetric, self.narrow_range = symmetric, narrow_range
        self._check()

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """See `Quantizer`."""
        shape = (tensor_shape[-1],) if self.per_axis and tensor_shape is not None else ()
        return {
            "min_var": _state(layer, f"{name}_min", shape),
            "max_var": _state(layer, f"{name}_max", shape),
            "seen_var": _state(layer, f"{name}_seen", ()),
        }

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """See `Quantizer`."""
        inputs = ops.convert_to_tensor(inputs)
        low, high = weights["min_var"], weights["max_var"]
        # A subclass that makes its own variables, as in the original, has a range from the start.
        count = weights.get("seen_var")
        seen = _LONG if count is None else count.value
        axis = len(inputs.shape) - 1 if len(low.shape) else None
        full = ops.stop_gradient(ops.cast(inputs, "float32"))
        axes = None if axis is None else tuple(range(axis))
        least, most = ops.min(full, axis=axes), ops.max(full, axis=axes)
        if training:
            self.follow(low, seen, least, ops.minimum)
            self.follow(high, seen, most, ops.maximum)
            if count is not None:
                count.assign(seen + 1.0)
                seen = seen + 1.0
        known = seen > 0
        if self.of_tensor_at_first:
            least, most = ops.where(known, low.value, least), ops.where(known, high.value, most)
            return _rounded(inputs, least, most, self, axis)
        rounded = _rounded(inputs, low.value, high.value, self, axis)
        return ops.where(known, rounded, inputs)

    def follow(self, end: Any, seen: Any, value: Any, further: Any) -> None:
        """Moves an end of the range.

        Args:
            end: The variable that holds it.
            seen: How many batches there were before this one.
            value: That of this batch.
            further: Which of two is further out.
        """
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("num_bits", "per_axis", "symmetric", "narrow_range")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("sentei_tfmot")
class LastValueQuantizer(_Ranged):
    """A range that is that of the last batch in training; before one, of the tensor itself.

    Args:
        num_bits: Bits of an integer.
        per_axis: Whether each channel of the last axis has a range.
        symmetric: Whether the zero point is 0.
        narrow_range: Whether the lowest integer is left out.

    Raises:
        SenteiError: When `num_bits` is no number of bits (a ValueError).
    """

    of_tensor_at_first = True

    def follow(self, end: Any, seen: Any, value: Any, further: Any) -> None:
        """See the base class."""
        end.assign(value)


@keras.saving.register_keras_serializable("sentei_tfmot")
class MovingAverageQuantizer(_Ranged):
    """A range that follows the batches: their average at first, then a moving one.

    Until there was a batch, tensors stay as they are. (The original began with -6 to 6.)

    Args:
        num_bits: Bits of an integer.
        per_axis: Whether each channel of the last axis has a range.
        symmetric: Whether the zero point is 0.
        narrow_range: Whether the lowest integer is left out.

    Raises:
        SenteiError: When `num_bits` is no number of bits (a ValueError).
    """

    def follow(self, end: Any, seen: Any, value: Any, further: Any) -> None:
        """See the base class."""
        share = ops.maximum(1.0 - _MOMENTUM, 1.0 / (seen + 1.0))
        end.assign(end.value + share * (value - end.value))


@keras.saving.register_keras_serializable("sentei_tfmot")
class AllValuesQuantizer(_Ranged):
    """A range that holds all values seen; until there were any, tensors stay as they are.

    Args:
        num_bits: Bits of an integer.
        per_axis: Whether each channel of the last axis has a range.
        symmetric: Whether the zero point is 0.
        narrow_range: Whether the lowest integer is left out.

    Raises:
        SenteiError: When `num_bits` is no number of bits (a ValueError).
    """

    def follow(self, end: Any, seen: Any, value: Any, further: Any) -> None:
        """See the base class."""
        end.assign(further(end.value, value))


@keras.saving.register_keras_serializable("sentei_tfmot")
class FixedQuantizer(_Known):
    """A range that stays.

    Args:
        num_bits: Bits of an integer.
        init_min: The lowest number to be represented.
        init_max: The highest.
        narrow_range: Whether the lowest integer is left out.

    Raises:
        SenteiError: When `num_bits` is no number of bits, or the range is empty (a ValueError).
    """

    symmetric = False

    def __init__(self, num_bits: int, init_min: float, init_max: float, narrow_range: bool) -> None:
        self.num_bits, self.narrow_range = num_bits, narrow_range
        self.init_min, self.init_max = init_min, init_max
        self._check()
        check_range(init_min, init_max)

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """See `Quantizer`."""
        return {}

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """See `Quantizer`."""
        return _rounded(inputs, float(self.init_min), float(self.init_max), self, None)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        names = ("num_bits", "init_min", "init_max", "narrow_range")
        return {name: getattr(self, name) for name in names}


@keras.saving.register_keras_serializable("sentei_tfmot")
class NoQuantizer(_Known):
    """Leaves tensors as they are."""

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """See `Quantizer`."""
        return {}

    def __call__(self, inputs: Any, training: bool, weights: Any, **kwargs: Any) -> Any:
        """See `Quantizer`."""
        return inputs

    def get_config(self) -> dict[str, Any]:
        """Nothing."""
        return {}


def check_range(low: float, high: float) -> None:
    """Checks the ends of a range.

    Args:
        low: The lower.
        high: The higher.

    Raises:
        SenteiError: They are not in this order (a ValueError).
    """
    if not low < high:
        raise SenteiError(f"A range goes from a number to a higher one. Received: {low} to {high}.")


def with_lowest(low: Any, high: Any, bits: int) -> Any:
    """The lower end of a range such that all but the lowest integer cover it as it is given.

    Args:
        low: The lower end.
        high: The higher.
        bits: Bits of an integer.
    """
    return low - (high - low) / (2**bits - 2)


def _state(layer: Any, name: str, shape: tuple[int, ...]) -> Any:
    return layer.add_weight(name=name, shape=shape, initializer="zeros", trainable=False)


def _rounded(x: Any, low: Any, high: Any, like: Any, axis: int | None) -> Any:
    """A tensor on the grid that covers a range."""
    narrow = like.narrow_range
    kind = Kind(
        like.num_bits, symmetric=like.symmetric, narrow=narrow and like.symmetric, axis=axis
    )
    low, high = (ops.reshape(ops.cast(end, "float32"), (-1,)) for end in (low, high))
    low, high = ops.minimum(low, 0.0), ops.maximum(high, 0.0)
    full = ops.cast(x, "float32")
    if narrow and not like.symmetric:
        full = ops.maximum(full, grids.spread(low, tuple(x.shape), kind))
        low = with_lowest(low, high, like.num_bits)
    scale, zero = grids.numbers(low, high, kind)
    return ops.cast(grids.fake_quantize(full, scale, zero, kind), x.dtype)
