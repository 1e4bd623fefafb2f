"""A float model and its simulation, side by side: run unit by unit on the same samples."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.graph import Node, Tensor
from sentei.core.samples import batches
from sentei.quantization import rules
from sentei.quantization.calibrate import layer_of
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.quantizer import ActivationQuantizer

Values = dict[Tensor, Any]


@dataclass(frozen=True)
class Change:
    """What one of the accuracy tools did to one layer.

    Attributes:
        layer: The layer's name with those around it.
        before: The mean square by which the layer's output was off, over the output's own.
        after: The same afterwards; None where the layer was left as it is.
        reason: Why it was left, or nothing.
    """

    layer: str
    before: float | None
    after: float | None
    reason: str = ""


@dataclass(frozen=True)
class Changes:
    """What one of the accuracy tools did, layer by layer.

    Attributes:
        rows: One for each layer that it could be about.
    """

    rows: tuple[Change, ...]

    def __str__(self) -> str:
        width = max([len(row.layer) for row in self.rows] + [5])
        lines = [f"{'layer':<{width}}  error before     after"]
        for row in self.rows:
            if row.before is None or row.after is None:
                lines.append(f"{row.layer:<{width}}  left as it is: {row.reason}")
            else:
                lines.append(f"{row.layer:<{width}}  {row.before:12.3e} {row.after:9.3e}")
        return "\n".join(lines)


class _Detached(keras.layers.Layer):
    """A tensor without its history, but with its mask."""

    def __init__(self) -> None:
        super().__init__(autocast=False, name="detached")
        self.supports_masking = True
        self.built = True

    def call(self, x: Any) -> Any:
        return ops.stop_gradient(x)


class SideBySide:
    """Both models' tensors at one place of the graph, for all batches of samples.

    The float model is held at the weights it had at the start, whatever is done to them on the
    way; the simulation sees them as they are.

    Attributes:
        layer: The quantized model's layer.
        exact: The float model's tensors that are still to be read, per batch.
        rounded: The simulation's.
    """

    def __init__(self, qmodel: Any, data: Any, batch_size: int) -> None:
        """Reads the samples.

        Args:
            qmodel: A calibrated model made by `sentei.quantize`.
            data: Samples, as the argument `calibration` of `sentei.quantize`.
            batch_size: How many samples of an array to run at once.

        Raises:
            SenteiError: The model is not quantized, is a subclass of `keras.Model`, or not
                calibrated; or the samples do not fit.
        """
        self.layer: QuantizedModel = layer_of(qmodel)
        if not self.layer.plan.graph.nodes:
            raise SenteiError(
                f"Model {self.layer.float_model.name!r} is a subclass of keras.Model: its layers "
                "cannot be run one by one. Make it a Functional model."
            )
        for quantizer in self.layer.quantizers.values():
            if isinstance(quantizer, ActivationQuantizer):
                quantizer.grid()  # says what to do if there is none
        nodes = self.layer.plan.graph.nodes
        self.exact: list[Values] = []
        self.rounded: list[Values] = []
        for batch in batches(qmodel, data, batch_size):
            leaves = [ops.convert_to_tensor(leaf) for leaf in keras.tree.flatten(batch)]
            given = {
                Tensor(node.index): leaves[node.index] for node in nodes if node.operation is None
            }
            self.exact.append(given)
            self.rounded.append({t: self._round(t, value) for t, value in given.items()})
        if not self.exact:
            raise SenteiError("The data is empty. Give at least one batch of samples.")
        variables = self.layer.float_model.variables
        self._start = [(v, ops.convert_to_numpy(v.value).copy()) for v in variables]
        self._waiting = {
            tensor: {reader.index for reader in readers}
            for tensor, readers in self.layer.plan.graph.consumers().items()
        }

    def units(self) -> Iterator[tuple[Node, ...]]:
        """Groups of fused nodes and single nodes, in an order in which they can run.

        Before each, both models are run up to it; after it, `run` must have been called for both.
        """
        graph = self.layer.plan.graph
        groups = {group.nodes[0]: group.nodes for group in self.layer.plan.groups}
        inside = {index for members in groups.values() for index in members[1:]}
        for node in graph.nodes:
            if node.operation is None or node.index in inside:
                continue
            unit = tuple(graph.nodes[i] for i in groups.get(node.index, (node.index,)))
            yield unit
            for readers in self._waiting.values():
                readers.difference_update(member.index for member in unit)
            for values in (*self.exact, *self.rounded):
                for tensor in [t for t in values if not self._waiting.get(t)]:
                    del values[tensor]

    def run(self, unit: Sequence[Node], rounding: bool) -> list[Any]:
        """Runs a unit of one of the models, and keeps its outputs for what reads them.

        Args:
            unit: As `units` gives it.
            rounding: Whether of the simulation.

        Returns:
            The first output of the unit's last node, per batch; before it is rounded.
        """
        found = []
        for values in self.rounded if rounding else self.exact:
            results = self.results(unit, values, rounding)
            found.append(results[0])
            for output, value in enumerate(results):
                tensor = Tensor(unit[-1].index, output)
                values[tensor] = self._round(tensor, value) if rounding else value
        return found

    def results(self, unit: Sequence[Node], values: Values, rounding: bool) -> list[Any]:
        """The outputs of a unit's last node, not rounded yet.

        Args:
            unit: As `units` gives it.
            values: An entry of `exact` or `rounded`.
            rounding: Whether of the simulation.
        """
        plan = self.layer.plan
        seen: Values = dict(values)
        with self._scope(rounding):
            results: list[Any] = []
            for node in unit:
                results = self.layer.run_node(node, seen, self._rounding(rounding), False, rounding)
                for output, value in enumerate(results):
                    tensor = Tensor(node.index, output)
                    inner = rounding and node is not unit[-1] and tensor in plan.rounded
                    seen[tensor] = self._round(tensor, value) if inner else value
            return [_Detached()(value) for value in results]

    def read(self, node: Node, values: Values) -> Any:
        """The tensor that a node with one input reads in the simulation.

        Args:
            node: The node.
            values: An entry of `rounded`.
        """
        (tensor,) = node.inputs
        label = self.layer.plan.requantized.get((node.index, tensor))
        value = values[tensor]
        return value if label is None else self.layer.quantizer_of(label)(value)

    def _rounding(self, rounding: bool) -> Any:
        if rounding:
            return lambda label, x, tensor: self.layer.quantizer_of(label)(x)
        return lambda label, x, tensor: x

    def _round(self, tensor: Tensor, value: Any) -> Any:
        plan = self.layer.plan
        if tensor not in plan.rounded or "float" not in keras.backend.standardize_dtype(
            value.dtype
        ):
            return value
        return _Detached()(self.layer.quantizer_of(plan.of_tensor[tensor])(value))

    def _scope(self, rounding: bool) -> keras.StatelessScope:
        if not rounding:
            return keras.StatelessScope([(v, ops.convert_to_tensor(a)) for v, a in self._start])
        quantized = [
            (weight.variable, self.layer.by_name[weight.label](weight.variable.value))
            for weight in self.layer.plan.weights
        ]
        return keras.StatelessScope(quantized)


@contextmanager
def pre_activation(layer: Any) -> Iterator[None]:
    """Lets a layer give what it computes before its own activation.

    Args:
        layer: A contraction.

    Yields:
        Nothing.
    """
    if not hasattr(layer, "activation"):
        yield
        return
    before = layer.activation
    layer.activation = keras.activations.linear
    try:
        yield
    finally:
        layer.activation = before


def first_calls(layer: QuantizedModel) -> dict[int, Node]:
    """The nodes of contractions by their index; of a shared layer the first call.

    Args:
        layer: The quantized model's layer.
    """
    found: dict[int, Node] = {}
    for node in layer.plan.graph.nodes:
        if node.operation is not None and rules.role(node.operation)[0] == "contraction":
            found.setdefault(id(node.operation), node)
    return {node.index: node for node in found.values()}


def relative(found: Sequence[np.ndarray], wanted: Sequence[np.ndarray]) -> float:
    """The mean square of the differences of arrays, over that of the second ones.

    Args:
        found: Arrays.
        wanted: As many, of the same shapes.
    """
    pairs = list(zip(found, wanted, strict=True))
    error = sum(float(np.sum((a - b) ** 2, dtype=np.float64)) for a, b in pairs)
    return error / max(sum(float(np.sum(b**2, dtype=np.float64)) for _, b in pairs), 1e-30)


class Progress:
    """A line on a terminal that says how far a tool is."""

    def __init__(self, title: str, total: int, shown: bool | None) -> None:
        """Begins.

        Args:
            title: What is done.
            total: To how many layers.
            shown: Whether to write at all; None: if there is a terminal.
        """
        self.title, self.total, self.done = title, total, 0
        self.shown = sys.stderr.isatty() if shown is None else shown

    def step(self, name: str) -> None:
        """Says that one more is done.

        Args:
            name: Which.
        """
        self.done += 1
        if self.shown:
            end = "\n" if self.done == self.total else ""
            sys.stderr.write(f"\r{self.title}: {self.done}/{self.total} {name[:40]:<40}{end}")
            sys.stderr.flush()
