"""Batch normalization folded into quantized kernels, without moving an integer.

The kernel is held per channel c as `q_c * s_c` with integers q_c. Multiplied by v_c it is
`(q_c * sign(v_c)) * (s_c * |v_c|)`: the same integers but for their sign, on other scales. So the
folded kernel is written as just that, instead of leaving it to the converter, which folds some
convolutions after rounding and others not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sentei.litert.composite import NAME, attributes_of, marked
from sentei.litert.rewrites.arithmetic import evaluate
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

# The weights' numbers, by the identity of the tensor that stands for each in the trace. Only set
# while a quantized model is traced.
_WEIGHTS: ContextVar[dict[int, np.ndarray] | None] = ContextVar("weights", default=None)
# The marked constants that the rules made, by the identity of the tensor.
_MARKS: ContextVar[dict[int, tuple[Any, _Weight]] | None] = ContextVar("marks", default=None)

# What a channel is multiplied by to be as good as silent: 255 levels times thousands of weights.
_SILENT = 2.0**-24

# Steps that multiply an input by a kernel, their second operand.
_CONTRACTIONS = ("conv_general_dilated", "dot_general")


@contextmanager
def known_weights(tensors: Sequence[Any], values: Sequence[np.ndarray]) -> Iterator[None]:
    """Lets the rules see the numbers of a model's weights while it is traced.

    Args:
        tensors: What stands for the weights in the trace.
        values: Their numbers.

    Yields:
        Nothing.
    """
    numbers = {id(t): v for t, v in zip(tensors, values, strict=True)}
    tokens = _WEIGHTS.set(numbers), _MARKS.set({})
    try:
        yield
    finally:
        _WEIGHTS.reset(tokens[0])
        _MARKS.reset(tokens[1])


def numbers_of(array: Any) -> np.ndarray | None:
    """The numbers of a weight, or None for anything else and outside of `known_weights`.

    Args:
        array: A tensor of the trace.
    """
    return (_WEIGHTS.get() or {}).get(id(array))


def _product(step: Step, run: Run) -> Sequence[Any] | None:
    """(conv(x, kernel) + bias) * v  =  conv(x, kernel * v) + bias * v."""
    for value, factor in (step.inputs, step.inputs[::-1]):
        if factor.known is None or not factor.floating:
            continue
        bias = None
        source = value
        added = value.made_by("add")
        if added is not None:
            for first, second in (added.inputs, added.inputs[::-1]):
                if second.known is not None:
                    source, bias = first, second.known
                    break
        contraction = next(filter(None, map(source.made_by, _CONTRACTIONS)), None)
        if contraction is None or source.shape != step.shapes[0]:
            continue
        output = _scaled(contraction, factor.known, source.shape, run)
        if output is None or bias is None:
            return output
        program = jax.make_jaxpr(jnp.add)(output[0].array, bias * factor.known)
        return run(program, [output[0], _known(bias * factor.known)], step.scope)
    return None


def _known(numbers: np.ndarray) -> Value:
    return Value(jnp.asarray(numbers), known=numbers, fixed=True)


def _channel_axis(contraction: Step) -> int:
    """The axis of a contraction's output that holds the channels."""
    if contraction.name == "dot_general":
        return len(contraction.shapes[0]) - 1
    return int(contraction.params["dimension_numbers"].out_spec[1])


def _channels_shape(contraction: Step, shape: Sequence[int]) -> list[int]:
    axis = _channel_axis(contraction)
    return [n if i == axis else 1 for i, n in enumerate(shape)]


def _scaled(
    contraction: Step, factor: np.ndarray, shape: Sequence[int], run: Run
) -> list[Value] | None:
    """The contraction with its kernel multiplied by one number per output channel."""
    axis = _channel_axis(contraction)
    if factor.size != 1 and factor.shape != tuple(_channels_shape(contraction, shape)):
        return None
    kernel = contraction.inputs[1]
    folded = _kernel(kernel, np.broadcast_to(factor.ravel(), (shape[axis],)))
    if folded is None:
        return None
    image = contraction.inputs[0]
    program = jax.make_jaxpr(lambda *arrays: contraction.bind(*arrays))(image.array, folded)
    return run(program, [image, Value(folded, fixed=True)], contraction.scope)


def _kernel(kernel: Value, factor: np.ndarray) -> Any | None:
    """A marked kernel times one number per channel (the last axis), on new scales."""
    weight = _marked_weight(kernel)
    if weight is None:
        return None
    scale = np.broadcast_to(weight.scales, kernel.shape)
    lined = scale.reshape(-1, kernel.shape[-1])
    if kernel.shape[-1] != factor.size or np.any(lined != lined[0]):
        return None
    scale = lined[0].astype(np.float64)
    folded = scale * factor
    integers = weight.integers * np.sign(folded)
    # A factor of (nearly) zero silences a channel: its integers may as well be zero. Its bias is
    # int32 on this scale, so the scale must not vanish with the factor.
    silent = np.abs(folded) < scale * _SILENT
    integers = np.where(silent, 0.0, integers)
    scale = np.where(silent, scale, np.abs(folded)).astype(np.float32)
    return _Weight(integers, scale, weight.bits, weight.narrow).marked(len(kernel.shape) - 1)


@dataclass(frozen=True)
class _Weight:
    """The integers of a marked weight, and their scales in a shape that multiplies with them."""

    integers: np.ndarray
    scales: np.ndarray
    bits: int
    narrow: bool

    def marked(self, axis: int | None) -> Any:
        """The weight as a constant, marked with one scale per index of an axis, or one."""
        values = (self.integers * self.scales).astype(np.float32)
        scale = self.scales
        if axis is not None:
            lined = np.moveaxis(np.broadcast_to(scale, values.shape), axis, 0)
            scale = lined.reshape(values.shape[axis], -1)[:, 0]
        scale = np.ravel(scale).astype(np.float32)
        zero = np.zeros(scale.shape, np.int64)
        tensor = marked(jnp.asarray(values), scale, zero, self.bits, self.narrow, axis)
        marks = _MARKS.get()
        if marks is not None:
            # With the tensor: an identity is that of the tensor only while it lives.
            marks[id(tensor)] = tensor, self
        return tensor


def mark_of(value: Value) -> Step | None:
    """The step that marked a value as one that the file holds as integers.

    Args:
        value: Any value.
    """
    mark = value.made_by("composite")
    return mark if mark is not None and mark.params["name"] == NAME else None


def _marked_weight(value: Value) -> _Weight | None:
    """What is known of a marked weight; of one that was reshaped, from before."""
    known = (_MARKS.get() or {}).get(id(value.array))
    if known is not None:
        return known[1]
    mark = mark_of(value)
    values = None if mark is None else numbers_of(mark.inputs[-1].array)
    if mark is None or values is None:
        return None
    about = attributes_of(mark.params)
    if np.any(about["zero_point"]):
        return None
    shape = [1] * values.ndim
    if "quantization_dimension" in about:
        shape[about["quantization_dimension"]] = -1
    scale = np.asarray(about["scale"], np.float32).reshape(shape)
    bits, narrow = int(str(about["dtype"])[1:]), bool(about["narrow_range"])
    low, high = -(2 ** (bits - 1)) + int(narrow), 2 ** (bits - 1) - 1
    return _Weight(np.clip(np.rint(values / scale), low, high), scale, bits, narrow)


def is_marked(value: Value) -> bool:
    """Whether a value is a weight that the file holds as integers.

    Args:
        value: Any value.
    """
    return _marked_weight(value) is not None


def _moved(step: Step, run: Run) -> Sequence[Any] | None:
    """A marked weight that is reshaped, turned or flipped: the mark comes last, on the result.

    The converter knows an integer operator by a mark right at its input.
    """
    weight = _marked_weight(step.inputs[0])
    if weight is None or len(step.inputs) != 1:
        return None
    before = weight.integers.shape
    scales = np.broadcast_to(weight.scales, before)
    moved = [
        evaluate(step.name, step.params, [array], np.dtype(np.float32))
        for array in (weight.integers, scales)
    ]
    if moved[0] is None or moved[1] is None or moved[0].size != weight.integers.size:
        return None
    axis = None if weight.scales.size == 1 else _channels(moved[1])
    if axis is None and weight.scales.size != 1:
        return None
    scales = weight.scales.ravel() if axis is None else moved[1]
    return [_Weight(moved[0], scales, weight.bits, weight.narrow).marked(axis)]


def _rounded(step: Step, run: Run) -> Sequence[Any] | None:
    """The mark of a weight, on the numbers that its integers stand for.

    The converter rounds in a way of its own: where a weight lies in the middle between two
    integers, it might choose the other one.
    """
    mark = Value(step.inputs[-1].array, step=step)
    if step.params["name"] != NAME or id(mark.array) in (_MARKS.get() or {}):
        return None
    weight = _marked_weight(mark)
    if weight is None:
        return None
    about = attributes_of(step.params)
    return [weight.marked(about.get("quantization_dimension"))]


def _channels(scales: np.ndarray) -> int | None:
    """The one axis along which scales differ, the last if all are equal; None if there are more."""
    for axis in reversed(range(scales.ndim)):
        lined = np.moveaxis(scales, axis, 0).reshape(scales.shape[axis], -1)
        if np.all(lined == lined[:, :1]):
            return axis
    return None


RULES: dict[str, Rule] = {
    "composite": _rounded,
    "mul": _product,
    **dict.fromkeys(("reshape", "rev", "squeeze", "transpose"), _moved),
}
