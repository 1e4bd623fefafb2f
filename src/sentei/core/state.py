"""Running layers on other values than their variables hold, without losing what they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras


def run_on(
    owner: Any,
    variables: Sequence[Any],
    values: Sequence[tuple[Any, Any]],
    function: Callable[[], Any],
) -> Any:
    """Calls a function while some variables appear to hold other values.

    What the function assigns to the other variables (statistics of a batch normalization, seeds of
    dropout) is assigned to them afterwards, and the losses it adds are added to `owner`: in a
    layer's `call` nothing differs from running the function directly but for the values.

    Args:
        owner: The layer whose `call` this happens in.
        variables: Every variable the function may read: a scope within a scope hides the values
            that the outer one gives.
        values: `(variable, value)` for those that shall appear to be different.
        function: What to run.

    Returns:
        What the function returns.
    """
    replaced = {id(variable): value for variable, value in values}
    mapping = [(v, replaced.get(id(v), v.value)) for v in variables]
    with keras.StatelessScope(mapping, collect_losses=True) as scope:
        # The scope stores tensors of the variables' dtypes: what differs from these was assigned.
        given = {id(v): scope.get_current_value(v) for v in variables}
        result = function()
    for variable in variables:
        value = scope.get_current_value(variable)
        if id(variable) not in replaced and value is not given[id(variable)]:
            variable.assign(value)
    for loss in scope.losses:
        # A new tensor: Keras tells losses apart by identity and would count the same one twice.
        owner.add_loss(loss * 1.0)
    return result
