"""Which operators may be part of XNNPACK's sparse inference: one row of rules each.

The rules are those of `xnn_check_nchw_compatibility` in XNNPACK's `src/subgraph.c`
(github.com/google/XNNPACK at 75db3c093b, August 2026; the rules for convolutions are the same since
2020). Sparse kernels want the channels first (NCHW), so a part of the graph can run sparse when it
begins with an operator that reads the usual layout (NHWC) and writes channels first, goes on with
operators that keep them first, and ends with one that writes the usual layout again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Flag, auto

from sentei.litert.xnnpack.nodes import Node, Padding


class Role(Flag):
    """What an operator can do for a sparse part of the graph."""

    NONE = 0
    ENTRY = auto()
    INSIDE = auto()
    EXIT = auto()


@dataclass(frozen=True)
class Verdict:
    """What an operator can do, or why it can do nothing and what would change that."""

    role: Role
    reason: str = ""
    remedy: str = ""


_ENTRY, _INSIDE = Verdict(Role.ENTRY), Verdict(Role.INSIDE)
_REDUCTION = Verdict(Role.INSIDE | Role.EXIT)
_FLOATS = {"float16", "float32"}
_RANK = 4
_SYMMETRIC = "use ZeroPadding2D({}) before it and padding='valid' (xnnpack_ready does it)"
# Activations and other functions of one value, which XNNPACK has as one kind of node.
_UNARY = (
    "ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG",
    "LOGISTIC", "NEG", "RELU", "RELU6", "RELU_N1_TO_1", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE",
    "TANH",
)  # fmt: skip


# What the delegate hands to XNNPACK at all.
DELEGATED = frozenset(_UNARY) | {
    "ADD", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D",
    "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV", "EXPAND_DIMS", "FULLY_CONNECTED", "MAXIMUM",
    "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PAD", "PRELU", "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN",
    "RESHAPE", "RESIZE_BILINEAR", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT",
    "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TRANSPOSE", "TRANSPOSE_CONV",
}  # fmt: skip


def verdict(node: Node) -> Verdict:
    """What an operator can do for a sparse part of the graph.

    Args:
        node: The operator.

    Returns:
        Its role, or the reason why it has none.
    """
    rule = _RULES.get(node.kind)
    if rule is not None and not node.dtypes <= _FLOATS:
        others = ", ".join(sorted(node.dtypes - _FLOATS))
        return _no(
            f"it computes in {others}; sparse kernels are for float32 and float16",
            "export without integer quantization, or with quantize='float16'",
        )
    if rule is None:
        return _no(
            f"{node.kind} has no kernel with channels first",
            "replace it by a supported layer, or move it behind the end of the sparse part",
        )
    return rule(node)


def _no(reason: str, remedy: str = "") -> Verdict:
    return Verdict(Role.NONE, reason, remedy)


def _convolution(node: Node) -> Verdict:
    """A 1x1 convolution, or the 3x3 one that starts the network."""
    # XNNPACK or-s strides, dilations and kernel sizes together; these are the pairs that pass.
    if node.shapes[0][3] != node.channels:
        return _no("it has groups", "use groups=1, or a depthwise convolution")
    if node.dilation != (1, 1):
        return _no(f"its dilation is {_pair(node.dilation)}", "use dilation_rate=1")
    if node.kernel == (1, 1):
        if node.stride != (1, 1):
            return _no(
                f"its stride is {_pair(node.stride)}, 1x1 convolutions must have 1",
                "put the stride into a depthwise convolution",
            )
        if not node.padding.is_all(0):
            return _no(f"it is padded by {node.padding}", "leave the padding out")
        return _INSIDE
    if node.kernel != (3, 3):
        return _no(
            f"its kernel is {_pair(node.kernel)}, not 1x1",
            "use a depthwise and a 1x1 convolution instead",
        )
    return _first(node)


def _first(node: Node) -> Verdict:
    if node.channels != 3:
        return _no(
            f"it is a 3x3 convolution on {node.channels} channels; only one on the 3 channels of "
            "an image is supported, as the start",
            "use a depthwise and a 1x1 convolution instead",
        )
    if node.stride != (2, 2):
        return _no(f"its stride is {_pair(node.stride)}, not 2", "start with strides=2")
    if not node.padding.is_all(1):
        return _no(f"it is padded by {node.padding}, not 1 on every side", _SYMMETRIC.format(1))
    return _ENTRY


def _depthwise(node: Node) -> Verdict:
    height, width = node.kernel or (0, 0)
    if node.dilation != (1, 1):
        return _no(f"its dilation is {_pair(node.dilation)}", "use dilation_rate=1")
    if node.option("depthMultiplier") != 1:
        return _no(f"its depth multiplier is {node.option('depthMultiplier')}", "use 1")
    if height != width or height not in (3, 5):
        return _no(f"its kernel is {_pair(node.kernel)}", "use kernel_size=3 or 5")
    if node.stride not in ((1, 1), (2, 2)):
        return _no(f"its stride is {_pair(node.stride)}", "use strides=1 or 2")
    if not node.padding.is_all(height // 2):
        return _no(
            f"it is padded by {node.padding}, not {height // 2} on every side",
            _SYMMETRIC.format(height // 2),
        )
    return _INSIDE


def _two(node: Node) -> Verdict:
    if any(len(shape) != _RANK for shape in node.shapes):
        shapes = " and ".join(map(str, map(list, node.shapes)))
        return _no(f"its inputs have the shapes {shapes}, not four dimensions each")
    # The second check looks at the first operand's shape, as XNNPACK's does.
    for constant, shape in zip(node.constant_inputs, (node.shapes[0],) * 2, strict=True):
        if constant and sum(size != 1 for size in shape) > 1:
            return _no("one operand is a constant", "fold it into the convolution before")
    return _INSIDE


def _one(node: Node) -> Verdict:
    if len(node.shapes[0]) != _RANK:
        return _no(f"its input has {len(node.shapes[0])} dimensions, not 4")
    return _INSIDE


def _reduction(node: Node) -> Verdict:
    found = _one(node)
    return _REDUCTION if found.role else found


def _resize(node: Node) -> Verdict:
    if min(node.shapes[0][1:3]) <= 1:
        return _no("it resizes an image of one row or column")
    return _INSIDE


_RULES: dict[str, Callable[[Node], Verdict]] = {
    "ADD": _two,
    "CONV_2D": _convolution,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEPTH_TO_SPACE": lambda node: Verdict(Role.EXIT),
    # A 1x1 convolution is a dense layer to XNNPACK since January 2025, and the other way round.
    "FULLY_CONNECTED": lambda node: _INSIDE,
    "MEAN": _reduction,
    "MUL": _two,
    "RESIZE_BILINEAR": _resize,
    "SUM": _reduction,
    **dict.fromkeys(_UNARY, _one),
}


def _pair(sizes: tuple[int, int] | None) -> str:
    return "x".join(map(str, sizes or ()))


__all__ = ["Padding", "Role", "Verdict", "verdict"]
