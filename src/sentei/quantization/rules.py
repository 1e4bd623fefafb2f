"""LiteRT's rules for integer graphs as rows of data: which operation treats grids how.

| role | operations | rule |
|---|---|---|
| contraction | convolutions, dense | free output; batch norm and ReLU are fused into it |
| elementwise | add, multiply, mean, ... | free output; ReLU is fused into it |
| normalization | batch norm | fused behind a contraction, else free |
| rectifier | ReLU, ReLU6 | fused behind the above, else free |
| function | tanh, softmax, GELU, ... | output fixed by LiteRT, else free |
| same_input | reshape, pooling, padding | the output has the input's grid |
| same_output | concatenation, maximum | the inputs have the output's grid |
| transparent | dropout, identity | at inference it is not there at all |
| lookup | embedding | the output has the table's grid |
| float | recurrence, attention, layer norm, anything unknown | computed in floating point |
"""

from __future__ import annotations

from typing import Any

import keras
from keras import layers as kl

from sentei.quantization.grid import Kind

# Layer classes; the first row that fits decides.
_LAYERS: tuple[tuple[str, tuple[type, ...]], ...] = (
    ("contraction", (kl.Dense, kl.EinsumDense)),
    ("contraction", (kl.Conv1D, kl.Conv2D, kl.Conv3D)),
    ("contraction", (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)),
    ("contraction", (kl.DepthwiseConv1D, kl.DepthwiseConv2D)),
    ("contraction", (kl.SeparableConv1D, kl.SeparableConv2D)),
    ("elementwise", (kl.Add, kl.Subtract, kl.Multiply, kl.Average, kl.Dot)),
    ("elementwise", (kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D)),
    ("elementwise", (kl.GlobalAveragePooling3D, kl.Rescaling)),
    ("lookup", (kl.Embedding,)),
    ("normalization", (kl.BatchNormalization,)),
    ("same_input", (kl.AveragePooling1D, kl.AveragePooling2D, kl.AveragePooling3D)),
    ("same_input", (kl.Cropping1D, kl.Cropping2D, kl.Cropping3D)),
    ("same_input", (kl.Flatten, kl.Permute, kl.RepeatVector, kl.Reshape)),
    ("same_input", (kl.GlobalMaxPooling1D, kl.GlobalMaxPooling2D, kl.GlobalMaxPooling3D)),
    ("same_input", (kl.MaxPooling1D, kl.MaxPooling2D, kl.MaxPooling3D)),
    ("same_input", (kl.UpSampling1D, kl.UpSampling2D, kl.UpSampling3D)),
    ("same_input", (kl.ZeroPadding1D, kl.ZeroPadding2D, kl.ZeroPadding3D)),
    ("same_output", (kl.Concatenate, kl.Maximum, kl.Minimum)),
    ("transparent", (kl.ActivityRegularization, kl.Identity, kl.InputLayer, kl.Masking)),
    ("transparent", (kl.AlphaDropout, kl.Dropout, kl.GaussianDropout, kl.GaussianNoise)),
    ("transparent", (kl.SpatialDropout1D, kl.SpatialDropout2D, kl.SpatialDropout3D)),
)

# Operations of keras.ops, by the name of their class.
_OPERATIONS: dict[str, frozenset[str]] = {
    "elementwise": frozenset({"Add", "Mean", "Multiply", "Subtract", "Sum"}),
    "rectifier": frozenset({"Relu", "Relu6"}),
    "same_input": frozenset(
        {"AveragePool", "BroadcastTo", "ExpandDims", "Flip", "GetItem", "Max", "MaxPool", "Min"}
        | {"Moveaxis", "Pad", "Ravel", "Repeat", "Reshape", "Slice", "Split", "Squeeze"}
        | {"Swapaxes", "Take", "Tile", "Transpose"}
    ),
    "same_output": frozenset({"Concatenate", "Maximum", "Minimum", "Stack"}),
    "transparent": frozenset({"Identity", "StopGradient"}),
}

# Functions with a layer or operation of their own, by the name Keras gives the activation.
_FUNCTIONS = {
    "elu": "Elu",
    "gelu": "Gelu",
    "hard_sigmoid": "HardSigmoid",
    "hard_silu": "HardSilu",
    "leaky_relu": "LeakyRelu",
    "log_softmax": "LogSoftmax",
    "sigmoid": "Sigmoid",
    "silu": "Silu",
    "softmax": "Softmax",
    "tanh": "Tanh",
}

RECTIFIERS = ("relu", "relu6")
# Activations that LiteRT computes in integers, and those that are made of such operations.
_IN_INTEGERS = (
    *("linear", *RECTIFIERS, "gelu", "hard_silu", "leaky_relu", "log_softmax"),
    *("sigmoid", "silu", "softmax", "tanh"),
)

# Layer classes, the weight's name and the axis of its output channels (None: one scale).
# The first row that fits decides: depthwise and transposed convolutions may be subclasses.
_WEIGHTS: tuple[tuple[tuple[Any, ...], str, int | None], ...] = (
    ((kl.DepthwiseConv1D, kl.DepthwiseConv2D), "kernel", -2),
    ((kl.SeparableConv1D, kl.SeparableConv2D), "depthwise_kernel", -2),
    ((kl.SeparableConv1D, kl.SeparableConv2D), "pointwise_kernel", -1),
    ((kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose), "kernel", -2),
    ((kl.Conv1D, kl.Conv2D, kl.Conv3D, kl.Dense), "kernel", -1),
    ((kl.SimpleRNNCell, kl.LSTMCell, kl.GRUCell), "kernel", -1),
    ((kl.SimpleRNNCell, kl.LSTMCell, kl.GRUCell), "recurrent_kernel", -1),
    ((kl.Embedding,), "embeddings", None),
)


def activation_name(function: Any) -> str:
    """The name of an activation function; of Keras' own, the one it can be asked for by.

    Args:
        function: The function, or None.
    """
    if function is None:
        return "linear"
    name = keras.activations.serialize(function)
    return name if isinstance(name, str) else "custom"


def own_activation(operation: Any) -> str:
    """The name of the activation that a contraction applies to what it computes.

    Args:
        operation: A layer of the role contraction.
    """
    return activation_name(getattr(operation, "activation", None))


def role(operation: Any) -> tuple[str, str]:
    """How an operation treats grids.

    Args:
        operation: A Keras layer, or an operation of `keras.ops`.

    Returns:
        The role, and for a function its name (else an empty text).
    """
    if not isinstance(operation, kl.Layer):
        return _role_of_operation(type(operation).__name__)
    if isinstance(operation, kl.Activation):
        return _role_of_activation(activation_name(operation.activation))
    if isinstance(operation, kl.ReLU):
        if operation.threshold != 0 or operation.max_value not in (None, 6):
            return "float", ""
        return ("function", "leaky_relu") if operation.negative_slope else ("rectifier", "")
    if isinstance(operation, kl.Softmax):
        return "function", "softmax"
    if isinstance(operation, (kl.LeakyReLU, kl.ELU)):
        return "function", "leaky_relu"
    for name, classes in _LAYERS:
        if isinstance(operation, classes):
            return name, ""
    return "float", ""


def _role_of_operation(name: str) -> tuple[str, str]:
    for found, names in _OPERATIONS.items():
        if name in names:
            return found, ""
    for function, class_name in _FUNCTIONS.items():
        if name == class_name:
            return "function", function
    return "float", ""


def _role_of_activation(name: str) -> tuple[str, str]:
    if name == "linear":
        return "transparent", ""
    if name in RECTIFIERS:
        return "rectifier", ""
    if name in _FUNCTIONS:
        return "function", name
    return "float", ""


def why_float(operation: Any, tensors: int) -> str | None:
    """Why an operation, or a part of it, stays in floating point; None if it does not.

    Args:
        operation: A Keras layer, or an operation of `keras.ops`.
        tensors: How many tensors it reads.
    """
    name, (kind, function) = type(operation).__name__, role(operation)
    if kind == "float":
        return f"{name} has no integer form in LiteRT"
    if isinstance(operation, kl.Average):
        return "Average has no integer form in LiteRT: Add, then multiply by a constant, has"
    if kind == "elementwise" and tensors > 2:
        return f"{name} of {tensors} tensors has no integer form in LiteRT: take two at a time"
    if isinstance(operation, kl.ELU) or function == "elu":
        return "ELU has no integer form in LiteRT"
    if kind == "contraction" and own_activation(operation) not in _IN_INTEGERS:
        return f"its activation, {own_activation(operation)}, has no integer form within a layer"
    return None


def fixed(function: str, kind: Kind) -> tuple[float, int] | None:
    """The output grid that LiteRT prescribes for a function; a hard sigmoid has the sigmoid's.

    Args:
        function: The function's name.
        kind: The sort of grid that activations have.

    Returns:
        Scale and zero point; None where it prescribes none.
    """
    levels = 2.0**kind.bits
    if function == "tanh":
        return 2 / levels, 0
    if function in ("softmax", "sigmoid", "hard_sigmoid"):
        return (2 / levels, 0) if kind.symmetric else (1 / levels, kind.low)
    if function == "log_softmax" and not kind.symmetric:
        return 16 / levels, kind.high
    return None


def kernels(layer: Any) -> list[tuple[Any, int | None]]:
    """The weights of a layer that are stored as integers, with the axis of their channels.

    Args:
        layer: Any Keras layer; only its own weights count, not those of layers within it.

    Returns:
        Each variable with an axis counted from the front, or None for one scale.
    """
    if isinstance(layer, kl.EinsumDense):
        rank = len(layer.kernel.shape)
        # With several axes of channels (attention heads) LiteRT has no scale for each.
        return [(layer.kernel, rank - 1 if rank == 2 else None)]
    found: list[tuple[Any, int | None]] = []
    for name, axis in kernel_axes(layer).items():
        own: list[Any] = [variable for variable in layer.weights if variable.name == name][:1]
        found += [(v, None if axis is None else len(v.shape) + axis) for v in own]
    return found


def kernel_axes(layer: Any) -> dict[str, int | None]:
    """The names of the weights of a layer that are stored as integers, also before it is built.

    Args:
        layer: Any Keras layer; only its own weights count, not those of layers within it.

    Returns:
        From each name to the axis of its channels, counted from the end; None for one scale.
    """
    if isinstance(layer, kl.EinsumDense):
        return {"kernel": None}
    found: dict[str, int | None] = {}
    for classes, name, axis in _WEIGHTS:
        if isinstance(layer, classes):
            found.setdefault(name, axis)
    return found


def biases(layer: Any) -> list[Any]:
    """The biases beside a layer's kernels, if it has any.

    Args:
        layer: Any Keras layer.
    """
    own = layer.weights if kernels(layer) else []
    return [variable for variable in own if variable.name == "bias"]
