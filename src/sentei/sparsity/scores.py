"""How much each weight matters: a criterion is one pure function from weights to scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError

Criterion = Callable[[Any], Any]


def magnitude(weight: Any) -> Any:
    """The absolute value: small weights go first (Han et al. 2015, arXiv:1506.02626).

    Args:
        weight: tensor of any shape.

    Returns:
        Scores of the same shape and dtype; higher is kept longer.
    """
    return ops.abs(weight)


CRITERIA: dict[str, Criterion] = {"magnitude": magnitude}
# With those that are rules of their own (see `dynamic` and `saliency`).
_NAMES = (*CRITERIA, "rigl", "set", "random", "snip", "movement")


def criterion_named(criterion: str | Criterion) -> Criterion:
    """The scoring function for what the user gave.

    Args:
        criterion: a name in `CRITERIA`, or a function `(weight) -> scores`.

    Raises:
        SenteiError: for an unknown name.
    """
    if callable(criterion):
        return criterion
    if criterion not in CRITERIA:
        raise SenteiError(
            f"`criterion` must be one of {', '.join(map(repr, _NAMES))}, or a function from a "
            f"weight to scores of its shape. Received: criterion={criterion!r}."
        )
    return CRITERIA[criterion]


def to_config(criterion: str | Criterion) -> Any:
    """The criterion as JSON; a function must be registered with Keras to be reloadable."""
    return (
        criterion if isinstance(criterion, str) else keras.saving.serialize_keras_object(criterion)
    )


def from_config(config: Any) -> str | Criterion:
    """The criterion that `to_config` described."""
    return config if isinstance(config, str) else keras.saving.deserialize_keras_object(config)
