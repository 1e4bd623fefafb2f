"""`sentei.preserve`: the zeros and clusters a model has, kept while it trains on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from sentei.clustering import Clustering
from sentei.clustering.rule import ClusteredWeight
from sentei.core.install import attach, find, require_compiled
from sentei.core.projection import Projection
from sentei.core.select import Weight, select
from sentei.sparsity import KeptZeros

_MOST_CLUSTERS = 256


def preserve(model: Any, sparsity: bool = True, clusters: bool = True) -> Any:
    """Keeps the zeros and the clusters of a model while it trains, wherever they come from.

    They are read off the weights as they are: of a model pruned and clustered earlier, loaded
    from a file, or quantized by `sentei.quantize` (which shares the float weights). Each kernel
    gets the rules it has a use for: one without zeros, or with too many values to be clustered,
    changes nothing for another. What rules on the optimizer keep already is left to them, so
    calling this twice, or in the middle of pruning or clustering, does no harm.

    A kernel counts as clustered when its non-zero weights hold at most 256 distinct values, at
    most half as many as there are weights: as a whole, or, if not, in each output channel.

    Args:
        model: a built, compiled Keras model.
        sparsity: keep every weight of a kernel that is zero at exactly zero.
        clusters: keep weights that are equal equal, bit for bit.

    Returns:
        The same model. One with nothing to keep is returned as it is.

    Raises:
        SenteiError: when the model is not built or not compiled.
    """
    require_compiled(model)
    projected = find(model)
    rules = list(projected.projections) if projected is not None else []
    for rule in rules_that_keep(model, rules, sparsity, clusters):
        attach(model, rule)
    clustering = [rule for rule in rules if isinstance(rule, Clustering)]
    if sparsity and any(not rule.preserve_sparsity for rule in clustering):
        for rule in clustering:  # its weights are on their centroids: a zero is the cluster of zero
            rule.preserve_sparsity = True
        model.train_function = None
    return model


def rules_that_keep(
    model: Any, rules: Sequence[Projection], sparsity: bool = True, clusters: bool = True
) -> list[Projection]:
    """The rules that keep the zeros and the clusters of a model, beside those it has.

    Args:
        model: a built Keras model.
        rules: the rules that work on it already.
        sparsity: as for `preserve`.
        clusters: as for `preserve`.
    """
    clustering = [rule for rule in rules if isinstance(rule, Clustering)]
    held = frozenset().union(*(rule.positions for rule in clustering))
    zeros: list[Weight] = []
    grouped: list[ClusteredWeight] = []
    for weight in _kernels(model):
        values = ops.convert_to_numpy(model.trainable_variables[weight.index]).astype("float32")
        found = None
        if clusters and weight.index not in held:
            pruned = any(rule.makes_zeros and weight.index in rule.positions for rule in rules)
            found = _clusters_of(weight, values, reserve_zero=pruned)
        if found is not None:
            grouped.append(found)
        elif sparsity and weight.index not in held and np.any(values == 0):
            zeros.append(weight)
    kept = [rule for rule in rules if isinstance(rule, KeptZeros)]
    zeros = [weight for weight in zeros if not any(_keeps(rule, weight, model) for rule in kept)]
    keeping: list[Projection] = [KeptZeros(zeros)] if zeros else []
    return [*keeping, Clustering(grouped, preserve_sparsity=sparsity)] if grouped else keeping


def _kernels(model: Any) -> list[Weight]:
    """Every matrix and kernel of a model, of whatever kind of layer."""
    selected, skipped = select(model)
    weights = [found.weight for found in selected] + [found.weight for found in skipped]
    return sorted(weights, key=lambda weight: weight.index)


def _keeps(rule: KeptZeros, weight: Weight, model: Any) -> bool:
    """Whether a rule keeps every zero that a weight has now."""
    if weight.index not in rule.positions:
        return False
    mask = ops.convert_to_numpy(rule.masks[weight.index])
    values = ops.convert_to_numpy(model.trainable_variables[weight.index])
    return bool(np.all(values[mask] != 0))


def _clusters_of(
    weight: Weight, values: np.ndarray, *, reserve_zero: bool
) -> ClusteredWeight | None:
    """The clusters a weight has, if it has any."""
    for per_channel in (False, True):
        groups = ClusteredWeight(weight, 1, per_channel).groups
        if not groups.count or not values.size:
            return None
        distinct: list[np.ndarray] = []
        nonzero = 0
        for row in groups.rows(values):
            distinct.append(np.unique(row))
            nonzero += int(np.count_nonzero(row))
        most = max(len(d) + (reserve_zero and 0.0 not in d) for d in distinct)
        # A weight that is pruned to a few values that all differ is not clustered.
        shared = 2 * sum(np.count_nonzero(d) for d in distinct) <= nonzero
        if most <= _MOST_CLUSTERS and shared:
            return ClusteredWeight(weight, int(most), per_channel)
    return None
