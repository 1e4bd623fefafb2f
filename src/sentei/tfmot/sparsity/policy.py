"""Which layers of a model `prune_low_magnitude` takes."""

from __future__ import annotations

import abc
from typing import Any

import keras

from sentei.core.policies import resolve


class PruningPolicy(abc.ABC):
    """Chooses the layers of a model that are pruned. Subclass it to write your own."""

    @abc.abstractmethod
    def allow_pruning(self, layer: Any) -> bool:
        """Whether to prune a layer.

        Args:
            layer: A layer of the model.
        """
        raise NotImplementedError

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: Any) -> None:
        """Raises ValueError when the policy is not for this model.

        Args:
            model: The model.
        """
        raise NotImplementedError


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes the layers that XNNPACK will run sparse, and no other.

    These are found by sentei's doctor (`sentei.diagnose`) in the file that the model becomes.
    """

    def __init__(self) -> None:
        self._names: frozenset[str] | None = None

    def allow_pruning(self, layer: Any) -> bool:
        """Whether XNNPACK will run a layer sparse; before a model was seen, if it is a 1x1 Conv2D.

        Args:
            layer: A layer of the model.
        """
        if self._names is not None:
            return layer.name in self._names
        return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1)

    def ensure_model_supports_pruning(self, model: Any) -> None:
        """Finds the layers of a model.

        Args:
            model: A built model.

        Raises:
            SenteiError: When no part of it would run sparse; the message says why (a ValueError).
        """
        self._names = frozenset(resolve("xnnpack", model))
