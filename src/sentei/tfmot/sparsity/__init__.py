"""Pruning, by the old toolkit's names."""

from sentei.tfmot.sparsity import keras

__all__ = ["keras"]
