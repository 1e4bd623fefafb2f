"""Which tensor of a model gets which grid: decided on the graph, before anything runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sentei.core.graph import Graph, Node, Tensor, tensors_in
from sentei.core.select import sublayers
from sentei.quantization import rules
from sentei.quantization.affine import Affine, Numbers, affines, numbers_of
from sentei.quantization.biases import Contraction, contractions
from sentei.quantization.grid import Kind
from sentei.quantization.integers import Exact, exact_gates, exact_nodes, limits_behind
from sentei.quantization.scheme import Custom

SchemeOf = Callable[[Any, str], "Custom | None"]


@dataclass(frozen=True)
class Activation:
    """An activation's grid, before it has numbers.

    Attributes:
        label: The name of the tensor it is named after.
        kind: The sort of grid.
        scheme: What the user wants of it.
        fixed: Scale and zero point, where LiteRT prescribes them.
        weight: The label of the weight whose grid this is (embeddings), or None.
    """

    label: str
    kind: Kind
    scheme: Custom
    fixed: tuple[float, int] | None = None
    weight: str | None = None


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight's grid, before it has numbers.

    Attributes:
        label: The layer's name with those around it, and the weight's.
        layer: The layer that owns it.
        variable: The Keras variable.
        kind: The sort of grid.
        steps: How its step sizes are found; see `Custom.weight_steps`.
    """

    label: str
    layer: Any
    variable: Any
    kind: Kind
    steps: str = "largest"


@dataclass(frozen=True)
class Group:
    """Nodes that become one integer operation: nothing is rounded between them.

    Attributes:
        nodes: Their indices, in order.
        output: The tensor that is rounded.
    """

    nodes: tuple[int, ...]
    output: Tensor


@dataclass(frozen=True)
class Float:
    """Something that stays in floating point, and why."""

    name: str
    reason: str


@dataclass
class Plan:
    """What is quantized how.

    Attributes:
        graph: The model's graph.
        weights: The quantized weights.
        activations: Each grid of activations by its label.
        of_tensor: The label of the grid each quantized tensor is on.
        rounded: The tensors that are rounded where they are made; the others of `of_tensor` are on
            their grid because dropout and the like leave them there.
        sources: The tensors that a grid's range is measured on, by its label.
        requantized: For a node and a tensor it reads, the grid to move the tensor to before.
        hidden: For a node, the grid of the tensor between what it computes and its activation
            (of a separable convolution: between its two convolutions, under `(node, "depthwise")`;
            of SiLU: what the sigmoid gives, under `(node, "sigmoid")`).
        groups: Fused nodes.
        floats: What stays float, and why.
        biases: The contractions with int32 biases, by the node whose output has them in it.
        exact: What is computed in integers at inference, by the first of the fused nodes.
        affines: What the file computes as a depthwise convolution, by the first of the fused nodes.
        gates: The activations within layers, and the products within SiLU, that are computed in
            integers at inference, by the node.
    """

    graph: Graph
    weights: list[Weight] = field(default_factory=list)
    activations: dict[str, Activation] = field(default_factory=dict)
    of_tensor: dict[Tensor, str] = field(default_factory=dict)
    rounded: set[Tensor] = field(default_factory=set)
    sources: dict[str, list[Tensor]] = field(default_factory=dict)
    requantized: dict[tuple[int, Tensor], str] = field(default_factory=dict)
    hidden: dict[tuple[int, str], str] = field(default_factory=dict)
    groups: list[Group] = field(default_factory=list)
    floats: list[Float] = field(default_factory=list)
    biases: dict[int, Contraction] = field(default_factory=dict)
    exact: dict[int, Exact] = field(default_factory=dict)
    affines: dict[int, Affine] = field(default_factory=dict)
    gates: dict[int, Exact] = field(default_factory=dict)


def plan_weights(model: Any, scheme_of: SchemeOf) -> list[Weight]:
    """The quantized weights of any model, also of layers within layers.

    Args:
        model: A built Keras model.
        scheme_of: The scheme of a layer, from the layer and its name with those around it.
    """
    found: dict[int, Weight] = {}
    for layer, holders in sublayers(model):
        path = "/".join([*(holder.name for holder in holders[1:]), layer.name])
        scheme = scheme_of(layer, path)
        if scheme is None:
            continue
        for variable, axis in rules.kernels(layer):
            matrix = len(variable.shape) == 2 and axis == 1
            kind = scheme.weight(axis, matrix)
            if kind is not None:
                label = f"{path}/{variable.name}"
                weight = Weight(label, layer, variable, kind, scheme.weight_steps)
                found.setdefault(id(variable), weight)
    return list(found.values())


def plan_graph(model: Any, graph: Graph, scheme_of: SchemeOf) -> Plan:
    """The plan of a Functional or Sequential model.

    Args:
        model: The model.
        graph: Its graph.
        scheme_of: The scheme of a layer, from the layer and its name with those around it.
    """
    plan = Plan(graph, weights=plan_weights(model, scheme_of))
    _Planner(plan, scheme_of).run()
    return plan


class _Planner:
    """Works out the tensors' grids: fuses, lets tensors share, then names the grids."""

    def __init__(self, plan: Plan, scheme_of: SchemeOf) -> None:
        self.plan, self.graph = plan, plan.graph
        self.consumers = self.graph.consumers()
        self.outputs = set(tensors_in(self.graph.outputs))
        self.schemes: dict[int, Custom | None] = {}
        self.roles: dict[int, tuple[str, str]] = {}
        self.numbers: dict[int, Numbers] = {}  # of what multiplies and adds per channel
        for node in self.graph.nodes:
            self.schemes[node.index] = scheme_of(node.operation, node.name.partition(":")[0])
            self.roles[node.index] = (
                ("input", "") if node.operation is None else rules.role(node.operation)
            )
            numbers = numbers_of(node, self.graph.nodes)
            if numbers is not None:
                self.numbers[node.index] = numbers
                if self.roles[node.index][0] == "float":
                    self.roles[node.index] = "elementwise", ""
        self.inside: set[Tensor] = set()  # tensors within a group
        self.parent: dict[Tensor, Tensor] = {}

    def run(self) -> None:
        for node in self.graph.nodes:
            self._fuse(node)
        for node in self.graph.nodes:
            for output in range(node.arity):
                self._enter(node, Tensor(node.index, output))
        pinned = {self._root(t): t for t in list(self.parent) if self._pin(t) is not None}
        for node in self.graph.nodes:
            if self.roles[node.index][0] == "same_output":
                self._share_output(node, pinned)
        self._name(pinned)
        for node in self.graph.nodes:
            self._look_inside(node)
        self._look_at_integers()

    def _fuse(self, node: Node) -> None:
        """Follows a node's only reader as far as one integer operation reaches."""
        role = self.roles[node.index][0]
        if role not in ("contraction", "elementwise", "normalization"):
            return
        if Tensor(node.index) in self.inside or any(
            node.index in group.nodes for group in self.plan.groups
        ):
            return
        chain, can_normalize = [node], role == "contraction"
        if role == "contraction" and rules.own_activation(node.operation) != "linear":
            return
        while True:
            output = Tensor(chain[-1].index)
            readers = self.consumers.get(output, [])
            if output in self.outputs or len(readers) != 1 or readers[0].inputs != [output]:
                break
            following = self.roles[readers[0].index][0]
            if following == "normalization" and can_normalize:
                can_normalize = False
            elif following != "rectifier":
                break
            chain.append(readers[0])
            if following == "rectifier":
                break
        self.inside.update(Tensor(member.index) for member in chain[:-1])
        if len(chain) > 1:
            indices = tuple(member.index for member in chain)
            self.plan.groups.append(Group(indices, Tensor(chain[-1].index)))

    def _kind(self, tensor: Tensor) -> Kind | None:
        scheme = self.schemes[tensor.node]
        return None if scheme is None else scheme.activation()

    def _enter(self, node: Node, tensor: Tensor) -> None:
        """Gives a tensor a grid of its own, or that of the tensor it is made of."""
        role = self.roles[node.index][0]
        floating = node.dtype is None or "float" in node.dtype
        if tensor in self.inside or not floating:
            return
        if role == "float" and not self.consumers.get(tensor) and tensor in self.outputs:
            return
        if role in ("same_input", "transparent"):
            sources = [t for t in node.inputs if t in self.parent]
            if sources:
                self.parent[tensor] = sources[0]
            return
        if self._kind(tensor) is not None:
            self.parent[tensor] = tensor

    def _root(self, tensor: Tensor) -> Tensor:
        while self.parent[tensor] != tensor:
            tensor = self.parent[tensor]
        return tensor

    def _pin(self, tensor: Tensor) -> tuple[tuple[float, int] | None, str | None] | None:
        """The grid a tensor must have, whatever its readers want: fixed numbers, or a weight."""
        root = self._root(tensor)
        node, kind = self.graph.nodes[root.node], self._kind(root)
        role, function = self.roles[root.node]
        if role == "contraction":
            function = rules.own_activation(node.operation)
        if role == "lookup":
            for weight in self.plan.weights:
                if weight.layer is node.operation:
                    return None, weight.label
        numbers = rules.fixed(function, kind) if function and kind is not None else None
        return None if numbers is None else (numbers, None)

    def _share_output(self, node: Node, pinned: dict[Tensor, Tensor]) -> None:
        output = Tensor(node.index)
        if output not in self.parent:
            return
        for tensor in dict.fromkeys(node.inputs):
            if tensor not in self.parent:
                continue
            root, own = self._root(tensor), self._root(output)
            if root == own:
                continue
            if root in pinned or self._kind(root) != self._kind(own):
                self.plan.requantized[node.index, tensor] = ""  # named below
            else:
                self.parent[own] = root

    def _name(self, pinned: dict[Tensor, Tensor]) -> None:
        plan, names = self.plan, self.graph.nodes
        for tensor in self.parent:
            root = self._root(tensor)
            label = names[root.node].name + (f"#{root.output}" if root.output else "")
            scheme = self.schemes[root.node]
            kind = self._kind(root)
            if scheme is None or kind is None:
                continue
            role = self.roles[tensor.node][0]
            plan.of_tensor[tensor] = label
            if role != "transparent":
                plan.rounded.add(tensor)
            if role not in ("same_input", "transparent", "same_output"):
                plan.sources.setdefault(label, []).append(tensor)
            if label not in plan.activations:
                numbers, weight = self._pin(root) or (None, None)
                plan.activations[label] = Activation(label, kind, scheme, numbers, weight)
        for index, tensor in plan.requantized:
            plan.requantized[index, tensor] = plan.of_tensor[Tensor(index)]
        for label in plan.activations:  # a concatenation of pinned tensors only
            if label not in plan.sources:
                plan.sources[label] = [t for t, name in plan.of_tensor.items() if name == label]

    def _look_inside(self, node: Node) -> None:
        """Tensors within a layer, and the reasons for what stays float."""
        role = self.roles[node.index][0]
        scheme, kind = self.schemes[node.index], self._kind(Tensor(node.index))
        if node.operation is None:
            return
        if scheme is None:
            self.plan.floats.append(Float(node.name, "`layers` says so"))
            return
        if kind is None:
            return
        function = self.roles[node.index][1]
        if role == "contraction":
            function = rules.own_activation(node.operation)
        if function == "silu":
            self._hide(node, "sigmoid", kind, scheme, rules.fixed("sigmoid", kind))
        reason = rules.why_float(node.operation, len(node.inputs))
        if reason is not None and node.index not in self.numbers:
            self.plan.floats.append(Float(node.name, reason))
        if role != "contraction":
            return
        if hasattr(node.operation, "pointwise_kernel"):
            self._hide(node, "depthwise", kind, scheme)
        if rules.own_activation(node.operation) not in ("linear", *rules.RECTIFIERS):
            self._hide(node, "activation", kind, scheme)

    def _hide(
        self,
        node: Node,
        where: str,
        kind: Kind,
        scheme: Custom,
        fixed: tuple[float, int] | None = None,
    ) -> None:
        label = f"{node.name}/{where}"
        self.plan.hidden[node.index, where] = label
        self.plan.activations[label] = Activation(label, kind, scheme, fixed)

    def _look_at_integers(self) -> None:
        """What is known of the file's own arithmetic."""
        plan, nodes = self.plan, self.graph.nodes
        chains = [group.nodes for group in plan.groups]
        found = contractions(nodes, chains, plan.of_tensor, plan.hidden, plan.weights)
        for one in found:
            if one.normalization is not None or one.layer.use_bias:
                plan.biases[one.place] = one
        kinds = {label: activation.kind for label, activation in plan.activations.items()}
        kinds |= {weight.label: weight.kind for weight in plan.weights}
        plan.affines = affines(
            nodes, chains, plan.of_tensor, self.numbers, lambda chain: limits_behind(nodes, chain)
        )
        plan.exact = exact_nodes(
            nodes, chains, plan.of_tensor, plan.hidden, kinds, found, plan.affines
        )
        plan.gates = exact_gates(nodes, plan.of_tensor, plan.hidden, kinds)
