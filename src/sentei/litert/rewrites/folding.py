"""Batch normalization folded into quantized kernels, without moving an integer.

The kernel is held per channel c as `q_c * s_c` with integers q_c. Multiplied by v_c it is
`(q_c * sign(v_c)) * (s_c * |v_c|)`: the same integers but for their sign, on other scales. So the
folded kernel is written as just that, instead of leaving it to the converter, which folds some
convolutions after rounding and others not at all.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from sentei.litert.composite import NAME, attributes_of, marked
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

# The weights' numbers, by the identity of the tensor that stands for each in the trace. Only set
# while a quantized model is traced.
_WEIGHTS: ContextVar[Mapping[int, np.ndarray] | None] = ContextVar("weights", default=None)

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
    token = _WEIGHTS.set(numbers)
    try:
        yield
    finally:
        _WEIGHTS.reset(token)


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
    """A marked kernel times one number per channel, marked with the scales that go with it."""
    shape = kernel.shape
    reshaped = kernel.made_by("reshape")
    mark = (reshaped.inputs[0] if reshaped is not None else kernel).made_by("composite")
    if mark is None or mark.params["name"] != NAME:
        return None
    values = numbers_of(mark.inputs[-1].array)
    if values is None:
        return None
    about = attributes_of(mark.params)
    integers, scale = _integers(values, about)
    if scale.size == 1:
        scale = np.broadcast_to(scale.ravel(), factor.shape)
    # A kernel per depthwise channel is reshaped from (height, width, channels, multiplier).
    repeats = factor.size // scale.size
    if scale.size * repeats != factor.size or shape[-1] != factor.size:
        return None
    scale = np.repeat(scale.ravel(), repeats).astype(np.float64)
    folded = scale * factor
    integers = integers.reshape(shape) * np.sign(folded)
    # A factor of (nearly) zero silences a channel: its integers may as well be zero. Its bias is
    # int32 on this scale, so the scale must not vanish with the factor.
    silent = np.abs(folded) < scale * _SILENT
    integers = np.where(silent, 0.0, integers)
    scale = np.where(silent, scale, np.abs(folded)).astype(np.float32)
    bits = int(str(about["dtype"])[1:])
    numbers = jnp.asarray((integers * scale).astype(np.float32))
    zero = np.zeros(scale.shape, np.int64)
    return marked(numbers, scale, zero, bits, bool(about["narrow_range"]), len(shape) - 1)


def _integers(values: np.ndarray, about: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """A weight's integers, and its scales as the mark gives them."""
    scale = np.asarray(about["scale"], np.float32)
    bits = int(str(about["dtype"])[1:])
    low, high = -(2 ** (bits - 1)) + int(about["narrow_range"]), 2 ** (bits - 1) - 1
    shape = [1] * values.ndim
    if "quantization_dimension" in about:
        shape[about["quantization_dimension"]] = -1
    return np.clip(np.rint(values / scale.reshape(shape)), low, high), scale


RULES: dict[str, Rule] = {"mul": _product}
