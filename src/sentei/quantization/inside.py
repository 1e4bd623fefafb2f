"""Rounding tensors that a layer keeps to itself, while it runs by its own code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from keras import ops

from sentei.core.graph import Tensor


@contextmanager
def rounding_inside(
    operation: Any,
    hidden: Mapping[str, str],
    rounded: Callable[[str, Any, Tensor | None], Any],
    bias: Callable[[Any], Any] | None,
    product: Callable[[Any, Any], Any] = ops.multiply,
) -> Iterator[Callable[..., Any]]:
    """What to call in place of an operation, so that tensors within it are rounded too.

    Args:
        operation: A Keras layer or operation.
        hidden: The labels of the grids within it: before its `"activation"`, between the two
            convolutions of a separable one (`"depthwise"`), what the sigmoid of SiLU gives
            (`"sigmoid"`).
        rounded: What to put in place of such a tensor, of its label, itself and None.
        bias: What to do with the layer's sums before all this, or None.
        product: What multiplies with what the sigmoid gives.

    Yields:
        What to call.
    """
    activation: Any = getattr(operation, "activation", None)
    own = activation
    if "sigmoid" in hidden:
        activation = gated(hidden["sigmoid"], rounded, product)
        if own is None:  # an operation of `keras.ops`
            yield activation
            return
    held = "call" in vars(operation) if hidden else False
    original: Any = operation.call if hidden else None

    def before(x: Any) -> Any:
        x = x if bias is None else bias(x)
        return rounded(hidden["activation"], x, None) if "activation" in hidden else x

    replaced = bias is not None or not hidden.keys().isdisjoint(("activation", "sigmoid"))
    try:
        if replaced:
            operation.activation = lambda x: activation(before(x))
        if "depthwise" in hidden:
            operation.call = lambda x, *_, **__: _separable(
                operation, x, lambda y: rounded(hidden["depthwise"], y, None)
            )
        yield operation
    finally:
        if replaced:
            operation.activation = own
        if "depthwise" in hidden and held:
            operation.call = original
        elif "depthwise" in hidden:
            del operation.call


def gated(
    label: str,
    rounded: Callable[[str, Any, Tensor | None], Any],
    product: Callable[[Any, Any], Any] = ops.multiply,
) -> Callable[[Any], Any]:
    """SiLU with a rounded sigmoid: `x * sigmoid(x)` (Elfwing et al. 2018).

    Args:
        label: That of the sigmoid's grid.
        rounded: As for `rounding_inside`.
        product: What multiplies the two.
    """
    return lambda x: product(x, rounded(label, ops.sigmoid(x), None))


def _separable(layer: Any, x: Any, between: Callable[[Any], Any]) -> Any:
    """A separable convolution in its two steps, as the layer says."""
    shared = {"padding": layer.padding, "data_format": layer.data_format}
    strides = layer.strides if isinstance(layer.strides, int) else tuple(layer.strides)
    rate = layer.dilation_rate
    # A causal 1-D convolution pads in front, then is valid.
    if layer.padding == "causal":
        x, shared["padding"] = ops.pad(x, _causal_padding(layer)), "valid"
    y = ops.depthwise_conv(x, layer.depthwise_kernel, strides, dilation_rate=rate, **shared)
    shared["padding"] = "valid"
    y = ops.conv(between(y), layer.pointwise_kernel, 1, dilation_rate=1, **shared)
    if layer.use_bias:
        shape = [1] * len(y.shape)
        shape[-1 if layer.data_format == "channels_last" else 1] = -1
        y = y + ops.reshape(layer.bias, shape)
    return y if layer.activation is None else layer.activation(y)


def _causal_padding(layer: Any) -> list[list[int]]:
    reach = int(layer.dilation_rate[0]) * (int(layer.kernel_size[0]) - 1)
    steps = [[reach, 0], [0, 0]]
    return [[0, 0], *(steps if layer.data_format == "channels_last" else steps[::-1])]
