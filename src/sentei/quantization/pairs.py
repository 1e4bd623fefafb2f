"""Sums, products and means of many tensors, taken two at a time, as integer operators take them.

LiteRT adds and multiplies two tensors of integers; a sum of three is two sums with a grid in
between. The layers themselves go two by two in the same order, so real numbers are the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import keras
from keras import layers as kl

from sentei.core.graph import Graph, Node, Tensor, filled, graph_of

_MERGES: dict[Any, Any] = {kl.Add: kl.Add, kl.Multiply: kl.Multiply, kl.Average: kl.Add}


def in_pairs(graph: Graph, is_quantized: Callable[[Any, str], bool]) -> Graph:
    """A graph whose quantized merges read two tensors each.

    Args:
        graph: A model's.
        is_quantized: Whether a layer is, from the layer and its path.

    Returns:
        The graph; the node that ends on a merge's output has the merge's name.
    """
    nodes: list[Node] = []
    places: list[int] = []

    def moved(tensor: Tensor) -> Tensor:
        return replace(tensor, node=places[tensor.node])

    for node in graph.nodes:
        path = node.name.partition(":")[0]
        if _fits(node, graph) and is_quantized(node.operation, path):
            _take_apart(node, [moved(tensor) for tensor in node.inputs], nodes)
        else:
            args, kwargs = filled(node.args, moved), filled(node.kwargs, moved)
            nodes.append(replace(node, index=len(nodes), args=args, kwargs=kwargs))
        places.append(len(nodes) - 1)
    return Graph(nodes, filled(graph.inputs, moved), filled(graph.outputs, moved))


def _fits(node: Node, graph: Graph) -> bool:
    """Whether a node merges more tensors than an operator takes, of one shape that is known."""
    merge, shapes = type(node.operation), [graph.nodes[t.node].shape for t in node.inputs]
    if merge not in _MERGES or node.kwargs or len(node.inputs) != len(set(node.inputs)):
        return False
    if any(t.output for t in node.inputs) or None in shapes or len(set(shapes)) != 1:
        return False
    return len(node.inputs) > 2 or merge is kl.Average


def _take_apart(node: Node, tensors: list[Tensor], nodes: list[Node]) -> None:
    merge = _MERGES[type(node.operation)](
        name=node.operation.name, dtype=node.operation.dtype_policy
    )
    shape = nodes[tensors[0].node].shape
    total, *others = tensors
    mean = isinstance(node.operation, kl.Average)
    for place, tensor in enumerate(others):
        last = not mean and place == len(others) - 1
        name = node.name if last else f"{node.name}:sum{place + 1}"
        whole = replace(node, operation=merge, name=name, index=len(nodes), shape=shape)
        nodes.append(replace(whole, args=([total, tensor],), arity=1))
        total = Tensor(len(nodes) - 1)
    if mean:
        given = keras.Input(batch_shape=shape, dtype=node.dtype)
        divide = graph_of(keras.Model(given, given / len(tensors))).nodes[-1]
        args = filled(divide.args, lambda _: total)
        nodes.append(replace(divide, index=len(nodes), name=node.name, args=args, shape=shape))
