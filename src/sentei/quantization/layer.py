"""The layer that runs a float model as integers would: on rounded weights and activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
from keras import ops

from sentei.core.graph import Node, Tensor, filled
from sentei.core.state import run_on
from sentei.quantization.biases import Contraction
from sentei.quantization.calls import rounding_calls
from sentei.quantization.freezing import Freezing
from sentei.quantization.inside import gated, rounding_inside
from sentei.quantization.integers import Exact, emitted
from sentei.quantization.planned import plan_of, quantizers_of
from sentei.quantization.quantizer import Quantizer
from sentei.quantization.scheme import Custom
from sentei.quantization.settings import Settings

# What is called with every tensor that is about to be rounded, in place of rounding it.
Watch = Callable[[str, Any], None]


@keras.saving.register_keras_serializable("sentei")
class QuantizedModel(keras.layers.Layer):
    """A float model, unchanged, whose layers see rounded weights and whose tensors are rounded.

    The graph is run node by node, every layer by its own `__call__`, so masks, losses, statistics
    and precision are as in the float model.

    Attributes:
        float_model: The model; its variables are the ones that train.
        plan: Which tensor gets which grid.
        quantizers: All quantizers by name, in a fixed order.
        in_integers: Whether inference computes in integers what can be, as the file does; when
            false, it computes as in training.
        stand_ins: What runs in place of layers that have code of the user's own, by their names.
    """

    runs_float_model = True  # what sentei.strip looks for

    def __init__(
        self,
        float_model: Any,
        scheme: Custom,
        layers: Mapping[str, Any] | None = None,
        specs: Any = None,
        **kwargs: Any,
    ) -> None:
        """Plans the grids of a model; activations have no ranges yet.

        Args:
            float_model: A built Keras model.
            scheme: The scheme of all layers that `layers` does not name.
            layers: From a layer's name to its own scheme, or None to leave it float.
            specs: What a subclassed model is called with; see `calls.specs_of`.
            **kwargs: Keras' own.
        """
        super().__init__(autocast=False, **kwargs)
        self.float_model = float_model
        self.scheme = scheme
        self.settings = Settings(scheme, layers)
        self.specs = specs
        self.plan, self.calls = plan_of(float_model, self.settings, specs)
        self.by_name = quantizers_of(self.plan)
        self.stand_ins = self.settings.stand_ins(self.plan.graph.nodes)
        self.settings.check_used(float_model)
        self.applied = _Applied(name="applied")
        self.freezing = Freezing(self, scheme.batch_norm_frozen_after)
        self.supports_masking = True
        self.in_integers = True
        self.built = True

    def build(self, input_shape: Any = None) -> None:
        """Does nothing: the float model is built already."""

    @property
    def metrics(self) -> list[Any]:
        """The metrics of the float model's layers, not those it was compiled with."""
        return _layer_metrics(self.float_model)

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """All quantizers by name: weights first, then activations."""
        return dict(self.by_name)

    def quantizer_of(self, label: str) -> Quantizer:
        """The quantizer of an activation, which may be that of a weight.

        Args:
            label: A key of `plan.activations`.
        """
        return self.by_name[self.plan.activations[label].weight or label]

    def compute_mask(self, inputs: Any, previous_mask: Any) -> Any:
        """None: the outputs carry the masks that the float model's layers gave them."""
        return None

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """The float model's outputs, computed on rounded weights and activations.

        Args:
            inputs: The structure that the float model takes.
            training: As for the float model.
        """
        weights = []
        # In training nothing is computed in integers: there are gradients to be had.
        scales: dict[str, Any] | None = {} if self.in_integers and not training else None
        for weight in self.plan.weights:
            quantizer, value = self.by_name[weight.label], weight.variable.value
            weights.append((weight.variable, quantizer(value)))
            if scales is not None:
                scales[weight.label] = quantizer.numbers()[0]
        results = run_on(
            self, self.variables, weights, lambda: self.walk(inputs, self._round, training, scales)
        )
        self.freezing.count(training)
        return results

    def watched(self, inputs: Any, watch: Watch) -> Any:
        """The float model's outputs, showing every tensor that would be rounded.

        Args:
            inputs: The structure that the float model takes.
            watch: Called with a tensor's label and the tensor. A label may come several times.

        Returns:
            The outputs of the float model.
        """
        measured = {t: label for label, found in self.plan.sources.items() for t in found}

        def see(label: str, x: Any, tensor: Tensor | None) -> Any:
            if tensor is None or measured.get(tensor) == label:
                watch(label, x)
            return x

        return self.walk(inputs, see, False)

    def walk(
        self,
        inputs: Any,
        rounded: Callable[[str, Any, Tensor | None], Any],
        training: bool | None,
        scales: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs the model's graph, giving every tensor with a grid to a function.

        Args:
            inputs: The structure that the float model takes.
            rounded: What to put in place of a tensor: a function of the label of its grid, the
                tensor, and where it is in the graph (None: within a layer).
            training: As for the float model.
            scales: The steps of the kernels' grids, to compute in integers what can be, and to
                round the biases of the rest. In training neither is done: the batch normalization
                folded into them is that of inference, and gradients are wanted.

        Returns:
            The structure of outputs of the float model.
        """
        graph, plan = self.plan.graph, self.plan
        if not graph.nodes:
            with rounding_calls(self.calls, rounded):
                return self.float_model(inputs, training=training)
        values: dict[Tensor, Any] = {}
        leaves = keras.tree.flatten(inputs)
        done: set[int] = set()
        for node in graph.nodes:
            if node.index in done:
                continue
            exact = plan.exact.get(node.index) if scales is not None else None
            affine = plan.affines.get(node.index) if scales is not None else None
            if affine is not None and self.quantizer_of(affine.image).emit is not None:
                ends = self.quantizer_of(affine.image), self.quantizer_of(affine.output)
                value = affine.emitted(values[node.inputs[0]], *ends)
                values[affine.tensor] = rounded(affine.output, value, affine.tensor)
                done.update(affine.nodes)
                continue
            if exact is not None and scales is not None and self._is_exact(exact):
                value = self._in_integers(exact, [values[t] for t in node.inputs], scales)
                if exact.tensor is not None:
                    values[exact.tensor] = value
                    done.update(exact.nodes)
                    continue
                results = [self._activated(node, value, rounded, scales)]
            elif exact is not None and exact.contraction is not None and self._is_emitted(exact):
                value = self._emitted(exact, exact.contraction, values[node.inputs[0]], rounded)
                results = [value]
                if exact.tensor is not None:
                    values[exact.tensor] = rounded(exact.output, value, exact.tensor)
                    done.update(exact.nodes)
                    continue
            elif node.operation is None:
                results = [leaves[node.index]]
            else:
                bias = self._bias(node.index) if scales is not None else None
                results = self._run(node, values, rounded, training, bias, scales)
            for output, value in enumerate(results):
                tensor = Tensor(node.index, output)
                if tensor in plan.rounded and _is_floating(value):
                    value = rounded(plan.of_tensor[tensor], value, tensor)
                values[tensor] = value
        return filled(graph.outputs, values.__getitem__)

    def run_node(
        self,
        node: Node,
        values: Mapping[Tensor, Any],
        rounded: Callable[[str, Any, Tensor | None], Any],
        training: bool | None,
        simulated: bool = False,
    ) -> list[Any]:
        """Runs one node of the graph by itself.

        Args:
            node: The node.
            values: The tensors it reads.
            rounded: As for `walk`; called for the tensors that are rounded before and within it.
            training: As for the float model.
            simulated: Whether biases are rounded, too.

        Returns:
            The node's outputs, not rounded.
        """
        bias = self._bias(node.index) if simulated else None
        return self._run(node, values, rounded, training, bias)

    def _run(
        self,
        node: Node,
        values: Mapping[Tensor, Any],
        rounded: Callable[[str, Any, Tensor | None], Any],
        training: bool | None,
        bias: Callable[[Any], Any] | None,
        scales: Mapping[str, Any] | None = None,
    ) -> list[Any]:
        def read(tensor: Tensor) -> Any:
            label = self.plan.requantized.get((node.index, tensor))
            value = values[tensor]
            return value if label is None else rounded(label, value, tensor)

        args, kwargs = filled(node.args, read), filled(node.kwargs, read)
        if "training" in kwargs and training is not None:
            # As in Keras' own graphs: what the whole model is called with has the last word.
            kwargs["training"] = training
        hidden = {
            where: label
            for (index, where), label in self.plan.hidden.items()
            if index == node.index
        }
        inside = bias if bias is not None and self.plan.biases[node.index].hidden else None
        product = self._product(node.index, scales)
        with rounding_inside(node.operation, hidden, rounded, inside, product) as function:
            function = self.stand_ins.get(node.name.partition(":")[0], function)
            found = self.freezing.call(function, args, kwargs, training)
            results = list(keras.tree.flatten(found))
        return results if bias is None or inside is not None else [bias(results[0])]

    def _is_exact(self, exact: Exact) -> bool:
        """Whether a node can be computed in integers as things are."""
        labels = [*exact.read, exact.output]
        quantizers = [self.quantizer_of(label) for label in labels]
        if exact.kernel is not None:
            quantizers.append(self.by_name[exact.kernel])
        return all(q.emit is None and q.surely_ready for q in quantizers)

    def _is_emitted(self, exact: Exact) -> bool:
        """Whether what is computed in integers is being exported."""
        return self.quantizer_of(exact.read[0]).emit is not None

    def _emitted(
        self,
        exact: Exact,
        found: Contraction,
        x: Any,
        rounded: Callable[[str, Any, Tensor | None], Any],
    ) -> Any:
        """A contraction's output as the file shall compute it."""
        image, kernel = self.quantizer_of(found.image).grid(), self.by_name[found.kernel].grid()
        value = emitted(found, x, image.scale, kernel.scale)
        if exact.tensor is None:
            value = rounded(exact.output, value, None)
        if found.hidden:
            return self._activated(self.plan.graph.nodes[found.nodes[0]], value, rounded, None)
        behind = self.plan.graph.nodes[found.nodes[-1]].operation
        fused = len(found.nodes) > 1 and behind is not found.normalization
        return behind(value) if fused else value

    def _activated(
        self,
        node: Node,
        x: Any,
        rounded: Callable[[str, Any, Tensor | None], Any],
        scales: Mapping[str, Any] | None,
    ) -> Any:
        """A layer's own activation of what it computed."""
        label = self.plan.hidden.get((node.index, "sigmoid"))
        gate = self.plan.gates.get(node.index)
        if label is None and gate is not None and scales is not None and self._is_exact(gate):
            return self._in_integers(gate, [x], scales)
        if label is None:
            return node.operation.activation(x)
        return gated(label, rounded, self._product(node.index, scales))(x)

    def _product(self, node: int, scales: Mapping[str, Any] | None) -> Callable[[Any, Any], Any]:
        """What multiplies within SiLU."""
        gate = self.plan.gates.get(node) if scales is not None else None
        if gate is None or scales is None or not self._is_exact(gate):
            return ops.multiply
        return lambda *tensors: self._in_integers(gate, list(tensors), scales)

    def _in_integers(self, exact: Exact, tensors: list[Any], scales: Mapping[str, Any]) -> Any:
        """A node's output on its grid."""
        read = [self.quantizer_of(label).numbers()[0] for label in exact.read]
        output = self.quantizer_of(exact.output)
        integers = [
            self.applied(x, function=lambda x, step=step: ops.round(ops.cast(x, "float32") / step))
            for x, step in zip(tensors, read, strict=True)
        ]
        if exact.kernel is not None:
            read.append(scales[exact.kernel])
        step, zero = output.numbers()
        total = exact.steps(integers, read, step, zero)
        if output.stand_in is not None:
            output.moved = False
            stand_in, grid = output.stand_in, output.grid()
            return self.applied(total, function=lambda x: stand_in(x, grid, in_steps=True))
        low, high = output.kind.low - zero, output.kind.high - zero
        return self.applied(
            total, function=lambda x: ops.clip(exact.rounded(x, read, step), low, high) * step
        )

    def _bias(self, node: int) -> Callable[[Any], Any] | None:
        """What moves the biases in a node's output to where the file has them."""
        found = self.plan.biases.get(node)
        if found is None:
            return None
        image, kernel = self.quantizer_of(found.image), self.by_name[found.kernel]
        if image.emit is not None or image.identity or kernel.identity:
            return None
        return found.rounding(image, kernel)

    def _round(self, label: str, x: Any, tensor: Tensor | None) -> Any:
        quantizer = self.quantizer_of(label)
        own = tensor is not None and self.plan.of_tensor[tensor] == label
        quantizer.moved = own and tensor not in self.plan.sources[label]
        return quantizer(x)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        return {
            **super().get_config(),
            "float_model": _uncompiled(keras.saving.serialize_keras_object(self.float_model)),
            "scheme": keras.saving.serialize_keras_object(self.scheme),
            "layers": {
                name: keras.saving.serialize_keras_object(scheme)
                for name, scheme in self.settings.own.items()
            },
            "specs": keras.saving.serialize_keras_object(self.specs),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> QuantizedModel:
        """A layer from its config; Keras then loads the weights and ranges.

        Args:
            config: What `get_config` gave.
        """
        config = dict(config)
        for name in ("float_model", "scheme"):
            config[name] = keras.saving.deserialize_keras_object(config[name])
        config["layers"] = {
            name: keras.saving.deserialize_keras_object(scheme)
            for name, scheme in config["layers"].items()
        }
        config["specs"] = keras.saving.deserialize_keras_object(config.get("specs"))
        return cls(**config)


class _Applied(keras.layers.Layer):
    """Applies a function to a tensor, which keeps its mask."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, dtype="float32", **kwargs)
        self.supports_masking = True
        self.built = True

    def call(self, x: Any, function: Callable[[Any], Any]) -> Any:
        return function(x)


def _layer_metrics(model: Any) -> list[Any]:
    found: list[Any] = []
    for layer in model.layers:
        found += _layer_metrics(layer) if isinstance(layer, keras.Model) else layer.metrics
    return found


def _is_floating(x: Any) -> bool:
    return "float" in keras.backend.standardize_dtype(x.dtype)


def _uncompiled(config: Any) -> Any:
    """A model's config without what it was compiled with: another model is going to be trained."""
    if isinstance(config, dict):
        return {k: _uncompiled(v) for k, v in config.items() if k != "compile_config"}
    if isinstance(config, list):
        return [_uncompiled(item) for item in config]
    return config
