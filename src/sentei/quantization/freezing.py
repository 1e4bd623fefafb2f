"""Batch normalization that stops following the batches after some steps of training.

Rounding to integers is what inference does, with moving statistics; near the end of
quantization-aware training, weights had better adapt to these (Krishnamoorthi 2018,
arXiv:1806.08342, section 3.2.2).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from keras import layers as kl
from keras import ops


class Freezing:
    """Counts steps and decides what batch normalizations do.

    Attributes:
        after: The number of steps; None: they are never frozen.
    """

    def __init__(self, owner: Any, after: int | None) -> None:
        """Adds a counter to a layer, if there is something to count.

        Args:
            owner: The layer.
            after: The number of steps, or None.
        """
        self.after = after
        self._steps = None
        if after is not None:
            self._steps = owner.add_weight(
                shape=(), initializer="zeros", dtype="float32", trainable=False, name="steps"
            )

    def count(self, training: bool | None) -> None:
        """Counts a call.

        Args:
            training: Whether it was a step of training.
        """
        if training and self._steps is not None:
            self._steps.assign(self._steps.value + 1.0)

    def call(
        self,
        function: Callable[..., Any],
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        training: bool | None,
    ) -> Any:
        """Calls a layer or operation.

        Args:
            function: It.
            args: What it is called with.
            kwargs: The same by name.
            training: Whether this is a step of training.
        """
        if self._steps is None or not training or not isinstance(function, kl.BatchNormalization):
            return function(*args, **kwargs)
        frozen = self._steps.value >= float(self.after or 0)
        statistics = list(function.non_trainable_variables)
        before = [variable.value for variable in statistics]
        exact = function(*args, **{**kwargs, "training": False})
        moved = function(*args, **{**kwargs, "training": True})
        for variable, value in zip(statistics, before, strict=True):
            variable.assign(ops.where(frozen, value, variable.value))
        return ops.where(frozen, exact, moved)
