"""The integers a tensor may take, and the numbers they stand for.

What export relies on:

- `Kind` says what sort of grid it is, `Grid` adds the numbers; `Grid.quantize` gives the integers.
- every quantized tensor of a model has one `quantizer.Quantizer`; two tensors share a grid when
  they have the same quantizer object.
- a quantizer with `emit` set returns `emit(x, grid)` instead of simulating. It is called for every
  tensor that is held as integers, also for those that share the grid of another: a max pooling's
  output, a concatenation's inputs.
- biases stay float in the simulation. On the grid `input scale * weight scale` they move by at
  most half of that, which is below half a step of the output by the ratio of the two scales.
- a kernel is quantized before a batch normalization is folded into it: folded, its integers only
  change sign (see DESIGN of the export), so there is no quantizer between the two.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.quantization.exactly import inverse

ROUNDINGS = ("half_even", "half_away")

# A channel whose largest weight is below 2^-14 of the tensor's largest would get a scale so small
# that its int32 bias overflows; a channel of zeros would get none at all.
_SMALLEST_SHARE = 2.0**-14


@dataclass(frozen=True)
class Kind:
    """What sort of grid a tensor has.

    Invariants:
        2 <= bits <= 32.
        narrow grids are symmetric.
        `low <= 0 <= high`.

    Attributes:
        bits: How many bits an integer takes.
        symmetric: Whether the zero point is 0 and the range reaches equally far on both sides.
        narrow: Whether the lowest integer is left out: -127 to 127 of 8 bits.
        axis: The axis of the channels that have a scale each, counted from the front; None for
            one scale.
        block: How many numbers along the input axis (the one before `axis`) share a scale, or
            None for all of them.
        rounding: `"half_even"` (as LiteRT's converter and Keras round) or `"half_away"`.
    """

    bits: int = 8
    symmetric: bool = False
    narrow: bool = False
    axis: int | None = None
    block: int | None = None
    rounding: str = "half_even"

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 32:
            raise SenteiError(f"A grid has between 2 and 32 bits. Received: bits={self.bits}.")
        if self.narrow and not self.symmetric:
            raise SenteiError("A narrow grid must be symmetric: set symmetric=True with narrow.")
        if self.rounding not in ROUNDINGS:
            raise SenteiError(
                f"`rounding` must be one of {ROUNDINGS}. Received: rounding={self.rounding!r}."
            )
        if self.block is not None and (self.block < 1 or self.axis is None or self.axis < 1):
            raise SenteiError(
                "`block` must be at least 1, of a tensor whose channels' `axis` is not the first. "
                f"Received: block={self.block}, axis={self.axis}."
            )

    @property
    def low(self) -> int:
        """The lowest integer."""
        return -(2 ** (self.bits - 1)) + int(self.narrow)

    @property
    def high(self) -> int:
        """The highest integer."""
        return int(2 ** (self.bits - 1)) - 1


@dataclass(frozen=True, eq=False)
class Grid:
    """A kind of grid with its numbers: `x ≈ (q - zero_point) * scale`.

    Invariants:
        `scale` is float32, 1-D (per block: of shape `(blocks, channels)`), finite and positive.
        `zero_point` is int64 and has the shape of `scale`.
        `kind.low <= zero_point <= kind.high`; 0 if symmetric.
        without an axis there is one scale.

    Attributes:
        kind: What sort of grid.
        scale: One per channel, or one.
        zero_point: The integer that stands for 0.
    """

    kind: Kind
    scale: np.ndarray
    zero_point: np.ndarray

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        """Checks the invariants.

        Raises:
            SenteiError: One of them does not hold.
        """
        kind, scale, zero = self.kind, self.scale, self.zero_point
        holds = {
            "scale is float32": scale.dtype == np.float32,
            "scale is 1-D, or 2-D per block": scale.ndim == (1 if kind.block is None else 2),
            "scale is finite and positive": bool(np.all(np.isfinite(scale)) and np.all(scale > 0)),
            "zero_point is int64": zero.dtype == np.int64,
            "zero_point has the shape of scale": zero.shape == scale.shape,
            "zero_point is on the grid": bool(np.all((zero >= kind.low) & (zero <= kind.high))),
            "symmetric means zero_point 0": not kind.symmetric or not np.any(zero),
            "without an axis there is one scale": kind.axis is not None or scale.size == 1,
        }
        for line, true in holds.items():
            if not true:
                raise SenteiError(f"Not a grid: it must hold that {line}. Received: {self!r}.")

    def quantize(self, x: np.ndarray) -> np.ndarray:
        """The integers nearest to numbers.

        Args:
            x: Any shape that fits the kind's axis.

        Returns:
            int32, of the shape of `x`.
        """
        x = np.asarray(x, np.float32)
        step, zero = self._spread(x.shape)
        rounded = _round(x * inverse(step, np), self.kind.rounding, np) + zero.astype(np.float32)
        return np.clip(rounded, self.kind.low, self.kind.high).astype(np.int32)

    def dequantize(self, integers: np.ndarray) -> np.ndarray:
        """The numbers that integers stand for.

        Args:
            integers: Any shape that fits the kind's axis.

        Returns:
            float32, of the same shape.
        """
        step, zero = self._spread(integers.shape)
        return (integers - zero).astype(np.float32) * step

    def _spread(self, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        scale = spread(self.scale, shape, self.kind, np)
        return scale, spread(self.zero_point, shape, self.kind, np)


def spread(values: Any, shape: tuple[int, ...], kind: Kind, xp: Any = ops) -> Any:
    """One value per channel (and block) in a shape that multiplies with the tensor.

    Args:
        values: 1-D, or `(blocks, channels)`.
        shape: The tensor's shape; only its channels' axis need be known.
        kind: The grid's kind.
        xp: The library of arrays: `keras.ops` or `numpy`.
    """
    if kind.axis is None:
        return xp.reshape(values, ())
    around = [1] * len(shape)
    around[kind.axis] = -1
    if kind.block is None:
        return xp.reshape(values, around)
    around[kind.axis - 1] = -(-shape[kind.axis - 1] // kind.block)
    blocks = xp.repeat(xp.reshape(values, around), kind.block, axis=kind.axis - 1)
    inside = [slice(None)] * len(shape)
    inside[kind.axis - 1] = slice(shape[kind.axis - 1])
    return blocks[tuple(inside)]


def scales(shape: tuple[int, ...], kind: Kind) -> tuple[int, ...]:
    """The shape of the scales of a tensor.

    Args:
        shape: The tensor's.
        kind: The grid's kind.
    """
    if kind.axis is None:
        return (1,)
    if kind.block is None:
        return (shape[kind.axis],)
    return (-(-shape[kind.axis - 1] // kind.block), shape[kind.axis])


def numbers(low: Any, high: Any, kind: Kind, xp: Any = ops) -> tuple[Any, Any]:
    """Scale and zero point of the grid that covers a range, with 0 exactly on it.

    Jacob et al. 2018 (arXiv:1712.05877), section 3: `scale = (high - low) / (levels - 1)`,
    `zero_point = round(q_low - low / scale)`. A range of zero width has a scale too: 2^-14 of the
    widest of the tensor, or one step per integer when all of it is zero.

    Args:
        low: The lowest number of each channel, of shape `(channels,)` or `(1,)`.
        high: The highest, of the same shape.
        kind: The grid's kind.
        xp: The library of arrays: `keras.ops` or `numpy`.

    Returns:
        `(scale, zero_point)`, both floating and of the shape of `low`.
    """
    low, high = xp.minimum(low, 0.0), xp.maximum(high, 0.0)
    # XLA divides by a constant by multiplying with its reciprocal: so do we, to the same bits.
    steps = kind.high if kind.symmetric else kind.high - kind.low
    width = xp.maximum(-low, high) if kind.symmetric else high - low
    scale = width * float(np.float32(1.0 / steps))
    widest = xp.max(scale)
    floor = xp.where(widest > 0, widest * _SMALLEST_SHARE, 1.0 / float(kind.high))
    # The smallest normal float32: dividing by less is undefined on some devices.
    scale = xp.maximum(xp.maximum(scale, floor), 2.0**-100)
    if kind.symmetric:
        return scale, xp.zeros_like(scale)
    zero = xp.round(float(kind.low) - low / scale)
    return scale, xp.clip(zero, kind.low, kind.high)


def extremes(values: Any, kind: Kind, xp: Any = ops) -> tuple[Any, Any]:
    """The lowest and highest number of each channel (and block) of a tensor.

    Args:
        values: The tensor.
        kind: The grid's kind.
        xp: The library of arrays: `keras.ops` or `numpy`.

    Returns:
        `(low, high)`, both 1-D, or `(blocks, channels)`.
    """
    if kind.axis is None:
        return xp.reshape(xp.min(values), (1,)), xp.reshape(xp.max(values), (1,))
    shape = tuple(values.shape)
    if kind.block is None:
        axes = tuple(a for a in range(len(shape)) if a != kind.axis)
        return xp.min(values, axis=axes), xp.max(values, axis=axes)
    if kind.axis != 1 or len(shape) != 2:
        raise SenteiError(f"Blocks are for matrices (in, out). Received a tensor of shape {shape}.")
    blocks = -(-shape[0] // kind.block)
    padded = xp.pad(values, ((0, blocks * kind.block - shape[0]), (0, 0)))
    padded = xp.reshape(padded, (blocks, kind.block, shape[1]))
    return xp.min(padded, axis=1), xp.max(padded, axis=1)


def fake_quantize(x: Any, scale: Any, zero_point: Any, kind: Kind) -> Any:
    """Numbers rounded to a grid, with a gradient that training can use.

    The gradient goes straight through inside the range and is 0 outside of it (Bengio et al. 2013,
    arXiv:1308.3432). Scale and zero point get none; see `learned` for those that shall.

    Args:
        x: The tensor, float32.
        scale: One per channel, or one; floating.
        zero_point: The same shape, floating.
        kind: The grid's kind.

    Returns:
        The tensor, of the same shape, on the grid.
    """
    shape = tuple(x.shape)
    step, zero = (ops.stop_gradient(spread(v, shape, kind)) for v in (scale, zero_point))
    return straight_through(x, step, kind.low - zero, kind.high - zero, kind.rounding)


def straight_through(x: Any, step: Any, low: Any, high: Any, rounding: str) -> Any:
    """Numbers on a grid; the gradient is 1 inside the range and 0 outside of it.

    Args:
        x: The tensor.
        step: Of a shape that goes with it, like the next two; without gradient.
        low: The lowest integer, counted from the zero point.
        high: The highest.
        rounding: See `Kind`.
    """

    # One operation to the backend's gradients: eagerly, every pass over memory costs.
    def rounded(x: Any, step: Any, low: Any, high: Any) -> tuple[Any, Any]:
        # Not `x / step`, which once in some hundred thousand numbers is another integer: XLA
        # compiles that to this, and XNNPACK computes this of a model's inputs.
        whole = ops.clip(_round(x * inverse(step), rounding, ops), low, high)

        def gradient(*args: Any, upstream: Any = None) -> tuple[Any, ...]:
            upstream = args[0] if upstream is None else upstream
            inside = ops.logical_and(x >= low * step, x <= high * step)
            none = (ops.zeros_like(value) for value in (step, low, high))
            return ops.where(inside, upstream, 0.0), *none

        return whole * step, gradient

    return ops.custom_gradient(rounded)(x, step, low, high)


def _round(x: Any, rounding: str, xp: Any) -> Any:
    if rounding == "half_even":
        return xp.round(x)
    return xp.sign(x) * xp.floor(xp.abs(x) + 0.5)
