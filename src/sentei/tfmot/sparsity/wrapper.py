"""`PruneLowMagnitude`: a layer that asks to be pruned."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from sentei.core.errors import SenteiError
from sentei.core.projection import Projection
from sentei.core.select import Weight
from sentei.sparsity import Block, Element, NofM, Pattern, Pruning
from sentei.sparsity.rule import PrunedWeight
from sentei.tfmot.annotation import Annotated, chosen
from sentei.tfmot.sparsity.schedules import ConstantSparsity, PruningSchedule, translated

_POOLING = {"AVG": "mean", "MAX": "max"}


@dataclass(frozen=True, eq=False)
class PruningWish:
    """How layers shall be pruned, in the old toolkit's terms.

    Attributes:
        schedule: When, and how sparse.
        block_size: `(rows, columns)` of what is pruned together in a matrix.
        block_pooling_type: `"AVG"` or `"MAX"`.
        sparsity_m_by_n: `(m, n)`: m zeros of every n; or None.

    Raises:
        SenteiError: When one of them is no such thing.
    """

    schedule: PruningSchedule
    block_size: tuple[int, int] = (1, 1)
    block_pooling_type: str = "AVG"
    sparsity_m_by_n: tuple[int, int] | None = None
    order = 0

    def __post_init__(self) -> None:
        if not callable(self.schedule):
            raise SenteiError(
                "`pruning_schedule` must be a PruningSchedule, such as ConstantSparsity(0.5, 0). "
                f"Received: pruning_schedule={self.schedule!r}."
            )
        if self.block_pooling_type not in _POOLING:
            raise SenteiError(
                f"Unsupported pooling type {self.block_pooling_type!r}. Should be 'AVG' or 'MAX'."
            )
        object.__setattr__(self, "block_size", _pair("block_size", self.block_size))
        if self.sparsity_m_by_n is not None:
            zeros, group = _pair("sparsity_m_by_n", self.sparsity_m_by_n)
            if not zeros < group:
                raise SenteiError(
                    "`sparsity_m_by_n` is (m, n): m zeros of every n, with m < n. Received: "
                    f"sparsity_m_by_n={self.sparsity_m_by_n!r}."
                )
            object.__setattr__(self, "sparsity_m_by_n", (zeros, group))
            if self.block_size != (1, 1):
                raise SenteiError(
                    "`block_size` and `sparsity_m_by_n` exclude each other. Received: "
                    f"block_size={self.block_size!r}, sparsity_m_by_n={self.sparsity_m_by_n!r}."
                )

    def key(self) -> str:
        """Equal for wishes that mean the same."""
        schedule = [type(self.schedule).__qualname__, self.schedule.get_config()]
        patterns = [self.block_size, self.block_pooling_type, self.sparsity_m_by_n]
        return json.dumps([schedule, patterns], default=repr)

    def rules(self, model: Any, layers: Sequence[Any]) -> list[Projection]:
        """The rules for some layers of a built model.

        Args:
            model: The model.
            layers: Layers of it; what is inside them counts.
        """
        weights = [found.weight for found in chosen(model, layers, listed)]
        _warn_of_idle(model, layers, weights)
        schedule = translated(self.schedule)
        target = schedule.final
        if self.sparsity_m_by_n is not None:
            target = self.sparsity_m_by_n[0] / self.sparsity_m_by_n[1]
        by_pattern: dict[Pattern, list[PrunedWeight]] = {}
        for weight in weights:
            pattern = self._pattern(weight)
            by_pattern.setdefault(pattern, []).append(PrunedWeight(weight, target))
        return [Pruning(schedule, some, pattern) for pattern, some in by_pattern.items()]

    def _pattern(self, weight: Weight) -> Pattern:
        if self.sparsity_m_by_n is not None:
            zeros, group = self.sparsity_m_by_n
            return NofM(group - zeros, group)
        # Blocks are of matrices, 1x1 convolutions included; all else goes weight by weight.
        matrix = sum(size > 1 for size in weight.shape) == 2
        if self.block_size == (1, 1) or not matrix:
            return Element()
        return Block(self.block_size, _POOLING[self.block_pooling_type])


@keras.saving.register_keras_serializable("sentei_tfmot")
class PruneLowMagnitude(Annotated):
    """A layer whose weights of least magnitude are pruned while it trains.

    Args:
        layer: The layer.
        pruning_schedule: A `PruningSchedule`: when, and how sparse.
        block_size: `(rows, columns)` of what is pruned together in a matrix.
        block_pooling_type: `"AVG"` or `"MAX"`: how a block's score follows from its weights.
        sparsity_m_by_n: `(m, n)`: m zeros of every n neighbouring input channels; or None.
        **kwargs: As Keras layers take them.

    Raises:
        SenteiError: When `layer` is no layer, or an argument is no such thing (a ValueError).
    """

    prefix = "prune_low_magnitude_"

    def __init__(
        self,
        layer: Any,
        pruning_schedule: Any = ConstantSparsity(0.5, 0),  # noqa: B008  (never changed)
        block_size: Any = (1, 1),
        block_pooling_type: str = "AVG",
        sparsity_m_by_n: Any = None,
        **kwargs: Any,
    ) -> None:
        wish = PruningWish(
            pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n or None
        )
        super().__init__(layer, **kwargs)
        self.wish = wish
        self.pruning_schedule = pruning_schedule
        self.block_size = block_size
        self.block_pooling_type = block_pooling_type
        self.sparsity_m_by_n = wish.sparsity_m_by_n
        self.alone = False  # whether the user wrapped this very layer: then it has to be of use

    def settings(self) -> dict[str, Any]:
        """How the layer shall be pruned, as the constructor takes it."""
        return {
            "pruning_schedule": self.pruning_schedule,
            "block_size": list(self.block_size),
            "block_pooling_type": self.block_pooling_type,
            "sparsity_m_by_n": self.sparsity_m_by_n and list(self.sparsity_m_by_n),
        }


def listed(layer: Any) -> Iterable[Any] | None:
    """The variables that a custom layer lists for pruning; None when it lists none.

    Args:
        layer: Any layer.
    """
    for name in ("get_prunable_weights", "get_prunable_variables"):
        if callable(getattr(layer, name, None)):
            return getattr(layer, name)()
    return None


def _warn_of_idle(model: Any, layers: Sequence[Any], weights: Sequence[Weight]) -> None:
    held = {id(model.trainable_variables[weight.index]) for weight in weights}
    for layer in layers:
        own = layer.trainable_variables
        if not getattr(layer, "alone", False) or not own or any(id(v) in held for v in own):
            continue
        warnings.warn(
            f"{layer.name} has nothing to prune: {type(layer.layer).__name__} is no kind of layer "
            "that is pruned by default. Give it a method get_prunable_weights() that returns a "
            "list of its variables, or do not wrap it.",
            stacklevel=2,
        )


def _pair(name: str, value: Any) -> tuple[int, int]:
    pair = tuple(value) if isinstance(value, (list, tuple)) else ()
    whole = all(isinstance(n, (int, np.integer)) and not isinstance(n, bool) for n in pair)
    if len(pair) != 2 or not whole or min(pair) < 1:
        raise SenteiError(
            f"`{name}` must be two whole numbers of at least 1. Received: {name}={value!r}."
        )
    return int(pair[0]), int(pair[1])
