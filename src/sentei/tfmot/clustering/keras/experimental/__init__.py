"""`tfmot.clustering.keras.experimental`: the same `cluster_weights`."""

from sentei.tfmot.clustering.cluster import cluster_weights

__all__ = ["cluster_weights"]
