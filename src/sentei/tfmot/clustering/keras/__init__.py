"""`tfmot.clustering.keras`."""

from sentei.tfmot.clustering.callbacks import ClusteringSummaries
from sentei.tfmot.clustering.cluster import (
    CentroidInitialization,
    ClusterableLayer,
    cluster_scope,
    cluster_weights,
    strip_clustering,
)
from sentei.tfmot.clustering.keras import experimental

__all__ = [
    "CentroidInitialization",
    "ClusterableLayer",
    "ClusteringSummaries",
    "cluster_scope",
    "cluster_weights",
    "experimental",
    "strip_clustering",
]
