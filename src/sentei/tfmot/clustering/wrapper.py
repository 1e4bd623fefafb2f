"""`ClusterWeights`: a layer that asks for its weights to be clustered."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from sentei.clustering import Clustering
from sentei.clustering.cluster import check_count, check_finite
from sentei.clustering.rule import ClusteredWeight
from sentei.core.errors import SenteiError
from sentei.core.projection import Projection
from sentei.core.select import sublayers
from sentei.tfmot.annotation import Annotated, chosen


class CentroidInitialization(str, enum.Enum):  # noqa: UP042  (its str() is the old one)
    """Where clusters begin."""

    LINEAR = "CentroidInitialization.LINEAR"
    RANDOM = "CentroidInitialization.RANDOM"
    DENSITY_BASED = "CentroidInitialization.DENSITY_BASED"
    KMEANS_PLUS_PLUS = "CentroidInitialization.KMEANS_PLUS_PLUS"


_METHODS = {
    CentroidInitialization.LINEAR: "linear",
    CentroidInitialization.RANDOM: "random",
    CentroidInitialization.DENSITY_BASED: "density",
    CentroidInitialization.KMEANS_PLUS_PLUS: "kmeans++",
}


@dataclass(frozen=True)
class ClusteringWish:
    """How layers shall be clustered, in the old toolkit's terms.

    Attributes:
        number_of_clusters: Most distinct values.
        cluster_centroids_init: Where they begin.
        preserve_sparsity: Whether zeros stay zero.
        cluster_per_channel: Whether each output channel of a Conv2D has its own.

    Raises:
        SenteiError: When one of them is no such thing.
    """

    number_of_clusters: int
    cluster_centroids_init: CentroidInitialization = CentroidInitialization.KMEANS_PLUS_PLUS
    preserve_sparsity: bool = False
    cluster_per_channel: bool = False
    order = 1

    def __post_init__(self) -> None:
        n = self.number_of_clusters
        if isinstance(n, bool) or not isinstance(n, (int, np.integer)):
            raise SenteiError(f"number_of_clusters must be an integer. Given: {n!r}.")
        least = 2 if self.preserve_sparsity else 1
        if n <= least:
            raise SenteiError(f"number_of_clusters must be greater than {least}. Given: {n}.")
        object.__setattr__(self, "number_of_clusters", check_count("number_of_clusters", n))
        try:
            init = CentroidInitialization(self.cluster_centroids_init)
        except ValueError:
            raise SenteiError(
                f"Cluster centroid initialization {self.cluster_centroids_init!r} not supported. "
                f"Use one of {', '.join(map(str, CentroidInitialization))}."
            ) from None
        object.__setattr__(self, "cluster_centroids_init", init)

    def key(self) -> str:
        """Equal for wishes that mean the same."""
        return json.dumps(list(vars(self).values()))

    def rules(self, model: Any, layers: Sequence[Any]) -> list[Projection]:
        """The rule for some layers of a built model.

        Args:
            model: The model.
            layers: Layers of it; what is inside them counts.

        Raises:
            SenteiError: When weights are not finite.
        """
        variables = model.trainable_variables
        channelled = {
            id(variable)
            for layer, _ in sublayers(model)
            if self.cluster_per_channel and isinstance(layer, keras.layers.Conv2D)
            for variable in layer.trainable_variables
        }
        weights = []
        for found in chosen(model, layers, listed):
            weight = found.weight
            check_finite(model, weight)
            own = id(variables[weight.index]) in channelled
            weights.append(ClusteredWeight(weight, self.number_of_clusters, own))
        method = _METHODS[self.cluster_centroids_init]
        keep = self.preserve_sparsity
        return [Clustering(weights, method, preserve_sparsity=keep)] if weights else []


@keras.saving.register_keras_serializable("sentei_tfmot")
class ClusterWeights(Annotated):
    """A layer whose weights hold a few distinct values while it trains.

    Args:
        layer: The layer.
        number_of_clusters: Most distinct values of a weight, zero among them.
        cluster_centroids_init: A `CentroidInitialization`.
        preserve_sparsity: Whether zeros stay zero.
        cluster_per_channel: Whether each output channel of a Conv2D has values of its own.
        cluster_gradient_aggregation: Taken for the sake of old programs, and not used.
        **kwargs: As Keras layers take them.

    Raises:
        SenteiError: When `layer` is no layer, or an argument is no such thing (a ValueError).
    """

    prefix = "cluster_"

    def __init__(
        self,
        layer: Any,
        number_of_clusters: int,
        cluster_centroids_init: Any = CentroidInitialization.KMEANS_PLUS_PLUS,
        preserve_sparsity: bool = False,
        cluster_per_channel: bool = False,
        cluster_gradient_aggregation: Any = None,
        **kwargs: Any,
    ) -> None:
        wish = ClusteringWish(
            number_of_clusters, cluster_centroids_init, preserve_sparsity, cluster_per_channel
        )
        super().__init__(layer, **kwargs)
        self.wish = wish
        self.number_of_clusters = wish.number_of_clusters
        self.cluster_centroids_init = wish.cluster_centroids_init
        self.preserve_sparsity = preserve_sparsity
        self.cluster_per_channel = cluster_per_channel

    def settings(self) -> dict[str, Any]:
        """How the layer shall be clustered, as the constructor takes it."""
        return {
            "number_of_clusters": self.number_of_clusters,
            "cluster_centroids_init": self.cluster_centroids_init.value,
            "preserve_sparsity": self.preserve_sparsity,
            "cluster_per_channel": self.cluster_per_channel,
        }


def listed(layer: Any) -> Iterable[Any] | None:
    """The variables that a custom layer lists for clustering; None when it lists none.

    Args:
        layer: Any layer.
    """
    if callable(getattr(layer, "get_clusterable_weights", None)):
        pairs = layer.get_clusterable_weights()
        return [pair[1] if isinstance(pair, (tuple, list)) else pair for pair in pairs]
    if callable(getattr(layer, "get_clusterable_variables", None)):
        return layer.get_clusterable_variables()
    return None
