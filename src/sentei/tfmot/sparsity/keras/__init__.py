"""`tfmot.sparsity.keras`."""

from sentei.tfmot.sparsity.callbacks import PruningSummaries, UpdatePruningStep
from sentei.tfmot.sparsity.policy import PruneForLatencyOnXNNPack, PruningPolicy
from sentei.tfmot.sparsity.prune import (
    PrunableLayer,
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)
from sentei.tfmot.sparsity.schedules import ConstantSparsity, PolynomialDecay, PruningSchedule

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "strip_pruning",
]
