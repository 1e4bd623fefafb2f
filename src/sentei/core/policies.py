"""Choices of layers by name: a policy looks at a model and names the layers a rule is about.

A policy may need what only an upper room knows (what a runtime does with a model). Rooms import
downward only, so the table holds where each policy lives, as an entry point does, and it is loaded
when a user asks for it by name.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

# name → (module, function from a model to the names of its layers)
POLICIES: dict[str, tuple[str, str]] = {"xnnpack": ("sentei.litert.doctor", "accelerated_layers")}


def resolve(layers: Any, model: Any) -> Any:
    """The layers that a policy chooses, or what was given if it names none.

    Args:
        layers: What a user gave as `layers`.
        model: The model.

    Returns:
        What `sentei.core.select.select` takes as `layers`.

    Raises:
        SenteiError: The policy finds nothing in this model; the message says why.
    """
    if not isinstance(layers, str) or layers not in POLICIES:
        return layers
    module, name = POLICIES[layers]
    choose: Callable[[Any], Any] = getattr(import_module(module), name)
    return choose(model)
