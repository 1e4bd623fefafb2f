"""What to call the operators of a file, as its author would."""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from sentei.litert.flatmodel import FlatModel

_WITH_KERNEL = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# The names that the exporter gives: `jit(forward)/model/layer/primitive`, several joined by ";",
# or `serving_default_layer_output` for what the graph gives back.
_OUTPUT = re.compile(r"(?:serving_default|StatefulPartitionedCall)_(.+)_output")
_PRODUCT = re.compile(r"/(conv|dot)_general\w*$")
_TRACED = "jit(forward)/"


def labels(model: FlatModel, layers: Mapping[str, Any] = MappingProxyType({})) -> dict[int, str]:
    """What to call each operator: the Keras layer it comes from, or a short form of its output.

    Args:
        model: A file.
        layers: The layers of the model it was exported from, by name, where that is known.

    Returns:
        Names by the operators' places in the main graph.
    """
    graph = model.subgraphs[0]
    outputs = {index: name for s in model.signatures for name, index in s.outputs.items()}
    found = {}
    for place, op in enumerate(graph.operators):
        index = op.outputs[0]
        names = [graph.tensors[index].name]
        if index in outputs:
            names.append(outputs[index])
        found[place] = _label(names, op.name, layers)
    return found


def _label(names: list[str], kind: str, layers: Mapping[str, Any]) -> str:
    pieces = [_OUTPUT.sub(r"\1", part) for name in names for part in name.split(";")]
    if kind in _WITH_KERNEL:
        # A bias that equals another layer's is one constant with it, and named after that layer.
        pieces.sort(key=lambda piece: bool(_PRODUCT.search(piece)))
    parts = [part for piece in pieces for part in piece.split("/")]
    known = [part for part in parts if part in layers]
    if kind in _WITH_KERNEL:
        known = [part for part in known if layers[part].weights] or known
    if known:
        return known[-1] if kind in _WITH_KERNEL else known[0]
    # What is fused into an operator is named before the operator itself.
    ours = [piece for piece in pieces if piece.startswith(_TRACED)]
    products = [piece for piece in ours if _PRODUCT.search(piece)]
    piece = products[-1] if products and kind in _WITH_KERNEL else pieces[0]
    short = piece.removeprefix(_TRACED).split("/")
    return "/".join(short[1:-1] if ours and len(short) > 2 else short) or names[0]
