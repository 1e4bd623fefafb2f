"""`sentei.diagnose`: will a model run sparse, where, and if not, what stands in the way."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.select import require_built, sublayers
from sentei.litert import flatbuffer
from sentei.litert.diagnosis import Diagnosis, OperatorReport
from sentei.litert.flatmodel import FlatModel
from sentei.litert.labels import labels
from sentei.litert.xnnpack.clusters import Cluster, Found, Obstacle, find_clusters
from sentei.litert.xnnpack.nodes import Graph, Node, read_graph
from sentei.litert.xnnpack.rules import Role, Verdict

TARGETS = ("xnnpack",)
_ENDS = "a global average (or another mean or sum over a 4-D tensor), or DEPTH_TO_SPACE"
# From this share of the counted weights on, dense layers left unpruned would spoil 80 % sparsity.
_TELLING_SHARE = 1 / 6


def diagnose(model_or_file: Any, target: str = "xnnpack", *, signature: Any = None) -> Diagnosis:
    """Tells whether a model will run sparse, operator by operator.

    The rules are XNNPACK's own (`xnn_subgraph_rewrite_for_nchw` and
    `xnn_check_nchw_compatibility` in its `src/subgraph.c`, read at commit 75db3c093b, August 2026;
    `xnn_is_chw_compatible_config` in `src/configs/hardware-config.h` for the processors; the
    delegate of LiteRT, `xnnpack_delegate.cc`, asks for sparse inference only when a weight is
    stored sparse):

    - float32 and float16 only;
    - a sparse part starts at a 3x3 convolution of stride 2 on 3 channels, padded by 1 on every
      side; it holds 1x1 convolutions of stride 1, depthwise 3x3 or 5x5 convolutions of stride 1
      or 2 padded by 1 or 2 on every side, additions and multiplications of 4-D tensors,
      activations, bilinear resizing; it ends at a mean or sum over a 4-D tensor or at
      DEPTH_TO_SPACE; what it computes is read only inside it;
    - more than 2/3 of the weights of its 1x1 convolutions are zero. Since January 2025 dense
      layers behind the mean are part of it and count too;
    - on Arm, WebAssembly and RISC-V. On x86 with AVX it never does: dense is faster there.

    A Keras model is exported into a temporary file first, so this answers before the training.

    Args:
        model_or_file: A built Keras model, or the path of a `.tflite` file.
        target: `"xnnpack"`, the library that runs files on processors; there is no other yet.
        signature: As for `sentei.export`, for models that do not tell their inputs' shapes.

    Returns:
        The verdict and its reasons; prints as a report.

    Raises:
        SenteiError: `target` is unknown, or the model is neither a model nor a path.
        CorruptFile: The file is missing or damaged.
        ExportError: The model cannot be exported.
    """
    if target not in TARGETS:
        raise SenteiError(
            f"`target` must be one of {', '.join(map(repr, TARGETS))}. Received: {target!r}."
        )
    if isinstance(model_or_file, keras.Model):
        return _diagnose_model(model_or_file, target, signature)
    if not isinstance(model_or_file, str | os.PathLike):
        raise SenteiError(
            "`diagnose` takes a Keras model or the path of a .tflite file. Received: "
            f"{type(model_or_file).__name__}."
        )
    name = os.fspath(model_or_file)
    return _diagnose_file(flatbuffer.load(name), name, target, {})


def accelerated_layers(model: Any) -> list[str]:
    """The pruning policy `layers="xnnpack"`: what has to be pruned for a model to run sparse.

    These are the 1x1 convolutions of the parts that qualify. Dense layers that XNNPACK counts with
    them join when leaving them dense would keep the share of zeros below what it asks for.

    Args:
        model: A built Keras model.

    Returns:
        The names of the layers.

    Raises:
        UnsupportedModel: No part of the model would run sparse; the message says why.
    """
    found = diagnose(model)
    if not found.qualifies:
        raise SenteiError(
            f"layers='xnnpack', but no part of model {model.name!r} would run sparse. "
            + " ".join(f"{place}." for place in found.obstacles[:5])
            + " See sentei.diagnose(model), or sentei.sparsity.xnnpack_ready."
        )
    return list(found.layers_to_prune)


def _diagnose_model(model: Any, target: str, signature: Any) -> Diagnosis:
    from sentei.litert.export import export

    require_built(model)
    with tempfile.TemporaryDirectory(prefix="sentei-") as folder:
        path = Path(folder) / "model.tflite"
        # Dense, so that shapes and weights are read off directly; an export stores them sparse.
        export(model, path, signature=signature, sparse=False, verify=False)
        loaded = flatbuffer.load(path)
        layers = {layer.name: layer for layer, _ in sublayers(model) if layer is not model}
        found = _diagnose_file(loaded, model.name, target, layers)
    return replace(found, stored_sparse=None)


def _diagnose_file(
    model: FlatModel, name: str, target: str, layers: Mapping[str, Any]
) -> Diagnosis:
    graph = read_graph(model.subgraphs[0], labels(model, layers))
    found = find_clusters(graph)
    member = {node.operator: number for number, c in enumerate(found.clusters) for node in c.nodes}
    return Diagnosis(
        name=name,
        target=target,
        stored_sparse=graph.stored_sparse,
        clusters=found.clusters,
        operators=tuple(map(partial(_report, member), graph.nodes, found.verdicts)),
        obstacles=_obstacles(graph, found),
        layers_to_prune=tuple(_to_prune(found.clusters)),
    )


def _report(member: Mapping[int, int], node: Node, said: Verdict) -> OperatorReport:
    role = next((r.name for r in (Role.ENTRY, Role.EXIT, Role.INSIDE) if r in said.role), None)
    zeros = None
    if node.is_pointwise and node.weight is not None and node.weight.size:
        zeros = 1.0 - node.nonzeros / node.weight.size
    return OperatorReport(
        operator=node.kind,
        name=node.label,
        role=None if role is None else role.lower(),
        cluster=member.get(node.operator),
        zeros=zeros,
        reason=said.reason,
        remedy=said.remedy,
    )


def _obstacles(graph: Graph, found: Found) -> tuple[Obstacle, ...]:
    """What stands in the way of a graph without a part that qualifies, most general first."""
    if any(cluster.qualifies for cluster in found.clusters):
        return ()
    missing = []
    roles = [said.role for said in found.verdicts]
    if not any(node.is_pointwise for node in graph.nodes):
        missing.append(
            Obstacle("the model", "it has no 1x1 convolution, which is what runs sparse")
        )
    if not any(Role.ENTRY in role for role in roles):
        missing.append(
            Obstacle(
                "the model",
                "nothing starts a sparse part: a 3x3 convolution of stride 2 on 3 channels, padded "
                "by 1 on every side",
            )
        )
    if not any(Role.EXIT in role for role in roles):
        missing.append(Obstacle("the model", f"nothing ends a sparse part: {_ENDS}"))
    if any(Role.EXIT in role for role in roles) and found.obstacles:
        return (*missing, *found.obstacles)
    # Without an end XNNPACK does not even look; say what it would find.
    told = [
        Obstacle(node.label, said.reason, said.remedy)
        for node, said in zip(graph.nodes, found.verdicts, strict=True)
        if said.reason
    ]
    return (*missing, *told)


def _to_prune(clusters: Iterable[Cluster]) -> list[str]:
    names: dict[str, None] = {}
    for cluster in clusters:
        if not cluster.qualifies:
            continue
        counted = [node for node in cluster.nodes if node.is_pointwise and node.weight is not None]
        dense = [node for node in counted if node.kind == "FULLY_CONNECTED"]
        in_dense = sum(node.weight.size for node in dense if node.weight is not None)
        small = in_dense < _TELLING_SHARE * cluster.parameters
        names |= {node.label: None for node in counted if not (small and node in dense)}
    return list(names)
