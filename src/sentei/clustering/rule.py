"""The clustering rule: centroids that train, and weights that stay on them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.clustering.centroids import Rate, begin, linear, method_named
from sentei.clustering.groups import Groups
from sentei.core.bind import bind, weight_from
from sentei.core.errors import SenteiError
from sentei.core.projection import Projection, Tensors, advance
from sentei.core.select import Weight


@dataclass(frozen=True)
class ClusteredWeight:
    """A weight under the rule.

    Attributes:
        weight: which weight.
        n: the most distinct values it may hold (each output channel, with `per_channel`).
        per_channel: whether each output channel has clusters of its own.
    """

    weight: Weight
    n: int
    per_channel: bool = False

    @property
    def groups(self) -> Groups:
        """Its groups: one, or one an output channel."""
        axes = self.weight.axes.output if self.per_channel else ()
        return Groups(self.weight.shape, axes, self.n)


@keras.saving.register_keras_serializable("sentei")
class Clustering(Projection):
    """Keeps every weight on one of a few centroids, and trains the centroids.

    Deep Compression (Han et al. 2016, arXiv:1510.00149, section 3): the members of a cluster
    share their gradient, so that it is the centroid that is trained. The mean (or the sum) of the
    members' gradients takes the place of each before the wrapped optimizer's step, whatever the
    optimizer; after it, the centroid is the mean of its members, and they are it, bit for bit.
    (Members that had different momentum when the rule came would drift apart otherwise.) The mean
    is the projection of the gradient onto the weights that the rule allows, so a learning rate
    stays right; the sum is the gradient with respect to the centroid, as in the paper, larger by
    the size of the cluster.

    With `reassign_every`, weights may change their cluster: the wrapped optimizer sees every
    gradient as it is (the straight-through estimator), a *shadow* of the weight adds up the steps
    it would have made alone, the centroid moves by the mean of its members' steps, and every so
    many steps each weight joins the cluster nearest to its shadow.

    State, in optimizer variables: indices (uint8, 1 byte a value), centroids and sizes (of each
    slot), the error at the beginning, and the shadows, if any (in the weight's dtype).

    Invariants, after every step:
        - a weight (an output channel) holds at most n distinct values, equal bit for bit;
        - a weight that was 0.0 when the rule came still is, with `preserve_sparsity`, and a
          weight that an earlier rule of the same optimizer prunes stays so in any case: the
          cluster of zero does not move, and nothing leaves it.

    Args:
        weights: the weights it is about.
        init: how clusters begin: a name in `centroids.METHODS`, or a `Rate`.
        gradient: `"mean"` or `"sum"`.
        preserve_sparsity: whether zeros are a cluster that stays zero.
        reassign_every: steps between changes of membership; None for never.
        seed: of the random draws of `init`.
        skipped: paths of weights left alone, and why, for the report.
        fresh: whether `build` finds clusters (when False it makes state to be loaded into).
    """

    def __init__(
        self,
        weights: Sequence[ClusteredWeight],
        init: str | Rate = "kmeans++",
        gradient: str = "mean",
        preserve_sparsity: bool = False,
        reassign_every: int | None = None,
        seed: int = 0,
        skipped: Sequence[tuple[str, str]] = (),
        fresh: bool = True,
    ) -> None:
        self.weights = tuple(sorted(weights, key=lambda clustered: clustered.weight.index))
        self.init, self.gradient, self.seed = init, gradient, seed
        self.preserve_sparsity, self.reassign_every = preserve_sparsity, reassign_every
        self.skipped = tuple((path, reason) for path, reason in skipped)
        self.positions = frozenset(clustered.weight.index for clustered in self.weights)
        self.indices: dict[int, Any] = {}
        self.centroids: dict[int, Any] = {}
        self._groups = {c.weight.index: c.groups for c in self.weights}
        self._method = method_named(init)
        self._fresh = fresh

    def build(self, optimizer: keras.optimizers.Optimizer, variables: Sequence[Any]) -> None:
        """Makes the state; a new rule finds its clusters and snaps the variables onto them.

        Args:
            optimizer: the optimizer that will hold the state.
            variables: all trainable variables, in its order.

        Raises:
            SenteiError: when the variables are not those the rule was made for.
        """
        self._optimizer = optimizer
        self._variables = bind("clustering", [c.weight for c in self.weights], variables)
        earlier = itertools.takewhile(
            lambda rule: rule is not self, getattr(optimizer, "projections", ())
        )
        self._pruned = frozenset().union(*(r.positions for r in earlier if r.makes_zeros))
        self._make_state(optimizer)
        for i, clustered in enumerate(self.weights):
            self._begin(i, clustered)

    def resume(self, earlier: Projection, shift: int) -> None:
        """Takes over the clusters of weights that both rules cluster in the same way.

        Args:
            earlier: the rule to go on from, built.
            shift: not used.
        """
        if not isinstance(earlier, Clustering):
            return
        held = {id(variable): p for p, variable in earlier._variables.items()}
        for p, variable in self._variables.items():
            theirs = held.get(id(variable))
            if theirs is None or earlier._groups[theirs] != self._groups[p]:
                continue
            for mine, other in (
                (self.indices, earlier.indices),
                (self.centroids, earlier.centroids),
                (self._sizes, earlier._sizes),
            ):
                mine[p].assign(ops.copy(ops.convert_to_tensor(other[theirs])))
            groups = self._groups[p]
            slots = groups.find_slots(ops.convert_to_tensor(self.indices[p]))
            variable.assign(groups.spread(_tensor(self.centroids[p]), slots))
            if p in self._shadows and theirs in earlier._shadows:
                self._shadows[p].assign(ops.copy(_tensor(earlier._shadows[theirs])))

    def gradients(self, gradients: Tensors) -> Tensors:
        """The mean or sum of each cluster's gradients, for each of its members."""
        if self.reassign_every is not None:
            return {}
        shared = {}
        for p in sorted(self.positions & gradients.keys()):
            groups, given = self._groups[p], ops.convert_to_tensor(gradients[p])
            slots = groups.find_slots(ops.convert_to_tensor(self.indices[p]))
            total = groups.sums(given, slots)
            if self.gradient == "mean":
                total = total / ops.cast(ops.maximum(_tensor(self._sizes[p]), 1), "float32")
            total = self._where_it_moves(p, total)
            shared[p] = ops.cast(groups.spread(total, slots), given.dtype)
        return shared

    def project(self, values: Tensors, gradients: Tensors, step: Any) -> Tensors:
        """Moves the centroids to the mean of their members, and the members to them.

        Args:
            values: position → weight.
            gradients: not used.
            step: optimizer steps taken.
        """
        moved: Tensors = {}
        for p, groups in self._groups.items():
            value, indices, sizes = values[p], _tensor(self.indices[p]), _tensor(self._sizes[p])
            if p in self._pruned:  # what an earlier rule has just pruned joins the cluster of zero
                indices = ops.where(value == 0, ops.zeros_like(indices), indices)
                sizes = groups.sizes(groups.find_slots(indices))
                self._optimizer.assign(self.indices[p], indices)
                self._optimizer.assign(self._sizes[p], sizes)
            slots, old = groups.find_slots(indices), _tensor(self.centroids[p])
            centroids = self._still(p, old, groups.means(value, old, slots, sizes))
            if self.reassign_every is not None:
                own = value - groups.spread(old, slots)
                self._optimizer.assign(self._shadows[p], _tensor(self._shadows[p]) + own)
            self._optimizer.assign(self.centroids[p], centroids)
            moved[p] = groups.spread(centroids, slots)
        return moved if self.reassign_every is None else self._reassigned(moved, step)

    def restrict(self, position: int, value: Any) -> Any:
        """The mean of each cluster's values, for each of its members."""
        groups = self._groups[position]
        slots = groups.find_slots(_tensor(self.indices[position]))
        near = _tensor(self.centroids[position])
        means = groups.means(
            value, ops.cast(near, value.dtype), slots, _tensor(self._sizes[position]), turns=3
        )
        return groups.spread(self._still(position, near, means), slots)

    def check(self) -> None:
        """Raises SenteiError when weights are not finite."""
        for clustered in self.weights if self.indices else ():
            value = ops.convert_to_numpy(self._variables[clustered.weight.index])
            if not np.isfinite(value.astype("float32")).all():
                raise not_finite(clustered.weight.path)

    def check_follower(self, other: Projection) -> None:
        """Raises SenteiError when another rule would come to weights that are clustered."""
        for clustered in self.weights:
            if clustered.weight.index not in other.positions:
                continue
            if isinstance(other, Clustering):
                raise SenteiError(
                    f"{clustered.weight.path} is clustered already, to {clustered.n} values. To "
                    "start again, call sentei.strip(model) first; to cluster other layers, name "
                    "them in `layers`."
                )
            raise SenteiError(
                f"{clustered.weight.path} is clustered: {type(other).__name__} after it would "
                "break its clusters. Prune first, then cluster: call sentei.strip(model), the "
                "other rule, then sentei.cluster(model, n, preserve_sparsity=True)."
            )

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments, for saving."""
        init = keras.saving.serialize_keras_object(self.init)
        return {
            "weights": [asdict(clustered) for clustered in self.weights],
            "init": self.init if isinstance(self.init, str) else init,
            "gradient": self.gradient,
            "preserve_sparsity": self.preserve_sparsity,
            "reassign_every": self.reassign_every,
            "seed": self.seed,
            "skipped": [list(pair) for pair in self.skipped],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Clustering:
        """The rule that `get_config` described, without its state."""
        init = config.pop("init")
        if isinstance(init, dict):
            init = keras.saving.deserialize_keras_object(init)
        weights = [
            ClusteredWeight(weight_from(saved["weight"]), saved["n"], saved["per_channel"])
            for saved in config.pop("weights")
        ]
        return cls(weights, init, **config, fresh=False)

    # -- what stays zero --------------------------------------------------------------------------

    def keeps_zero(self, position: int) -> bool:
        """Whether the zeros of a weight stay zero."""
        return self.preserve_sparsity or position in self._pruned

    def _still(self, position: int, old: Any, new: Any) -> Any:
        """`new`, but for the cluster of zero, if it is kept."""
        return ops.where(old == 0, 0.0, new) if self.keeps_zero(position) else new

    def _where_it_moves(self, position: int, of_slots: Any) -> Any:
        return self._still(position, _tensor(self.centroids[position]), of_slots)

    # -- membership -------------------------------------------------------------------------------

    def _reassigned(self, moved: Tensors, step: Any) -> Tensors:
        """The weights after those that are due to change their cluster have done so."""
        due = ops.equal(step % self.reassign_every, 0)
        for p in self._groups:
            held = [self.indices[p], self.centroids[p], self._sizes[p]]
            before = [moved[p], *(_tensor(variable) for variable in held)]
            shadow = _tensor(self._shadows[p])
            after = advance(due, lambda *s, p=p, w=shadow: self._rejoined(p, w, *s), before)
            moved[p] = after[0]
            for variable, old, new in zip(held, before[1:], after[1:], strict=True):
                if new is not old:
                    self._optimizer.assign(variable, new)
        return moved

    def _rejoined(
        self, position: int, shadow: Any, weight: Any, indices: Any, centroids: Any, sizes: Any
    ) -> list[Any]:
        """One turn of Lloyd's iteration on the shadow."""
        groups = self._groups[position]
        free = centroids != 0 if self.keeps_zero(position) else ops.ones_like(centroids) > 0
        chosen = groups.nearest(shadow, centroids, free)
        if self.keeps_zero(position):
            chosen = ops.where(weight == 0, indices, chosen)
        slots = groups.find_slots(chosen)
        sizes = groups.sizes(slots)
        means = groups.means(shadow, centroids, slots, sizes, turns=2)
        centroids = self._still(position, centroids, means)
        return [groups.spread(centroids, slots), chosen, centroids, sizes]

    # -- the beginning ----------------------------------------------------------------------------

    def _make_state(self, optimizer: keras.optimizers.Optimizer) -> None:
        def state(name: str, shape: Any, dtype: str) -> Any:
            return optimizer.add_variable(shape, "zeros", dtype, "only_first_replica", name=name)

        self.errors = state(
            f"error_{min(self.positions, default=0)}", (len(self.weights),), "float32"
        )
        self._sizes: dict[int, Any] = {}
        self._shadows: dict[int, Any] = {}
        for p, groups in self._groups.items():
            dtype = keras.backend.standardize_dtype(self._variables[p].dtype)
            self.indices[p] = state(f"indices_{p}", groups.shape, "uint8")
            self.centroids[p] = state(f"centroids_{p}", (groups.slots,), dtype)
            self._sizes[p] = state(f"sizes_{p}", (groups.slots,), "int32")
            if self.reassign_every is not None:
                self._shadows[p] = state(f"shadow_{p}", groups.shape, dtype)

    def _begin(self, i: int, clustered: ClusteredWeight) -> None:
        """Finds the clusters of one weight."""
        p, groups = clustered.weight.index, self._groups[clustered.weight.index]
        values = ops.convert_to_numpy(self._variables[p])
        found = [
            begin(
                row,
                groups.clusters,
                # State that is about to be loaded need not be good, only valid.
                self._method if self._fresh else linear,
                self.seed,
                keep_zero=self.keeps_zero(p),
                reserve_zero=p in self._pruned,
            )
            for row in groups.rows(values)
        ]
        centroids = np.stack([row[0] for row in found])
        rows = np.stack([row[1] for row in found])
        self.indices[p].assign(groups.from_rows(rows))
        self.centroids[p].assign(centroids.reshape(-1))
        counts = [np.bincount(row, minlength=groups.clusters) for row in rows]
        self._sizes[p].assign(np.concatenate(counts).astype("int32"))
        if self.reassign_every is not None:
            self._shadows[p].assign(values)
        if self._fresh:
            snapped = groups.from_rows(np.take_along_axis(centroids, rows.astype("int64"), axis=1))
            errors = ops.convert_to_numpy(self.errors).copy()
            errors[i] = _relative_error(values, snapped)
            self.errors.assign(errors)
            self._variables[p].assign(snapped)


def not_finite(path: str) -> SenteiError:
    """The error for a weight with NaN or infinite values."""
    return SenteiError(
        f"{path} holds values that are not finite (NaN or infinite), which have no clusters. Lower "
        "the learning rate, clip gradients, or start from a sound checkpoint."
    )


def _relative_error(values: np.ndarray, snapped: np.ndarray) -> float:
    """Root of the squared error over the squared values."""
    exact = values.astype("float64")
    norm = float(np.sum(exact**2))
    return float(np.sqrt(np.sum((exact - snapped) ** 2) / norm)) if norm else 0.0


def _tensor(variable: Any) -> Any:
    """The variable's value; on PyTorch outside the gradient's graph."""
    return ops.stop_gradient(ops.convert_to_tensor(variable))
