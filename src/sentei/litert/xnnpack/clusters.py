"""Which parts of a graph XNNPACK runs sparse: its own algorithm, with the reasons kept.

`xnn_subgraph_rewrite_for_nchw` in XNNPACK's `src/subgraph.c` (github.com/google/XNNPACK at
75db3c093b, August 2026), step by step.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sentei.litert.xnnpack.nodes import Graph, Node
from sentei.litert.xnnpack.rules import DELEGATED, Role, Verdict, verdict

# More than this share of the weights of 1x1 convolutions (and dense layers) must be zero.
ZEROS_NEEDED = 2 / 3


@dataclass(frozen=True)
class Obstacle:
    """Why a part of the graph cannot run sparse.

    Attributes:
        node: The operator that stands in the way.
        reason: Why.
        remedy: What to change, where that is known.
    """

    node: str
    reason: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.node}: {self.reason}" + (f"; {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Cluster:
    """Operators that run sparse together or not at all.

    Attributes:
        nodes: The operators, in running order.
        parameters: Weights of its 1x1 convolutions and dense layers.
        zeros: How many of them are zero.
        obstacles: What keeps it from running sparse, whatever its weights are.
        cut: Operators inside it whose output is read with the channels last: XNNPACK (seen in
            ai-edge-litert 2.3.0) does not turn it round, and computes wrong numbers.
    """

    nodes: tuple[Node, ...]
    parameters: int
    zeros: int
    obstacles: tuple[Obstacle, ...]
    cut: tuple[str, ...] = ()

    @property
    def qualifies(self) -> bool:
        """Whether it runs sparse, and right, once enough of its weights are zero."""
        return not self.obstacles and not self.cut and self.parameters > 0

    @property
    def goes_wrong(self) -> bool:
        """Whether XNNPACK computes wrong numbers if one weight of the file is stored sparse."""
        return bool(self.cut) and not self.obstacles and self.is_sparse_enough

    def cut_reason(self) -> str:
        """Why it must not be stored sparse."""
        return (
            f"a sparse part starts at {self.nodes[0].label}, but what {' and '.join(self.cut)} "
            "writes is read outside of it, and there XNNPACK computes wrong numbers on Arm and "
            "WebAssembly (seen in ai-edge-litert 2.3.0). Make the operator behind it fit "
            "(sentei.diagnose), or leave more of its 1x1 convolutions dense."
        )

    @property
    def is_sparse_enough(self) -> bool:
        """`zeros * 3 > parameters * 2`, as XNNPACK asks."""
        return self.zeros * 3 > self.parameters * 2

    @property
    def share(self) -> float:
        """Share of its weights that are zero."""
        return self.zeros / self.parameters if self.parameters else 0.0


@dataclass(frozen=True)
class Found:
    """What the algorithm found in a graph.

    Attributes:
        verdicts: One for each node.
        clusters: Those of two or more nodes with a 1x1 convolution or a dense layer.
        obstacles: Everything that kept a node out of a cluster or a cluster from running sparse.
    """

    verdicts: tuple[Verdict, ...]
    clusters: tuple[Cluster, ...]
    obstacles: tuple[Obstacle, ...]


def find_clusters(graph: Graph) -> Found:
    """Finds what can run sparse.

    Args:
        graph: The graph.

    Returns:
        What was found.
    """
    search = _Search(graph)
    search.link()
    search.check_consumers()
    obstacles = dict.fromkeys(o for found in search.obstacles for o in found)
    return Found(tuple(search.verdicts), tuple(search.clusters()), tuple(obstacles))


def has_space(node: Node) -> bool:
    """Whether the order of channels and pixels matters to a node: it reads more than one pixel."""
    return any(len(shape) > 3 and shape[1] * shape[2] > 1 for shape in node.shapes)


def partitions(graph: Graph) -> list[int]:
    """Which nodes XNNPACK gets to see together.

    Operators that the delegate does not take cut the graph: what lies behind one of them is a graph
    of its own. (LiteRT's `PartitionGraphIntoIndependentNodeSubsets`, which alternates between the
    two kinds in the order of their dependencies.)

    Args:
        graph: The graph.

    Returns:
        A number for each node: even where XNNPACK runs it, odd elsewhere.
    """
    producers = graph.producers()
    found: list[int] = []
    for node in graph.nodes:
        outside = node.kind not in DELEGATED
        epoch = max((found[producers[v]] for v in node.inputs if v in producers), default=0)
        found.append(epoch + ((epoch % 2 == 1) != outside))
    return found


class _Search:
    """The state of the algorithm: a leader and the obstacles of each node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.verdicts = [verdict(node) for node in graph.nodes]
        self.roles = [v.role for v in self.verdicts]
        self.leader = list(range(len(graph.nodes)))
        self.obstacles: list[list[Obstacle]] = [[] for _ in graph.nodes]
        self.producers = graph.producers()
        self.partitions = partitions(graph)

    def link(self) -> None:
        """Lets leaders spread from every end to what it reads, until nothing changes."""
        # A partition in which no end reads a supported operator is left alone altogether.
        ends = [n for n, role in enumerate(self.roles) if Role.EXIT in role]
        tried = {self.partitions[n] for n in ends if self._link(n)}
        self.open = [n for n, part in enumerate(self.partitions) if part in tried]
        changed = True
        while changed:
            changed = False
            for n in self.open:
                if self.roles[n] & (Role.INSIDE | Role.EXIT) and not self.obstacles[n]:
                    changed |= self._link(n)

    def _link(self, n: int) -> bool:
        """Joins a node with those whose outputs it reads; what cannot be joined is an obstacle."""
        changed = False
        for value in self.graph.nodes[n].inputs:
            before = self.producers.get(value)
            if before is None:
                self._block(n, "it reads an input of the model, which has the channels last")
            elif self.partitions[before] != self.partitions[n]:
                label = self.graph.nodes[before].label
                self._block(n, "it is not run by XNNPACK", label, self.verdicts[before].remedy)
            elif not self.roles[before] & (Role.ENTRY | Role.INSIDE):
                cause = self.verdicts[before]
                label = self.graph.nodes[before].label
                self._block(n, cause.reason or "it ends a sparse part", label, cause.remedy)
            elif self.obstacles[before]:
                self.obstacles[n] += [
                    o for o in self.obstacles[before] if o not in self.obstacles[n]
                ]
            else:
                self.roles[before] &= ~Role.EXIT
                if self.leader[before] != self.leader[n]:
                    self.leader[before] = self.leader[n] = max(self.leader[before], self.leader[n])
                    changed = True
        return changed

    def check_consumers(self) -> None:
        """What a cluster computes must be read with channels first by all who read it."""
        self._spread_obstacles()
        inside = Counter(
            value
            for n, node in enumerate(self.graph.nodes)
            if self._is_candidate(n)
            for value in node.inputs
        )
        wanted = self.graph.consumers()
        candidates = [n for n in range(len(self.graph.nodes)) if self._is_candidate(n)]
        for n in candidates:
            for value in self.graph.nodes[n].inputs:
                if inside[value] != wanted[value]:
                    self._block(
                        n,
                        f"its output is also read by {self._others(value)}",
                        self.graph.nodes[self.producers[value]].label,
                        "let only the operators of the sparse part read it",
                    )
        self._spread_obstacles()

    def clusters(self) -> list[Cluster]:
        """What was found."""
        members: dict[int, list[int]] = {}
        for n, leader in enumerate(self.leader):
            if self.roles[n]:
                members.setdefault(leader, []).append(n)
        found = []
        for leader, group in members.items():
            nodes = tuple(self.graph.nodes[n] for n in group)
            weights = [node.weight for node in nodes if node.is_pointwise]
            if len(nodes) > 1 and weights:
                size = sum(weight.size for weight in weights if weight is not None)
                zeros = size - sum(node.nonzeros for node in nodes if node.is_pointwise)
                obstacles = tuple(dict.fromkeys(self.obstacles[leader]))
                cut = tuple(self.graph.nodes[n].label for n in group if self._is_cut(n, group))
                found.append(Cluster(nodes, size, zeros, obstacles, cut))
        return found

    def _is_cut(self, n: int, group: list[int]) -> bool:
        """Whether what a node writes with channels first is read as if they were last."""
        node = self.graph.nodes[n]
        if Role.EXIT in self.verdicts[n].role or not has_space(node):
            return False
        inside = {value for m in group for value in self.graph.nodes[m].inputs}
        return not inside & set(node.outputs)

    def _is_candidate(self, n: int) -> bool:
        return (
            bool(self.roles[n] & (Role.INSIDE | Role.EXIT)) and not self.obstacles[self.leader[n]]
        )

    def _others(self, value: int) -> str:
        names = [
            node.label
            for n, node in enumerate(self.graph.nodes)
            if value in node.inputs and not self._is_candidate(n)
        ]
        if value in self.graph.outputs:
            names.append("the caller (it is an output of the model)")
        return " and ".join(names) or "another part"

    def _spread_obstacles(self) -> None:
        for n, found in enumerate(self.obstacles):
            if self.leader[n] != n:
                own = self.obstacles[self.leader[n]]
                own += [obstacle for obstacle in found if obstacle not in own]

    def _block(self, n: int, reason: str, label: str | None = None, remedy: str = "") -> None:
        obstacle = Obstacle(label or self.graph.nodes[n].label, reason, remedy)
        if obstacle not in self.obstacles[n]:
            self.obstacles[n].append(obstacle)
