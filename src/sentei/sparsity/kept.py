"""The rule that keeps the zeros a model has, without pruning more of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.bind import bind, weight_from
from sentei.core.projection import Projection, Tensors
from sentei.core.select import Weight
from sentei.sparsity.rule import masked


@keras.saving.register_keras_serializable("sentei")
class KeptZeros(Projection):
    """Keeps weights at zero that were zero when the rule came; all others train freely.

    State, in optimizer variables: one boolean mask a weight (1 byte a value), false where it is
    zero.

    Args:
        weights: the weights it is about.
        fresh: whether `build` reads the masks off the variables (when False it makes state to be
            loaded into).
    """

    makes_zeros = True

    def __init__(self, weights: Sequence[Weight], fresh: bool = True) -> None:
        self.weights = tuple(sorted(weights, key=lambda weight: weight.index))
        self.positions = frozenset(weight.index for weight in self.weights)
        self.masks: dict[int, Any] = {}
        self._fresh = fresh

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the masks.

        Args:
            optimizer: the optimizer that will hold them.
            variables: all trainable variables, in its order.

        Raises:
            SenteiError: when the variables are not those the rule was made for.
        """
        for position, variable in bind("preserving", self.weights, variables).items():
            mask = optimizer.add_variable(
                variable.shape, "ones", "bool", "only_first_replica", name=f"kept_{position}"
            )
            if self._fresh:
                mask.assign(np.asarray(ops.convert_to_numpy(variable) != 0))
            self.masks[position] = mask

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """The weights, zero where they were."""
        return {p: self.restrict(p, values[p]) for p in self.masks}

    def restrict(self, position: int, value: Any) -> Any:
        """The value where the mask stands, zero elsewhere."""
        return masked(value, ops.convert_to_tensor(self.masks[position]))

    def get_config(self) -> dict[str, Any]:
        """The weights it is about, for saving."""
        return {"weights": [asdict(weight) for weight in self.weights]}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> KeptZeros:
        """The rule that `get_config` described, without its state."""
        return cls([weight_from(saved) for saved in config["weights"]], fresh=False)
