"""What the doctor says, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from sentei.litert import tables
from sentei.litert.xnnpack.clusters import ZEROS_NEEDED, Cluster, Obstacle

_WHERE = "Arm, WebAssembly and RISC-V; never x86 with AVX, where dense is faster"


@dataclass(frozen=True)
class OperatorReport:
    """The verdict on one operator.

    Attributes:
        operator: The operator's name.
        name: The layer, or the name of its output.
        role: `"entry"`, `"inside"` or `"exit"` of a sparse part, or None when it can be in none.
        cluster: The number of the sparse part it belongs to, or None.
        zeros: Share of its weights that are zero, for 1x1 convolutions and dense layers.
        reason: Why it has no role.
        remedy: What would give it one.
    """

    operator: str
    name: str
    role: str | None
    cluster: int | None
    zeros: float | None
    reason: str
    remedy: str


@dataclass(frozen=True)
class Diagnosis:
    """Whether a model runs sparse, and why; prints as a report.

    Attributes:
        name: The file, or the model's name.
        target: What would run it.
        stored_sparse: Whether the file stores a weight sparse; None for a model not yet exported.
        clusters: The parts that run sparse together or not at all.
        operators: The verdict on each operator.
        obstacles: What keeps every part from running sparse; empty when one qualifies.
        layers_to_prune: The layers whose zeros count, in the parts that qualify.
    """

    name: str
    target: str
    stored_sparse: bool | None
    clusters: tuple[Cluster, ...]
    operators: tuple[OperatorReport, ...]
    obstacles: tuple[Obstacle, ...]
    layers_to_prune: tuple[str, ...]

    @property
    def qualifies(self) -> bool:
        """Whether a part would run sparse once it is pruned and stored sparse."""
        return any(cluster.qualifies for cluster in self.clusters)

    @property
    def goes_wrong(self) -> bool:
        """Whether XNNPACK, where it runs sparse, computes wrong numbers (see `Cluster.cut`)."""
        return self.stored_sparse is not False and any(c.goes_wrong for c in self.clusters)

    @property
    def runs_sparse(self) -> bool:
        """Whether a part runs sparse as it is, on a processor where XNNPACK does so."""
        return self.stored_sparse is not False and any(
            cluster.qualifies and cluster.is_sparse_enough for cluster in self.clusters
        )

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        return {
            "name": self.name,
            "target": self.target,
            "runs_sparse": self.runs_sparse,
            "qualifies": self.qualifies,
            "goes_wrong": self.goes_wrong,
            "stored_sparse": self.stored_sparse,
            "where": _WHERE,
            "clusters": [_cluster(cluster) for cluster in self.clusters],
            "obstacles": [vars(obstacle) for obstacle in self.obstacles],
            "layers_to_prune": list(self.layers_to_prune),
            "operators": [vars(operator) for operator in self.operators],
        }

    def tables(self) -> list[Table | str]:
        """What `str` shows, for `rich` to print."""
        columns = ("operator", "kind", "sparse part", "zeros", "why not")
        rows = [
            (
                tables.shorten(item.name, 48),
                item.operator,
                _part(item),
                "" if item.zeros is None else tables.share(item.zeros),
                item.reason,
            )
            for item in self.operators
        ]
        return [tables.table(columns, rows), *self._verdict()]

    def _verdict(self) -> Iterator[str]:
        if self.runs_sparse:
            yield f"{self.name}: runs sparse with XNNPACK on {_WHERE}."
        elif self.qualifies:
            yield f"{self.name}: would run sparse with XNNPACK ({_WHERE}), but does not yet."
        else:
            yield f"{self.name}: cannot run sparse with XNNPACK. In the way:"
        for number, cluster in enumerate(self.clusters):
            if cluster.cut and not cluster.obstacles:
                yield f"  part {number} must not be stored sparse: {cluster.cut_reason()}"
            if cluster.qualifies:
                yield f"  part {number}: {_describe(cluster)}"
        if self.qualifies and self.stored_sparse is False:
            yield "  No weight is stored sparse: export with sparse='auto' (or True)."
        for reason, remedy in dict.fromkeys((o.reason, o.remedy) for o in self.obstacles):
            named = [o.node for o in self.obstacles if (o.reason, o.remedy) == (reason, remedy)]
            yield f"  - {Obstacle(', '.join(named), reason, remedy)}."

    def __str__(self) -> str:
        return tables.plain(*self.tables())


def _describe(cluster: Cluster) -> str:
    counted = [node.label for node in cluster.nodes if node.is_pointwise]
    said = (
        f"{cluster.nodes[0].label} to {cluster.nodes[-1].label}, {len(counted)} layers with "
        f"{cluster.parameters:,} weights that count, {cluster.share:.1%} zero"
    )
    if cluster.is_sparse_enough:
        return f"{said}: enough (more than {ZEROS_NEEDED:.1%})."
    pointwise = (node for node in cluster.nodes if node.is_pointwise)
    fullest = sorted(pointwise, key=lambda node: -node.nonzeros)[:3]
    names = ", ".join(node.label for node in fullest)
    return (
        f"{said}; more than {ZEROS_NEEDED:.1%} are needed. Prune them (layers='xnnpack'); most "
        f"non-zeros are in {names}."
    )


def _part(item: OperatorReport) -> str:
    if item.role is None:
        return "–"
    return item.role if item.cluster is None else f"{item.cluster} {item.role}"


def _cluster(cluster: Cluster) -> dict[str, Any]:
    return {
        "nodes": [node.label for node in cluster.nodes],
        "counted": [node.label for node in cluster.nodes if node.is_pointwise],
        "parameters": cluster.parameters,
        "zeros": cluster.zeros,
        "share": cluster.share,
        "share_needed": ZEROS_NEEDED,
        "qualifies": cluster.qualifies,
        "is_sparse_enough": cluster.is_sparse_enough,
        "cut": list(cluster.cut),
        "obstacles": [vars(obstacle) for obstacle in cluster.obstacles],
    }
