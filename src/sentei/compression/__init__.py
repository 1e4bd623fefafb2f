"""The smallest file within a budget, from a trained model and some data."""

from sentei.compression.search import Compressed, compress

__all__ = ["Compressed", "compress"]
