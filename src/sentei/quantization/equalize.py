"""Cross-layer equalization: Nagel et al. 2019 (arXiv:1906.04721), section 4.1."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

from sentei.core.errors import UnsupportedModel
from sentei.core.graph import Graph, Node, Tensor, graph_of, is_graph, tensors_in
from sentei.core.select import require_built
from sentei.quantization import rules

# What a positive factor per channel goes through unchanged.
_THROUGH = (
    *(kl.AveragePooling1D, kl.AveragePooling2D, kl.AveragePooling3D),
    *(kl.Cropping1D, kl.Cropping2D, kl.Cropping3D),
    *(kl.Dropout, kl.SpatialDropout1D, kl.SpatialDropout2D, kl.SpatialDropout3D, kl.Identity),
    *(kl.GlobalAveragePooling1D, kl.GlobalAveragePooling2D, kl.GlobalAveragePooling3D),
    *(kl.GlobalMaxPooling1D, kl.GlobalMaxPooling2D, kl.GlobalMaxPooling3D),
    *(kl.MaxPooling1D, kl.MaxPooling2D, kl.MaxPooling3D),
    *(kl.UpSampling1D, kl.UpSampling2D, kl.UpSampling3D),
    *(kl.ZeroPadding1D, kl.ZeroPadding2D, kl.ZeroPadding3D),
)
_DEPTHWISE = (kl.DepthwiseConv1D, kl.DepthwiseConv2D)
_CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D, *_DEPTHWISE)
_TRANSPOSED = (kl.Conv1DTranspose, kl.Conv2DTranspose, kl.Conv3DTranspose)
_SEPARABLE = (kl.SeparableConv1D, kl.SeparableConv2D)
_PASSES, _ENOUGH = 20, 1e-3
# Beyond, biases and activations leave what float32 and int32 hold well.
_LARGEST_FACTOR = 1e3


@dataclass(frozen=True)
class Pair:
    """Two layers of which the first feeds the second alone.

    Attributes:
        first: The first layer's name.
        second: The second's.
        before: How unequal the ranges of the channels between them are: the geometric mean of
            `max(r1, r2) / min(r1, r2)`, where r1 are the ranges of the first layer's output
            channels and r2 those of the second's input channels, each over its layer's largest.
        after: The same after equalization.
    """

    first: str
    second: str
    before: float
    after: float


@dataclass(frozen=True)
class Equalized:
    """What equalization did.

    Attributes:
        pairs: The pairs of layers that were equalized.
        skipped: Layers with weights that are first of no pair, and why.
        rectified: ReLU6 layers that were made ReLU.
    """

    pairs: tuple[Pair, ...]
    skipped: Mapping[str, str]
    rectified: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [f"{p.first} → {p.second}: {p.before:.2f} → {p.after:.2f}" for p in self.pairs]
        lines += [f"{name}: left as it is: {why}" for name, why in self.skipped.items()]
        lines += [f"{name}: ReLU6 is ReLU now" for name in self.rectified]
        return "\n".join(lines)


@dataclass(frozen=True, eq=False)
class _Link:
    first: Any
    normalization: Any
    second: Any
    repeats: int  # how often each channel comes in the second layer's input
    six: tuple[Any, ...]  # the ReLU6 layers between


def equalize(model: Any, *, widen_relu6: bool = False) -> Equalized:
    """Makes the channels between layers reach equally far, by factors that cancel out.

    Channel i of the first layer's output is divided by `s_i = sqrt(r1_i r2_i) / r2_i` and the
    weights of the second layer that read it multiplied with it (equation 11), so that neither has
    channels that share a scale with ones many times larger. Behind a batch normalization its gamma
    and beta are divided, which is the same as dividing the folded kernel, and r1 is the range of
    the folded kernel. The model computes what it did, to float tolerance, as long as ReLU, leaky
    ReLU, pooling or padding are all that is between the two layers.

    A ReLU6 between them would cut at another height. It is left out, unless `widen_relu6` makes it
    a ReLU as in the paper, which changes what the model computes where a channel went beyond 6:
    look at its accuracy afterwards.

    Do it before `sentei.quantize` (or calibrate again). Zeros stay zeros; clusters do not stay.

    Args:
        model: A built Sequential or Functional float model, changed in place.
        widen_relu6: Whether to make ReLU6 layers between two such layers ReLUs.

    Returns:
        What was done.

    Raises:
        UnsupportedModel: The model is a subclass of `keras.Model`, or it is quantized.
        SenteiError: It is not built.
    """
    require_built(model)
    if not is_graph(model):
        raise UnsupportedModel(
            f"Model {model.name!r} is a subclass of keras.Model: its graph cannot be read. Make it "
            "a Functional model: keras.Model(inputs, model(inputs))."
        )
    if any(getattr(layer, "runs_float_model", False) for layer in model.layers):
        raise UnsupportedModel(
            f"Model {model.name!r} is quantized. Equalize the float model, sentei.strip(model), "
            "and quantize that."
        )
    finder = _Finder(graph_of(model), widen_relu6)
    links = finder.run()
    before = [_unequal(link) for link in links]
    for _ in range(_PASSES):
        if max((_equalize(link) for link in links), default=1.0) < 1 + _ENOUGH:
            break
    model.predict_function = model.test_function = model.train_function = None
    pairs = [
        Pair(link.first.name, link.second.name, was, _unequal(link))
        for link, was in zip(links, before, strict=True)
    ]
    return Equalized(tuple(pairs), finder.skipped, tuple(finder.rectified))


class _Finder:
    """Looks for the pairs of layers in a graph."""

    def __init__(self, graph: Graph, widen: bool) -> None:
        self.graph, self.widen = graph, widen
        self.consumers = graph.consumers()
        self.outputs = set(tensors_in(graph.outputs))
        self.calls: dict[int, int] = {}
        for node in graph.nodes:
            self.calls[id(node.operation)] = self.calls.get(id(node.operation), 0) + 1
        self.skipped: dict[str, str] = {}
        self.rectified: list[str] = []

    def run(self) -> list[_Link]:
        links = []
        for node in self.graph.nodes:
            if node.operation is None or rules.role(node.operation)[0] != "contraction":
                continue
            found = self._follow(node)
            if isinstance(found, str):
                self.skipped[node.name] = found
            else:
                links.append(found)
        return links

    def _follow(self, node: Node) -> _Link | str:
        """The pair that a layer begins, or why there is none."""
        first = node.operation
        if isinstance(first, _SEPARABLE) or not isinstance(
            first, (*_CONVOLUTIONS, *_TRANSPOSED, kl.Dense)
        ):
            return f"{type(first).__name__} is not supported"
        if self.calls[id(first)] > 1:
            return "it is called more than once"
        cut = self._cut(first, rules.own_activation(first))
        path = cut if isinstance(cut, str) else self._walk(node, cut)
        if isinstance(path, str):
            return path
        second = path.second
        if isinstance(second, (*_SEPARABLE, *_TRANSPOSED)) or not isinstance(
            second, (*_CONVOLUTIONS, kl.Dense)
        ):
            return f"{type(second).__name__} {second.name!r} behind it is not supported"
        if getattr(second, "groups", 1) != 1 and not isinstance(second, _DEPTHWISE):
            return f"{second.name!r} behind it has groups"
        if _channels_first(first) and (isinstance(second, kl.Dense) or not _channels_first(second)):
            return f"{second.name!r} behind it has its channels on another axis"
        for layer in path.six:
            _widen(layer)
            self.rectified.append(layer.name)
        return path

    def _walk(self, node: Node, six: list[Any]) -> _Link | str:
        """Goes to the next layer with weights, through what lets a factor through."""
        first, normalization, repeats = node.operation, None, 1
        tensor = Tensor(node.index)
        while True:
            readers = self.consumers.get(tensor, [])
            if tensor in self.outputs or len(readers) != 1 or readers[0].inputs != [tensor]:
                return "not one layer alone reads it"
            layer = readers[0].operation
            if self.calls[id(layer)] > 1:
                return f"{readers[0].name!r} behind it is called more than once"
            if rules.role(layer)[0] == "contraction":
                return _Link(first, normalization, layer, repeats, tuple(six))
            if isinstance(layer, kl.BatchNormalization) and tensor == Tensor(node.index):
                reason = _unfit(first, layer, node)
                if reason:
                    return reason
                normalization = layer
            elif isinstance(layer, kl.Flatten):
                sizes = self._sizes(tensor)
                if sizes is None or _channels_first(first):
                    return "the order behind Flatten is not known"
                repeats *= math.prod(sizes[:-1])
            elif not isinstance(layer, _THROUGH):
                passed = self._passes(layer)
                if isinstance(passed, str):
                    return passed
                six = [*six, *passed]
            tensor = Tensor(readers[0].index)

    def _sizes(self, tensor: Tensor) -> list[int] | None:
        """The sizes of a tensor but for the batch, if they are known."""
        shape = self.graph.nodes[tensor.node].shape
        if shape is None:
            shape = getattr(
                getattr(self.graph.nodes[tensor.node].operation, "output", None), "shape", None
            )
        sizes = [size for size in (shape or ())[1:] if size is not None]
        return sizes if shape is not None and len(sizes) == len(shape) - 1 else None

    def _passes(self, layer: Any) -> list[Any] | str:
        """The ReLU6 to be widened for a factor to go through, or why it does not."""
        if isinstance(layer, (kl.LeakyReLU, kl.PReLU)):
            return []
        if isinstance(layer, kl.ReLU):
            if layer.threshold != 0 or layer.max_value not in (None, 6):
                return f"{layer.name!r} behind it cuts off"
            return self._cut(layer, "relu" if layer.max_value is None else "relu6")
        if isinstance(layer, kl.Activation):
            return self._cut(layer, rules.activation_name(layer.activation))
        if type(layer).__name__ == "Relu":
            return []
        return f"{getattr(layer, 'name', layer)!r} behind it does not let a factor through"

    def _cut(self, layer: Any, activation: str) -> list[Any] | str:
        if activation in ("linear", "relu", "leaky_relu"):
            return []
        if activation == "relu6":
            return [layer] if self.widen else "ReLU6 behind it would cut elsewhere"
        return f"{activation} behind it does not let a factor through"


def _widen(layer: Any) -> None:
    if isinstance(layer, kl.ReLU):
        layer.max_value = None
    else:
        layer.activation = keras.activations.relu


def _channels_first(layer: Any) -> bool:
    return getattr(layer, "data_format", None) == "channels_first"


def _unfit(layer: Any, normalization: Any, node: Node) -> str:
    """Why a batch normalization behind a layer cannot take a factor; nothing if it can."""
    if rules.own_activation(layer) != "linear":
        return "its batch norm is behind its activation"
    rank = len(layer.kernel.shape) if not isinstance(layer, kl.Dense) else len(node.shape or ())
    axis = normalization.axis
    wanted = 1 if _channels_first(layer) else rank - 1
    if not isinstance(axis, int) or rank == 0 or axis % rank != wanted:
        return "its batch norm is on another axis"
    return "" if normalization.scale and normalization.center else "its batch norm lacks a weight"


def _equalize(link: _Link) -> float:
    """Equalizes one pair; how far the factors were from 1."""
    first, second = _output_ranges(link), _input_ranges(link)
    used = (first > 0) & (second > 0)
    factor = np.ones_like(first)
    factor[used] = np.sqrt(first[used] / second[used])
    factor = np.clip(factor, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
    _divide_outputs(link, factor)
    _multiply_inputs(link, factor)
    return float(np.max(np.maximum(factor, 1 / factor)))


def _unequal(link: _Link) -> float:
    first, second = _output_ranges(link), _input_ranges(link)
    used = (first > 0) & (second > 0)
    if not used.any():
        return 1.0
    ratio = np.log(first[used] / first.max()) - np.log(second[used] / second.max())
    return float(np.exp(np.mean(np.abs(ratio))))


def _output_ranges(link: _Link) -> np.ndarray:
    """The largest weight of each output channel, a batch normalization folded in."""
    kernel = np.abs(_numpy(link.first.kernel))
    if isinstance(link.first, _DEPTHWISE):
        found = kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]).max(0)
    elif isinstance(link.first, _TRANSPOSED):
        found = np.moveaxis(kernel, -2, -1).reshape(-1, kernel.shape[-2]).max(0)
    else:
        found = kernel.reshape(-1, kernel.shape[-1]).max(0)
    if link.normalization is not None:
        variance = _numpy(link.normalization.moving_variance) + link.normalization.epsilon
        found = found * np.abs(_numpy(link.normalization.gamma)) / np.sqrt(variance)
    return np.asarray(found, np.float64)


def _input_ranges(link: _Link) -> np.ndarray:
    """The largest weight that reads each channel."""
    kernel = np.abs(_numpy(link.second.kernel))
    axes = tuple(axis for axis in range(kernel.ndim) if axis != kernel.ndim - 2)
    found = kernel.max(axes)
    return np.asarray(found.reshape(link.repeats, -1).max(0), np.float64)


def _divide_outputs(link: _Link, factor: np.ndarray) -> None:
    if link.normalization is not None:
        _scale(link.normalization.gamma, 1 / factor)
        _scale(link.normalization.beta, 1 / factor)
        return
    kernel = link.first.kernel
    if isinstance(link.first, _DEPTHWISE):
        _scale(kernel, (1 / factor).reshape(tuple(kernel.shape[-2:])))
    elif isinstance(link.first, _TRANSPOSED):
        _scale(kernel, (1 / factor)[:, None])
    else:
        _scale(kernel, 1 / factor)
    if link.first.use_bias:
        _scale(link.first.bias, 1 / factor)


def _multiply_inputs(link: _Link, factor: np.ndarray) -> None:
    _scale(link.second.kernel, np.tile(factor, link.repeats)[:, None])


def _scale(variable: Any, factor: np.ndarray) -> None:
    moved = _numpy(variable).astype(np.float64) * factor
    variable.assign(ops.convert_to_tensor(moved.astype(np.float32), dtype=variable.dtype))


def _numpy(variable: Any) -> np.ndarray:
    return np.asarray(ops.convert_to_numpy(variable.value), np.float32)
