"""Clustering: weights that share a few values, and training of those values."""

from sentei.clustering.centroids import Rate
from sentei.clustering.cluster import cluster, clustering
from sentei.clustering.report import report
from sentei.clustering.rule import Clustering

__all__ = ["Clustering", "Rate", "cluster", "clustering", "report"]
