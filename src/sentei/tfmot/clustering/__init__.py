"""Clustering, by the old toolkit's names."""

from sentei.tfmot.clustering import keras

__all__ = ["keras"]
