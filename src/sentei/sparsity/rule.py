"""The pruning rule: masks that follow a schedule, and weights that stay under them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.bind import bind, weight_from
from sentei.core.errors import SenteiError
from sentei.core.projection import Projection, Tensors, advance
from sentei.core.schedule import Schedule
from sentei.core.select import Weight
from sentei.sparsity import scores
from sentei.sparsity.patterns import Element, Pattern
from sentei.sparsity.top import keep_best

# The integers as wide as each float: all bits set keep a value, none set make it +0.0.
_INTEGERS = {"float16": "int16", "bfloat16": "int16", "float32": "int32", "float64": "int64"}


@dataclass(frozen=True)
class PrunedWeight:
    """A weight under the rule, and the sparsity at which it ends.

    Attributes:
        weight: which weight.
        target: its final sparsity, in [0, 1).
    """

    weight: Weight
    target: float


@keras.saving.register_keras_serializable("sentei")
class Pruning(Projection):
    """Keeps pruned weights at exactly zero while a schedule prunes more of them.

    At each update of the schedule the kept weights are scored, and the mask keeps the best of
    them: as many as `pattern.kept_units` says, in exact integer arithmetic done on the host. A
    weight that has been pruned stays pruned as long as the schedule does not call weights back.
    Between updates the mask stands. After every step the weights are `where(mask, weight, 0)`.

    Steps are counted from the moment the rule is attached (the optimizer may have a history).

    State, in optimizer variables: one boolean mask a weight (1 byte a value), the optimizer step
    at which the rule was attached, the one of the next update, and the first weight that was met
    with a value that is not finite.

    Invariants, after step n:
        - a weight with target t has `kept_units(shape, axes, schedule(n) * t / schedule.final)`
          units kept, and all else is exactly 0.0;
        - with `scope="global"` that holds for all weights together.

    Args:
        schedule: when, and how sparse.
        weights: the weights it is about.
        pattern: which weights go together.
        criterion: name or function that scores a weight.
        scope: `"layer"` (each weight its own share) or `"global"` (one threshold for all).
    """

    makes_zeros = True

    def __init__(
        self,
        schedule: Schedule,
        weights: Sequence[PrunedWeight],
        pattern: Pattern | None = None,
        criterion: str | scores.Criterion = "magnitude",
        scope: str = "layer",
    ) -> None:
        self.schedule = schedule
        self.weights = tuple(sorted(weights, key=lambda pruned: pruned.weight.index))
        self.pattern = Element() if pattern is None else pattern
        self.criterion = criterion
        self.scope = scope
        self.positions = frozenset(pruned.weight.index for pruned in self.weights)
        self.masks: dict[int, Any] = {}
        self._score = scores.criterion_named(criterion)
        self._keep = self._keep_tables()

    def sparsity_at(self, pruned: PrunedWeight, step: int) -> float:
        """The share of its units that a weight should lack after `step` steps of this rule."""
        return self._scaled(self.schedule(step), pruned)

    def steps_taken(self, iterations: Any) -> int:
        """Steps since the rule was attached, given the optimizer's counter."""
        return int(ops.convert_to_numpy(iterations)) - int(ops.convert_to_numpy(self._origin))

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the masks, all true, and the counters.

        Args:
            optimizer: the optimizer that will hold them.
            variables: all trainable variables, in its order.

        Raises:
            SenteiError: when the variables are not those the rule was made for.
        """
        self._optimizer = optimizer
        self._variables = bind("pruning", [pruned.weight for pruned in self.weights], variables)

        first = min(self.positions, default=0)  # no two rules of an optimizer use one name

        def counter(name: str, value: int) -> Any:
            start, name = keras.initializers.Constant(value), f"{name}_{first}"
            return optimizer.add_variable((), start, "int32", "only_first_replica", name=name)

        origin = int(ops.convert_to_numpy(optimizer.iterations))
        self._origin = counter("origin", origin)
        self._next_update = counter("next_update", origin + self.schedule.begin_step)
        self._not_finite = counter("not_finite", -1)
        self.masks = {
            p: optimizer.add_variable(
                self._variables[p].shape, "ones", "bool", "only_first_replica", name=f"mask_{p}"
            )
            for p in sorted(self.positions)
        }

    def resume(self, earlier: Projection, shift: int) -> None:
        """Takes over masks and the count of steps, if the schedule and the pattern are the same.

        Args:
            earlier: the rule to go on from, built.
            shift: what to add to a step of its optimizer to get one of this rule's optimizer.
        """
        if not isinstance(earlier, Pruning) or not self._says_what(earlier):
            return
        held = {id(variable): p for p, variable in earlier._variables.items()}
        shared = [(p, held[id(v)]) for p, v in self._variables.items() if id(v) in held]
        for mine, theirs in shared:
            self.masks[mine].assign(ops.copy(ops.convert_to_tensor(earlier.masks[theirs])))
        if shared:
            for name in ("_origin", "_next_update"):
                step = int(ops.convert_to_numpy(getattr(earlier, name))) + shift
                getattr(self, name).assign(min(max(step, -(2**31)), 2**31 - 1))

    def _says_what(self, other: Pruning) -> bool:
        mine, theirs = self.get_config(), other.get_config()
        del mine["weights"], theirs["weights"]
        return type(self) is type(other) and mine == theirs

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """Updates the masks when the schedule says so, and masks the weights.

        Args:
            values: position → weight.
            gradients: not used by magnitude pruning.
            step: optimizer steps taken.
        """
        variables = [*self.masks.values(), self._next_update, self._not_finite]
        before = [ops.convert_to_tensor(variable) for variable in variables]
        # Under the mask that stands first: that pass melts into the optimizer's own, and a step
        # without an update has no other.
        weights = [masked(values[p], mask) for p, mask in zip(self.masks, before, strict=False)]
        due = step >= before[-2]
        after = advance(due, lambda *state: self._updated(step, *state), [*weights, *before])
        for variable, old, new in zip(variables, before, after[len(weights) :], strict=True):
            if new is not old:  # without a compiler, an update that is not due costs nothing
                self._optimizer.assign(variable, new)
        return dict(zip(self.masks, after, strict=False))

    def restrict(self, position: int, value: Any) -> Any:
        """The value where the mask stands, zero elsewhere."""
        return masked(value, ops.convert_to_tensor(self.masks[position]))

    def check(self) -> None:
        """Raises SenteiError when weights were not finite at an update, or are not now."""
        if not self.masks:
            return
        bad = int(ops.convert_to_numpy(self._not_finite))
        for pruned in self.weights:
            p = pruned.weight.index
            finite = np.isfinite(ops.convert_to_numpy(self._variables[p]).astype("float32")).all()
            if bad == p or not finite:
                raise not_finite(pruned.weight.path)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        return {
            "schedule": keras.saving.serialize_keras_object(self.schedule),
            "weights": [asdict(pruned) for pruned in self.weights],
            "pattern": keras.saving.serialize_keras_object(self.pattern),
            "criterion": scores.to_config(self.criterion),
            "scope": self.scope,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Pruning:
        """The rule that `get_config` described, without its state."""
        load = keras.saving.deserialize_keras_object
        return cls(
            load(config["schedule"]),
            [PrunedWeight(weight_from(w["weight"]), w["target"]) for w in config["weights"]],
            load(config["pattern"]),
            scores.from_config(config["criterion"]),
            config["scope"],
        )

    # -- an update --------------------------------------------------------------------------------

    def _updated(self, step: Any, *state: Any) -> list[Any]:
        """From weights, masks, step of the next update and first bad position to new ones."""
        count = len(self.masks)
        old_weights, old, bad = state[:count], state[count : 2 * count], state[-1]
        origin = ops.convert_to_tensor(self._origin)
        done = self.schedule.updates_done(step - origin)
        new = self._new_masks(old_weights, old, ops.minimum(done, self._keep.shape[1]) - 1)
        finite = [ops.all(ops.isfinite(weight)) for weight in old_weights]
        for p, ok in zip(reversed(list(self.masks)), reversed(finite), strict=True):
            bad = ops.where(ok, bad, p)
        if self.scope == "global":  # one weight that is not finite spoils the common threshold
            finite = [ops.all(ops.stack(finite))] * count
        # A weight that cannot be ranked keeps its mask; `check` raises.
        new = [ops.where(ok, n, o) for ok, n, o in zip(finite, new, old, strict=True)]
        weights = [masked(weight, mask) for weight, mask in zip(old_weights, new, strict=True)]
        return [*weights, *new, self._due(origin, done), ops.cast(bad, "int32")]

    def _due(self, origin: Any, done: Any) -> Any:
        """The optimizer's step at which the update after `done` of them is due, int32."""
        # "Never" is the highest int32: beyond it the step would wrap, and be due at once.
        room = 2**31 - 1 - ops.maximum(origin, 0)
        return ops.cast(origin + ops.minimum(self.schedule.update_after(done), room), "int32")

    def _new_masks(self, weights: Sequence[Any], old: Sequence[Any], row: Any) -> list[Any]:
        """The masks of update number `row`."""
        scored = [
            # What is pruned already ranks below everything that is not, in order of position.
            ops.where(mask, score, -np.inf)
            for score, mask in zip(self._scores(weights), old, strict=True)
        ]
        return self._best(scored, ops.take(ops.convert_to_tensor(self._keep), row, axis=1))

    def _scores(self, weights: Sequence[Any]) -> list[Any]:
        """A float32 score for every weight that is kept: higher is kept longer."""
        return [ops.cast(self._score(weight), "float32") for weight in weights]

    def _best(self, scored: list[Any], keep: Any) -> list[Any]:
        """The masks of the best scores: `keep[i]` units of weight i, `keep[0]` of all of them."""
        if self.scope == "global":
            return self._global_masks(scored, keep[0])
        return [
            self.pattern.mask(score, pruned.weight.axes, keep[i])
            for i, (score, pruned) in enumerate(zip(scored, self.weights, strict=True))
        ]

    def _global_masks(self, scored: list[Any], keep: Any) -> list[Any]:
        """One threshold over the units of all weights."""
        units = [
            self.pattern.pool(score, pruned.weight.axes)
            for score, pruned in zip(scored, self.weights, strict=True)
        ]
        flat = ops.concatenate([ops.reshape(unit, (-1,)) for unit in units])
        kept, start, masks = keep_best(flat, keep), 0, []
        for unit, pruned in zip(units, self.weights, strict=True):
            size = int(np.prod(unit.shape))
            part = ops.reshape(kept[start : start + size], unit.shape)
            masks.append(self.pattern.spread(part, pruned.weight.shape, pruned.weight.axes))
            start += size
        return masks

    def _keep_tables(self) -> np.ndarray:
        """Units kept after each update: int32 `(weights, updates)`, one row for a global scope."""
        shares = self.schedule.table()
        units = [self.pattern.units(p.weight.shape, p.weight.axes) for p in self.weights]
        if self.scope == "global":
            return np.array([[round(sum(units) * (1.0 - s)) for s in shares]], "int32")
        rows = [
            [
                self.pattern.kept_units(p.weight.shape, p.weight.axes, self._scaled(s, p))
                for s in shares
            ]
            for p in self.weights
        ]
        return np.array(rows, "int32").reshape(len(rows), len(shares))

    def _scaled(self, sparsity: float, pruned: PrunedWeight) -> float:
        """The schedule's sparsity on the way to a weight's own target; exact at the end."""
        final = self.schedule.final
        if sparsity == final or final == 0.0:
            return pruned.target
        return min(sparsity * (pruned.target / final), np.nextafter(1.0, 0.0))


def not_finite(path: str) -> SenteiError:
    """The error for a weight with NaN or infinite values."""
    return SenteiError(
        f"{path} holds values that are not finite (NaN or infinite), so its weights cannot be "
        "ranked for pruning. Lower the learning rate, clip gradients, or start from a sound "
        "checkpoint."
    )


def masked(value: Any, mask: Any) -> Any:
    """The value where the mask is true, +0.0 elsewhere; on PyTorch `value` itself is changed."""
    # Not value * mask: that would keep NaN, and turn pruned negative weights into -0.0.
    if keras.backend.backend() != "torch":
        return ops.where(mask, value, 0.0)
    # Eager, so passes over memory are what it costs: `where` on booleans is not vectorised and
    # takes 200 us for 235 000 weights, this takes 60.
    integer = _INTEGERS[keras.backend.standardize_dtype(value.dtype)]
    ops.view(value, integer).bitwise_and_(-ops.cast(ops.view(mask, "uint8"), integer))
    return value
