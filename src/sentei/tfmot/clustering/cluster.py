"""`cluster_weights`, `strip_clustering`, `cluster_scope`."""

from __future__ import annotations

import abc
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.graph import is_graph
from sentei.core.install import find
from sentei.core.project import Projected
from sentei.tfmot.annotation import ask, require_model, rewrapped, unwrapped
from sentei.tfmot.attach import rules_of
from sentei.tfmot.clustering.wrapper import (
    CentroidInitialization,
    ClusteringWish,
    ClusterWeights,
)


class ClusterableLayer(abc.ABC):
    """A custom layer that says which of its weights may be clustered."""

    @abc.abstractmethod
    def get_clusterable_weights(self) -> list[tuple[str, Any]]:
        """The variables that may be clustered, each with its name: `[("kernel", self.kernel)]`."""
        raise NotImplementedError

    def get_clusterable_algorithm(self, weight_name: str) -> Any:
        """Taken for the sake of old programs, and not used: clusters are found for any shape.

        Args:
            weight_name: The name of a weight.
        """
        return None


def cluster_weights(
    to_cluster: Any,
    number_of_clusters: int,
    cluster_centroids_init: Any = CentroidInitialization.KMEANS_PLUS_PLUS,
    preserve_sparsity: bool = False,
    cluster_per_channel: bool = False,
    **kwargs: Any,
) -> Any:
    """Makes a layer or model one whose weights hold a few distinct values, from `compile` on.

    Args:
        to_cluster: A layer, a list of layers, or a model. A Sequential or Functional model is left
            as it is: what is returned shares its variables. A subclassed model is changed itself.
        number_of_clusters: Most distinct values of a weight, 2 to 256, zero among them.
        cluster_centroids_init: A `CentroidInitialization`: where they begin.
        preserve_sparsity: Whether zeros stay zero.
        cluster_per_channel: Whether each output channel of a Conv2D has values of its own.
        **kwargs: For the wrapper, when `to_cluster` is a layer.

    Returns:
        The layer, layers or model, to be compiled.

    Raises:
        SenteiError: When an argument is not of such a kind (a ValueError).
    """
    wish = ClusteringWish(
        number_of_clusters, cluster_centroids_init, preserve_sparsity, cluster_per_channel
    )

    def wrapped(layer: Any, **kwargs: Any) -> Any:
        if isinstance(layer, (ClusterWeights, keras.layers.InputLayer)):
            return layer
        return ClusterWeights(
            layer,
            wish.number_of_clusters,
            wish.cluster_centroids_init,
            preserve_sparsity,
            cluster_per_channel,
            **kwargs,
        )

    if isinstance(to_cluster, (list, tuple)):
        return [wrapped(layer) for layer in to_cluster]
    if is_graph(to_cluster):
        return rewrapped(to_cluster, wrapped)
    if isinstance(to_cluster, keras.Model):
        ask(to_cluster, wish)
        return to_cluster
    if isinstance(to_cluster, keras.layers.Layer):
        return wrapped(to_cluster, **kwargs)
    raise SenteiError(
        "`cluster_weights` can only cluster a keras.Model, a keras.layers.Layer, or a list of "
        f"layers. You passed an object of type: {type(to_cluster).__name__}."
    )


def strip_clustering(model: Any) -> Any:
    """The model without wrappers, plain Keras, uncompiled, with its clusters.

    Weights that no optimizer has kept on clusters (the model was not compiled, or trained in a
    loop with an optimizer of its own) are clustered now.

    Args:
        model: A built model with clustered layers. What is returned shares its variables; a
            subclassed model is changed itself.

    Returns:
        The model.

    Raises:
        SenteiError: When `model` is no Keras model (a ValueError).
    """
    require_model(model)
    projected = find(model)
    if model.built and (projected is None or not projected.built):
        # Finding clusters is what building the rules does; the optimizer takes no step.
        Projected(keras.optimizers.SGD(), rules_of(model)).build(model.trainable_variables)
    return unwrapped(model, ClusterWeights, ClusteringWish)


def cluster_scope() -> Any:
    """A scope of custom objects in which models with clustered layers can be loaded.

    Keras finds them without it as soon as `sentei.tfmot` is imported.
    """
    return keras.saving.custom_object_scope({"ClusterWeights": ClusterWeights})
