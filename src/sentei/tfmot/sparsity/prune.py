"""`prune_low_magnitude`, `strip_pruning`, `prune_scope`."""

from __future__ import annotations

import abc
from typing import Any

import keras

from sentei.core.errors import SenteiError
from sentei.core.graph import is_graph
from sentei.tfmot.annotation import ask, require_model, rewrapped, unwrapped
from sentei.tfmot.attach import beside
from sentei.tfmot.sparsity.schedules import ConstantSparsity, PolynomialDecay
from sentei.tfmot.sparsity.wrapper import PruneLowMagnitude, PruningWish


class PrunableLayer(abc.ABC):
    """A custom layer that says which of its weights may be pruned."""

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[Any]:
        """The variables that may be pruned."""
        raise NotImplementedError


def prune_low_magnitude(
    to_prune: Any,
    pruning_schedule: Any = ConstantSparsity(0.5, 0),  # noqa: B008  (never changed)
    block_size: Any = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: Any = None,
    sparsity_m_by_n: Any = None,
    **kwargs: Any,
) -> Any:
    """Makes a layer or model one that is pruned while it trains, from its next `compile` on.

    Args:
        to_prune: A layer, a list of layers, or a model. A Sequential or Functional model is left
            as it is: what is returned shares its variables. A subclassed model is changed itself.
        pruning_schedule: A `PruningSchedule`: when, and how sparse.
        block_size: `(rows, columns)` of what is pruned together in a matrix.
        block_pooling_type: `"AVG"` or `"MAX"`: how a block's score follows from its weights.
        pruning_policy: A `PruningPolicy` that chooses the layers of a model; None for all.
        sparsity_m_by_n: `(m, n)`: m zeros of every n neighbouring input channels; or None. The
            schedule then says when, and the sparsity ends at m / n.
        **kwargs: For the wrapper, when `to_prune` is a layer.

    Returns:
        The layer, layers or model, to be compiled.

    Raises:
        SenteiError: When an argument is not of such a kind, or the policy does not fit the model
            (a ValueError).
    """
    params = {
        "pruning_schedule": pruning_schedule,
        "block_size": block_size,
        "block_pooling_type": block_pooling_type,
        "sparsity_m_by_n": sparsity_m_by_n,
    }

    def wrapped(layer: Any, **kwargs: Any) -> Any:
        if isinstance(layer, (PruneLowMagnitude, keras.layers.InputLayer)):
            return layer
        return PruneLowMagnitude(layer, **params, **kwargs)

    def allowed(layer: Any) -> Any:
        return wrapped(layer) if pruning_policy.allow_pruning(layer) else layer

    if isinstance(to_prune, (list, tuple)):
        return [wrapped(layer) for layer in to_prune]
    if is_graph(to_prune):
        if pruning_policy is not None:
            pruning_policy.ensure_model_supports_pruning(to_prune)
            return rewrapped(to_prune, allowed)
        return rewrapped(to_prune, wrapped)
    if isinstance(to_prune, keras.Model):
        if pruning_policy is not None:
            raise SenteiError(
                "A `pruning_policy` needs a Sequential or Functional model. Received: a subclassed "
                f"model, {type(to_prune).__name__}."
            )
        schedule = params.pop("pruning_schedule")
        ask(to_prune, PruningWish(schedule, **params))
        return to_prune
    if isinstance(to_prune, keras.layers.Layer):
        if isinstance(to_prune, PruneLowMagnitude):
            return to_prune
        layer = PruneLowMagnitude(to_prune, **params, **kwargs)
        layer.alone = True
        return layer
    raise SenteiError(
        "`prune_low_magnitude` can only prune an object of the following types: "
        "keras.models.Sequential, keras functional model, keras.layers.Layer, list of "
        f"keras.layers.Layer. You passed an object of type: {type(to_prune).__name__}."
    )


def strip_pruning(model: Any) -> Any:
    """The model without wrappers, plain Keras, uncompiled, with its zeros.

    Args:
        model: A model with pruned layers. What is returned shares its variables; a subclassed
            model is changed itself.

    Returns:
        The model.

    Raises:
        SenteiError: When `model` is no Keras model (a ValueError).
    """
    require_model(model)
    rules = beside(model)
    if rules is not None:
        rules.project()  # the last step of a training loop may not have been followed by it
    return unwrapped(model, PruneLowMagnitude, PruningWish)


def prune_scope() -> Any:
    """A scope of custom objects in which models with pruned layers can be loaded.

    Keras finds them without it as soon as `sentei.tfmot` is imported.
    """
    return keras.saving.custom_object_scope(
        {
            "PruneLowMagnitude": PruneLowMagnitude,
            "ConstantSparsity": ConstantSparsity,
            "PolynomialDecay": PolynomialDecay,
        }
    )
