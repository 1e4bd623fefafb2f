"""Quantization of single layers by a user's own code instead of by a scheme."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class OwnCode(ABC):
    """What may stand in the place of a layer's scheme: code that runs the layer as it wants.

    A value of `layers` in `sentei.quantize`, for layers of Sequential and Functional models. The
    graph around the layer is planned as around a layer that stays float.

    Invariants:
        it is a registered Keras serializable.
        what `around` gives has variables of its own and those of the layer, and no others.
    """

    @abstractmethod
    def around(self, layer: Any) -> Any:
        """A Keras layer to be called in place of a layer, with the same arguments.

        Args:
            layer: A built layer of the float model, which stays as it is.
        """

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> OwnCode:
        """What `get_config` described.

        Args:
            config: What it gave.
        """
        return cls(**config)
