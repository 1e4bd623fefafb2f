"""Computing a model in float32, whatever its dtype policies say, and leaving it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras

from sentei.core.select import sublayers

_FULL = "float32"


class _Widened(keras.dtype_policies.DTypePolicy):
    """Computes in float32 on variables of another dtype, which a plain policy cannot say."""

    def __init__(self, variable_dtype: str) -> None:
        super().__init__(_FULL)
        self._stored_dtype = variable_dtype

    @property
    def variable_dtype(self) -> str:
        """The dtype of the variables; where it differs, Keras casts them when they are read."""
        return self._stored_dtype


@contextmanager
def full_precision(model: Any) -> Iterator[None]:
    """Lets every layer of a model compute in float32 for as long as the context lasts.

    Only the dtype policies change: weights stay as they are stored, which is float32 under the
    mixed policies. (A file computed in half precision could not be held against anything: the
    runtime's kernels round elsewhere than Keras does.)

    Args:
        model: Any Keras model.

    Yields:
        Nothing.
    """
    changed: list[tuple[Any, Any]] = []
    try:
        for layer, _ in sublayers(model):
            policy = layer.dtype_policy
            if layer.compute_dtype != _FULL:
                changed.append((layer, policy))
                layer.dtype_policy = _Widened(layer.variable_dtype)
        yield
    finally:
        for layer, policy in changed:
            layer.dtype_policy = policy
