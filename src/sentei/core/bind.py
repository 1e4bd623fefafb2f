"""From the weights that a rule names to the variables of the optimizer that holds it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from sentei.core.errors import SenteiError
from sentei.core.select import Axes, Weight


def bind(rule: str, weights: Iterable[Weight], variables: Sequence[Any]) -> dict[int, Any]:
    """The variables a rule is about, by position.

    Args:
        rule: what to call the rule: "pruning".
        weights: the weights it names.
        variables: all trainable variables, in the optimizer's order.

    Raises:
        SenteiError: when the variables are not those the rule was made for.
    """
    found = {}
    for weight in weights:
        variable = variables[weight.index] if weight.index < len(variables) else None
        if variable is None or tuple(variable.shape) != tuple(weight.shape):
            has = "no such variable" if variable is None else f"shape {tuple(variable.shape)}"
            raise SenteiError(
                f"The {rule} rule expects {weight.path}, of shape {weight.shape}, as trainable "
                f"variable {weight.index} of {len(variables)}, but the optimizer was given {has}. "
                "Layers were frozen or changed since the rule was made: make it again, on the "
                "model as it is now."
            )
        found[weight.index] = variable
    return found


def weight_from(saved: dict[str, Any]) -> Weight:
    """The weight that `dataclasses.asdict` made a dict of, after a trip through JSON."""
    fields = dict(saved)
    axes = Axes(**{name: tuple(value) for name, value in fields.pop("axes").items()})
    shape = tuple(fields.pop("shape"))
    return Weight(**fields, shape=shape, axes=axes)
