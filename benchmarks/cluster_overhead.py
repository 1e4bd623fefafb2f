"""What clustering costs: the training step with a clustering rule over the plain one, per backend.

Measured like the cost of pruning (see prune_overhead.py): both models in one process, in turns.
The bound is stated for ResNet-20; the dense network, whose steps take milliseconds and whose
weights outnumber its batch, shows what two passes over the weights are against almost nothing.

    python benchmarks/cluster_overhead.py                     # every backend it finds
    python benchmarks/cluster_overhead.py --backend jax       # this interpreter, one backend

Writes benchmarks/results/cluster_overhead.json and .md.
"""

from __future__ import annotations

import sys
from typing import Any

from prune_overhead import Rule, main


def cluster(model: Any, steps: int) -> None:
    """Clusters a model to 16 values a kernel."""
    import sentei

    sentei.cluster(model, 16)


def clustered_weights(model: Any) -> int:
    """How many weights of a model are under a clustering rule."""
    from sentei.clustering import report

    return sum(row.size for row in report(model) if row.n is not None)


CLUSTERING = Rule(
    __file__,
    "clustered",
    "a clustering rule (16 values a kernel)",
    {"resnet20": (5, 11, 1.05), "dense_300_100": (100, 21, None)},
    cluster,
    clustered_weights,
)

if __name__ == "__main__":
    sys.exit(main(CLUSTERING))
