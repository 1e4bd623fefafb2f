"""`sentei.cluster`: from a model and what the user wants to the rule on its optimizer."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from keras import ops

from sentei.clustering.centroids import Rate, method_named
from sentei.clustering.rule import ClusteredWeight, Clustering, not_finite
from sentei.core.errors import SenteiError
from sentei.core.install import attach, find, require_compiled
from sentei.core.select import Layers, Selected, Weight, require_built, select

DECLARE = "get_clusterable_variables"
# Below four weights a cluster, the table of centroids is as large as what indices save.
WEIGHTS_A_CLUSTER = 4


def cluster(
    model: Any,
    n: int,
    *,
    init: str | Rate = "kmeans++",
    per_channel: bool = False,
    preserve_sparsity: bool = False,
    layers: Layers = None,
    gradient: str = "mean",
    reassign_every: int | None = None,
    seed: int = 0,
) -> Any:
    """Clusters the weights of a compiled model and keeps them so while it trains.

    Weight sharing (Han et al. 2016, "Deep Compression", arXiv:1510.00149). The weights are
    snapped onto at most `n` values a tensor at once; the compiled optimizer is wrapped in place
    (`sentei.Projected`), keeps its state, and from then on moves the centroids. After every
    optimizer step each clustered tensor holds at most `n` distinct values, equal bit for bit, so
    every checkpoint does; `model.save` carries clusters and progress, and a loaded model trains on
    bit for bit where it was.

    It composes with `sentei.prune` on the same optimizer, if that comes first: weights under a
    pruning rule keep their zeros, those to come included, whatever `preserve_sparsity` says.

    Args:
        model: a built, compiled Keras model: Sequential, Functional, subclassed, nested.
        n: most distinct values, 2 to 256; zero counts as one of them.
        init: how clusters begin: `"kmeans++"` (least squared error: exact for tensors of up to
            125 000 values at n = 16, else k-means++ and Lloyd's iteration), `"linear"`,
            `"density"` (quantiles), `"random"`, or `"rate"` / `Rate(strength)` (fewer bits a
            weight after entropy coding).
        per_channel: each output channel has clusters of its own. A tensor whose channels hold
            fewer than 4n weights each is clustered as a whole all the same (so its channels hold
            at most n distinct values, too).
        preserve_sparsity: clustered weights that are zero stay exactly zero. (Zeros of a tensor
            too small to be clustered are kept by `sentei.preserve`.)
        layers: which layers, and their own n: `None` (as in `sentei.prune`), a list of names
            (only these), a dict such as `{"conv_1": 64, "block_.*": 16, "head": None}`, or a
            function of the layer that returns n, True, or None. A custom layer can list what may
            be clustered by a method `get_clusterable_variables()`.
        gradient: `"mean"` or `"sum"`: what members of a cluster share. Adaptive optimizers (Adam)
            take the same step for both; with SGD the sum wants a much smaller learning rate.
        reassign_every: every so many steps weights may change their cluster (costs a copy of the
            weights); `None`: never.
        seed: of the random draws of `init`.

    Returns:
        The same model.

    Raises:
        SenteiError: when the model is not built or not compiled, nothing in it can be clustered,
            a name fits no layer, or a weight is clustered already or is not finite.
    """
    require_compiled(model)
    rule = clustering(
        model,
        n,
        init=init,
        per_channel=per_channel,
        preserve_sparsity=preserve_sparsity,
        layers=layers,
        gradient=gradient,
        reassign_every=reassign_every,
        seed=seed,
    )
    projected = find(model)
    for other in projected.projections if projected is not None else ():
        other.check_follower(rule)
    attach(model, rule)
    return model


def clustering(
    model: Any,
    n: int,
    *,
    init: str | Rate = "kmeans++",
    per_channel: bool = False,
    preserve_sparsity: bool = False,
    layers: Layers = None,
    gradient: str = "mean",
    reassign_every: int | None = None,
    seed: int = 0,
) -> Clustering:
    """The rule that `cluster` attaches, for `sentei.Projected` in a training loop of your own.

    The weights are snapped when the optimizer is built with it.

    Args:
        model: a built Keras model; it need not be compiled and is not changed. The optimizer must
            be built on `model.trainable_variables`.
        n: as in `cluster`.
        init: as in `cluster`.
        per_channel: as in `cluster`.
        preserve_sparsity: as in `cluster`.
        layers: as in `cluster`.
        gradient: as in `cluster`.
        reassign_every: as in `cluster`.
        seed: as in `cluster`.

    Returns:
        The rule.

    Raises:
        SenteiError: as `cluster`, but for compiling.
    """
    require_built(model)
    check_count("n", n)
    method_named(init)
    _check_movement(gradient, reassign_every)
    selected, left = select(model, layers, declare=DECLARE)
    skipped = [(skip.weight.path, skip.reason) for skip in left]
    weights = []
    for chosen in selected:
        clustered = _clustered(chosen, n, per_channel)
        size = math.prod(chosen.weight.shape)
        if size < WEIGHTS_A_CLUSTER * clustered.n:
            reason = (
                f"{size} weights: fewer than {WEIGHTS_A_CLUSTER} for each of {clustered.n} clusters"
            )
            if preserve_sparsity:
                reason += "; zeros in it are not kept (sentei.preserve keeps them)"
            skipped.append((chosen.weight.path, reason))
        else:
            weights.append(clustered)
    if not weights:
        raise _nothing_to_cluster(model, skipped)
    for clustered in weights:
        check_finite(model, clustered.weight)
    return Clustering(weights, init, gradient, preserve_sparsity, reassign_every, seed, skipped)


def check_count(name: str, n: Any) -> int:
    """`n`, if it is a number of clusters.

    Args:
        name: what to call it.
        n: what the user passed.

    Raises:
        SenteiError: when it is no whole number from 2 to 256.
    """
    whole = isinstance(n, (int, np.integer)) and not isinstance(n, bool)
    if not whole or not 2 <= n <= 256:
        raise SenteiError(
            f"`{name}` must be a whole number of clusters from 2 to 256 (an index is one byte). "
            f"Received: {name}={n!r}."
        )
    return int(n)


def check_finite(model: Any, weight: Weight) -> None:
    """Raises SenteiError when a weight holds NaN or infinite values."""
    values = ops.convert_to_numpy(model.trainable_variables[weight.index])
    if not np.isfinite(values.astype("float32")).all():
        raise not_finite(weight.path)


def _clustered(chosen: Selected, n: int, per_channel: bool) -> ClusteredWeight:
    weight = chosen.weight
    if chosen.setting is not None:
        n = check_count(f"layers[{weight.layer!r}]", chosen.setting)
    whole = ClusteredWeight(weight, int(n))
    if not per_channel:
        return whole
    own = ClusteredWeight(weight, int(n), True)
    members = math.prod(weight.shape) // max(own.groups.count, 1)
    return own if members >= WEIGHTS_A_CLUSTER * n else whole


def _check_movement(gradient: Any, reassign_every: Any) -> None:
    if gradient not in ("mean", "sum"):
        raise SenteiError(f"`gradient` must be 'mean' or 'sum'. Received: gradient={gradient!r}.")
    if reassign_every is None:
        return
    if not isinstance(reassign_every, int) or reassign_every < 1:
        raise SenteiError(
            "`reassign_every` must be a number of steps of at least 1, or None. Received: "
            f"reassign_every={reassign_every!r}."
        )
    if gradient == "sum":
        raise SenteiError(
            "With `reassign_every` a centroid moves by the mean of its members' own steps, so "
            "gradient='sum' means nothing. Leave one of the two out."
        )


def _nothing_to_cluster(model: Any, skipped: list[tuple[str, str]]) -> SenteiError:
    if not model.trainable_variables:
        return SenteiError(
            f"Model {model.name!r} has no trainable weights to cluster. Set `trainable` on the "
            "layers to cluster, then compile again."
        )
    listed = "; ".join(f"{path}: {reason}" for path, reason in skipped[:8])
    return SenteiError(
        f"Nothing in model {model.name!r} is left to cluster. Weights it has: "
        f"{listed or 'only biases and other vectors'}."
    )
