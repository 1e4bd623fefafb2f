"""Training sparse from the first step: a fixed number of connections that move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.bind import weight_from
from sentei.core.errors import SenteiError
from sentei.core.projection import Tensors, advance
from sentei.core.schedule import Schedule
from sentei.sparsity.growth import cosine_fraction, evolve, noise
from sentei.sparsity.patterns import NofM, Pattern
from sentei.sparsity.rule import PrunedWeight, Pruning, masked

# Whose connections come by what: the dense gradient, chance, or nothing comes and nothing goes.
GROWTH = {"rigl": "gradient", "set": "noise", "random": None}


@keras.saving.register_keras_serializable("sentei")
class DynamicSparsity(Pruning):
    """Keeps a fixed number of weights, and lets the useless ones change places.

    `"rigl"` (Evci et al. 2020, "Rigging the lottery", arXiv:1911.11134, algorithm 1): at each
    update the weights of smallest magnitude go, and as many come where the dense gradient is
    largest. `"set"` (Mocanu et al. 2018, arXiv:1707.04780): they come at random. `"random"`: the
    first mask, drawn at random, stands. New connections start at zero with fresh optimizer moments;
    between updates the wrapped optimizer sees no gradient of what is not connected. (Unlike in the
    paper, the gradient step of an update is also taken, by the connections that stay.)

    Invariants, after every step:
        - the masks hold as many units as after the first step, exactly;
        - weights are exactly 0.0 where there is no connection;
        - everything follows from seed and data: state lives in optimizer variables.

    Args:
        schedule: of constant sparsity; its `frequency` is that of updates, its `end_step` the end
            of training.
        weights: the weights it is about.
        pattern: which weights go together.
        criterion: `"rigl"`, `"set"` or `"random"`.
        fraction: share of the connections that move at the first update (alpha); it decays to 0
            along a cosine.
        stop: the share of training after which nothing moves.
        seed: of the first mask and of `"set"`.

    Raises:
        SenteiError: when the schedule's sparsity is not constant or it does not say when training
            ends, for NofM with weights that move, or for a fraction or a stop outside (0, 1].
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: Sequence[PrunedWeight],
        pattern: Pattern | None = None,
        criterion: str = "rigl",
        fraction: float = 0.3,
        stop: float = 0.75,
        seed: int = 0,
    ) -> None:
        super().__init__(schedule, weights, pattern)
        self.criterion, self._grows_by = criterion, GROWTH[criterion]
        self.fraction, self.stop, self.seed = fraction, stop, seed
        self._check_arguments()
        self._move = self._move_table()

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the first masks, at random, and finds the optimizer's moments.

        Args:
            optimizer: the optimizer that will hold the state.
            variables: all trainable variables, in its order.
        """
        super().build(optimizer, variables)
        for pruned, keep in zip(self.weights, self._keep[:, 0], strict=True):
            p, shape = pruned.weight.index, pruned.weight.shape
            scores = np.random.default_rng([self.seed, p]).random(shape, "float32")
            mask = self.pattern.mask(ops.convert_to_tensor(scores), pruned.weight.axes, int(keep))
            self.masks[p].assign(mask)
        self._slots = _moments(optimizer, variables, self.positions)

    def start(self) -> None:
        """Cuts the weights down to the first masks, at once: training begins sparse."""
        for p, variable in self._variables.items():
            variable.assign(self.restrict(p, ops.copy(ops.convert_to_tensor(variable))))

    def gradients(self, gradients: Tensors) -> Tensors:
        """What the wrapped optimizer sees: no gradient where there is no connection.

        Args:
            gradients: position → gradient.
        """
        return {
            p: ops.where(ops.convert_to_tensor(self.masks[p]), gradients[p], 0.0)
            for p in self.masks
            if p in gradients
        }

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """Moves connections when an update is due, and masks the weights.

        Args:
            values: position → weight.
            gradients: position → dense gradient of this step.
            step: optimizer steps taken.
        """
        count = len(self.masks)
        moments = [slot for _, slot in self._slots]
        variables = [*moments, *self.masks.values(), self._next_update, self._not_finite]
        before = [ops.convert_to_tensor(variable) for variable in variables]
        masks = before[len(moments) : len(moments) + count]
        weights = [masked(values[p], mask) for p, mask in zip(self.masks, masks, strict=True)]
        due = step >= before[-2]
        after = advance(
            due, lambda *state: self._evolved(step, gradients, *state), [*weights, *before]
        )
        for variable, old, new in zip(variables, before, after[count:], strict=True):
            if new is not old:
                self._optimizer.assign(variable, new)
        return dict(zip(self.masks, after, strict=False))

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "weights": [asdict(pruned) for pruned in self.weights],
            "pattern": keras.saving.serialize_keras_object(self.pattern),
            "criterion": self.criterion,
            "fraction": self.fraction,
            "stop": self.stop,
            "seed": int(self.seed),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> DynamicSparsity:
        """The rule that `get_config` described, without its state."""
        load = keras.saving.deserialize_keras_object
        objects = {name: load(config[name]) for name in ("schedule", "pattern")}
        weights = [
            PrunedWeight(weight_from(saved["weight"]), saved["target"])
            for saved in config["weights"]
        ]
        return cls(**{**config, **objects, "weights": weights})

    # -- an update --------------------------------------------------------------------------------

    def _evolved(self, step: Any, gradients: Tensors, *state: Any) -> list[Any]:
        """From weights, moments, masks, step of the next update and first bad position to new."""
        count, slots = len(self.masks), len(self._slots)
        weights, moments = list(state[:count]), list(state[count : count + slots])
        old, bad = state[count + slots : -2], state[-1]
        origin = ops.convert_to_tensor(self._origin)
        done = self.schedule.updates_done(step - origin)
        row = ops.minimum(done, self._move.shape[1]) - 1
        move = ops.take(ops.convert_to_tensor(self._move), row, axis=1)
        stays: dict[int, Any] = {}
        new = []
        for i, (pruned, weight, mask) in enumerate(zip(self.weights, weights, old, strict=True)):
            p = pruned.weight.index
            growth = self._growth(p, weight, gradients.get(p), step - origin)
            finite = ops.logical_and(ops.all(ops.isfinite(weight)), ops.all(ops.isfinite(growth)))
            growth = ops.where(ops.isfinite(growth), growth, 0.0)
            keep = int(self._keep[i, 0])
            moved = evolve(weight, mask, growth, self.pattern, pruned.weight.axes, keep, move[i])
            new.append(ops.where(finite, moved, mask))
            stays[p] = ops.logical_and(new[-1], mask)
            bad = ops.where(ops.logical_or(finite, bad >= 0), bad, p)
        weights = [masked(weight, stays[p]) for weight, p in zip(weights, self.masks, strict=True)]
        moments = [
            ops.where(stays[p], moment, ops.zeros_like(moment))
            for (p, _), moment in zip(self._slots, moments, strict=True)
        ]
        return [*weights, *moments, *new, self._due(origin, done), ops.cast(bad, "int32")]

    def _growth(self, position: int, weight: Any, gradient: Any, step: Any) -> Any:
        """The score by which connections come, float32."""
        if self._grows_by == "gradient" and gradient is not None:
            return ops.cast(ops.abs(ops.convert_to_tensor(gradient)), "float32")
        return noise(tuple(weight.shape), step, self.seed * 7919 + position * 104729)

    def _move_table(self) -> np.ndarray:
        """Units that move at each update: int32 `(weights, updates)`."""
        end = self.stop * (self.schedule.end_step or 0)
        begin = self.schedule.begin_step
        shares = [
            0.0
            if step <= begin or self._grows_by is None
            else cosine_fraction(int(step) - begin, self.fraction, end - begin)
            for step in self.schedule.updates()
        ]
        rows = [[round(share * keep) for share in shares] for keep in self._keep[:, 0]]
        return np.array(rows, "int32").reshape(len(rows), len(shares))

    def _check_arguments(self) -> None:
        table = self.schedule.table()
        if (table != table[0]).any():
            raise SenteiError(
                f"criterion={self.criterion!r} keeps the number of weights from the first step on, "
                f"but {self.schedule!r} changes it. Use ConstantSparsity."
            )
        if self.schedule.end_step is None and self._grows_by is not None:
            raise SenteiError(
                f"criterion={self.criterion!r} needs to know when training ends. Give the schedule "
                "an `end_step`, such as ConstantSparsity(0.9, end_step=10_000)."
            )
        if isinstance(self.pattern, NofM) and self._grows_by is not None:
            raise SenteiError(
                f"criterion={self.criterion!r} moves a share of the weights, which the groups of "
                f"{self.pattern!r} are too small for. Use Element or Block, or 'random' or "
                "'magnitude'."
            )
        if not isinstance(self.seed, int | np.integer) or self.seed < 0:
            raise SenteiError(
                f"`seed` must be a whole number of at least 0. Received: seed={self.seed!r}."
            )
        for name in ("fraction", "stop"):
            if not 0.0 < getattr(self, name) <= 1.0:
                raise SenteiError(
                    f"`{name}` must be above 0 and at most 1. Received: {getattr(self, name)!r}."
                )


def _moments(
    optimizer: Any, variables: Sequence[Any], positions: frozenset[int]
) -> list[tuple[int, Any]]:
    """The wrapped optimizer's moments of each weight, as (position, variable).

    Keras has no public way from a weight to them. They are recognised by shape and by the name
    that `Optimizer.add_variable_from_reference` makes: the weight's path, then the moment's name.
    Weights of the same path are told apart by their order.
    """
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    prefixes = [variable.path.replace("/", "_") + "_" for variable in variables]
    found: list[tuple[int, Any]] = []
    seen: dict[str, int] = {}
    for slot in inner.variables:
        fitting = [
            p
            for p, prefix in enumerate(prefixes)
            if slot.name.startswith(prefix) and tuple(slot.shape) == tuple(variables[p].shape)
        ]
        longest = max((len(prefixes[p]) for p in fitting), default=0)
        fitting = [p for p in fitting if len(prefixes[p]) == longest]
        if fitting:
            number = seen.get(slot.name, 0)
            seen[slot.name] = number + 1
            position = fitting[number % len(fitting)]
            if position in positions:
                found.append((position, slot))
    return found
