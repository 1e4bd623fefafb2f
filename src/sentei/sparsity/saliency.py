"""Pruning by what the gradient says of a weight: at one stroke (SNIP), or by movement."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.projection import Tensors, advance
from sentei.core.schedule import Schedule
from sentei.sparsity.patterns import Pattern
from sentei.sparsity.rule import PrunedWeight, Pruning, masked


@keras.saving.register_keras_serializable("sentei")
class OneShot(Pruning):
    """SNIP: at the first step, once, what the loss is least sensitive to goes; the rest trains.

    Lee et al. 2019 (arXiv:1810.02340), eq. 4 and 5: the sensitivity of a connection is
    `|gradient * weight|` at the initial weights, on one batch (the first one of `fit`, its
    gradients as the optimizer gets them). The paper ranks all layers by one threshold: that is
    `scope="global"`; `scope="layer"` gives every layer its share.

    The masks are decided before the first optimizer step is taken, so it is a sparse one already
    and no moment ever holds anything of what went. A batch with a gradient that is not finite
    decides nothing; the next one does.

    Invariants, after every step but those before `schedule.begin_step`:
        - exactly `kept_units` of each weight are kept (with `scope="global"`, of all together);
        - all else is exactly 0.0, and so are the optimizer's moments of it.

    Args:
        schedule: of constant sparsity; its `begin_step` is the step whose batch decides.
        weights: the weights it is about.
        pattern: which weights go together; a block's sensitivity is pooled from its weights'.
        criterion: `"snip"`.
        scope: `"layer"` or `"global"`.

    Raises:
        SenteiError: when the schedule's sparsity is not constant.
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: Sequence[PrunedWeight],
        pattern: Pattern | None = None,
        criterion: str = "snip",
        scope: str = "layer",
    ) -> None:
        super().__init__(schedule, weights, pattern, scope=scope)
        self.criterion = criterion
        table = schedule.table()
        if (table != table[0]).any():
            raise SenteiError(
                f"criterion={criterion!r} prunes once, but {schedule!r} prunes step by step. Use "
                "ConstantSparsity."
            )

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the masks, all true, and the mark whether they are decided.

        Args:
            optimizer: the optimizer that will hold them.
            variables: all trainable variables, in its order.
        """
        super().build(optimizer, variables)
        self._decided = optimizer.add_variable(
            (), "zeros", "bool", "only_first_replica", name="decided"
        )

    def gradients(self, gradients: Tensors) -> Tensors:
        """Decides the masks if it is time; what went has no gradient from then on.

        Args:
            gradients: position → gradient.
        """
        variables = [*self.masks.values(), self._decided]
        before = [ops.convert_to_tensor(variable) for variable in variables]
        step = ops.cast(ops.convert_to_tensor(self._optimizer.iterations), "int32")
        due = ops.logical_and(
            ops.logical_not(before[-1]), step >= ops.convert_to_tensor(self._next_update)
        )
        after = advance(due, lambda *state: self._decide(gradients, *state), before)
        for variable, old, new in zip(variables, before, after, strict=True):
            if new is not old:
                self._optimizer.assign(variable, new)
        return {
            p: ops.where(mask, gradients[p], 0.0)
            for p, mask in zip(self.masks, after, strict=False)
            if p in gradients
        }

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """The weights under the masks that `gradients` decided.

        Args:
            values: position → weight.
            gradients: not used.
            step: not used.
        """
        return {p: masked(values[p], ops.convert_to_tensor(self.masks[p])) for p in self.masks}

    def _decide(self, gradients: Tensors, *state: Any) -> list[Any]:
        old = state[:-1]
        scores = [ops.abs(_product(self._variables[p], gradients.get(p))) for p in self.masks]
        finite = ops.all(ops.stack([ops.all(ops.isfinite(score)) for score in scores]))
        scores = [ops.where(ops.isfinite(score), score, 0.0) for score in scores]
        masks = self._best(scores, ops.convert_to_tensor(self._keep[:, 0]))
        return [*(ops.where(finite, new, mask) for new, mask in zip(masks, old, strict=True)),
                finite]  # fmt: skip


@keras.saving.register_keras_serializable("sentei")
class MovementPruning(Pruning):
    """Movement pruning: weights that training shrinks go first, whatever their size.

    Sanh et al. 2020 (arXiv:2005.07683), eq. 3 and 4, hard movement pruning: the score of a weight
    is `S = -sum over steps of gradient * weight`, above zero when it moves away from zero. (The
    paper's factor, a learning rate for scores, changes no rank.) Made for fine-tuning a pretrained
    model, where magnitudes are the old task's. Unlike in the paper, what went is zero in the
    variables themselves, does not learn on unseen, and stays away.

    State beside that of `Pruning`: one float32 score a weight, which resuming carries on.

    Args:
        schedule: when, and how sparse.
        weights: the weights it is about.
        pattern: which weights go together; a block's score is pooled from its weights' (Lagunas
            et al. 2021, arXiv:2109.04838).
        criterion: `"movement"`.
        scope: `"layer"` or `"global"` (the paper's "global" variant).
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: Sequence[PrunedWeight],
        pattern: Pattern | None = None,
        criterion: str = "movement",
        scope: str = "layer",
    ) -> None:
        super().__init__(schedule, weights, pattern, scope=scope)
        self.criterion = criterion
        self.movements: dict[int, Any] = {}

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the masks, all true, and the scores, all zero.

        Args:
            optimizer: the optimizer that will hold them.
            variables: all trainable variables, in its order.
        """
        super().build(optimizer, variables)
        self.movements = {
            p: optimizer.add_variable(
                self._variables[p].shape,
                "zeros",
                "float32",
                "only_first_replica",
                name=f"movement_{p}",
            )
            for p in self.masks
        }

    def gradients(self, gradients: Tensors) -> Tensors:
        """Adds this step to the scores, at the weights at which the gradients were taken.

        Args:
            gradients: position → gradient.
        """
        for p, score in self.movements.items():
            if p in gradients:
                moved = -_product(self._variables[p], gradients[p])
                # Gradients that overflowed (the step is skipped or the run is lost) score nothing.
                moved = ops.where(ops.isfinite(moved), moved, 0.0)
                self._optimizer.assign(score, ops.convert_to_tensor(score) + moved)
        return {}

    def _scores(self, weights: Sequence[Any]) -> list[Any]:
        return [ops.convert_to_tensor(score) for score in self.movements.values()]


# The rule of each criterion that needs gradients.
SALIENCY: dict[str, type[Pruning]] = {"snip": OneShot, "movement": MovementPruning}


def _product(variable: Any, gradient: Any) -> Any:
    """Weight times gradient in float32; zeros where the loss does not depend on the weight."""
    weight = ops.cast(ops.stop_gradient(ops.convert_to_tensor(variable)), "float32")
    return ops.zeros_like(weight) if gradient is None else weight * ops.cast(gradient, "float32")
