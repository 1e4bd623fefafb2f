"""`sentei.prune`: from a model and what the user wants to the rule on its optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from keras import ops

from sentei.core.errors import SenteiError
from sentei.core.install import attach, find, require_compiled
from sentei.core.schedule import Schedule, check_sparsity
from sentei.core.select import Layers, Selected, Skipped, require_built, select
from sentei.sparsity.allocate import distribute
from sentei.sparsity.dynamic import GROWTH, DynamicSparsity
from sentei.sparsity.patterns import Element, NofM, Pattern
from sentei.sparsity.rule import PrunedWeight, Pruning, not_finite
from sentei.sparsity.saliency import SALIENCY


def prune(
    model: Any,
    schedule: Schedule,
    *,
    pattern: Pattern = Element(),  # noqa: B008  (frozen)
    criterion: str | Callable[[Any], Any] = "magnitude",
    scope: str = "layer",
    layers: Layers = None,
    distribution: str = "uniform",
    seed: int = 0,
) -> Any:
    """Prunes a compiled model while it trains: `fit` afterwards as usual, without a callback.

    Gradual magnitude pruning (Zhu & Gupta 2017, arXiv:1710.01878). The compiled optimizer is
    wrapped in place (`sentei.Projected`) and keeps its state. After every optimizer step the
    pruned weights are exactly zero in the variables themselves, so every checkpoint is as sparse
    as the schedule says, `model.save` carries masks and progress, and a loaded model trains on
    where it was: bit for bit, but for random state that Keras itself does not save (dropout
    seeds, data order). Two calls with different layers put two rules on one optimizer.

    `model.compile` makes a new optimizer without the rule: call it before `prune`, not after.

    Args:
        model: a built, compiled Keras model: Sequential, Functional, subclassed, nested.
        schedule: when, and how sparse: `ConstantSparsity`, `PolynomialDecay` or your own
            `Schedule`. Its steps count optimizer steps from this call on.
        pattern: `Element()`, `Block((h, w))` or `NofM(n, m)`.
        criterion: `"magnitude"`, or a function from a weight to scores of its shape, registered
            with `keras.saving.register_keras_serializable` if the model is to be saved. Or one
            that trains sparse from the first step, with a schedule of constant sparsity whose
            `end_step` is the end of training: `"rigl"`, `"set"` or `"random"`
            (`sentei.sparsity.DynamicSparsity`). Or one that asks the gradients: `"snip"`, once,
            on the first batch (`sentei.sparsity.OneShot`), or `"movement"`
            (`sentei.sparsity.MovementPruning`).
        scope: `"layer"`: each weight reaches the sparsity; `"global"`: all of them together, by
            one threshold across layers.
        layers: which layers, and their own final sparsities: `None` (kernels of Dense,
            EinsumDense, convolutions and their transposes, pointwise kernels, embeddings,
            attention projections, recurrent layers; not biases, norms or depthwise kernels), a
            list of names (only these), `"xnnpack"` (only the 1x1 convolutions that XNNPACK will
            run sparse, and a dense layer that is large enough to tip the balance, for its weights
            count too: `sentei.diagnose`), a dict such as `{"conv_1": 0.5, r"block_.*": 0.9,
            "head": None}` (these their own way, all others by the schedule), or a function of
            the layer that returns a sparsity, True, or None. Names may be regular expressions. A
            layer with its own target follows the schedule's curve, scaled to it.
        distribution: how the sparsity is shared out among the layers without a target of their
            own: `"uniform"`, `"er"` or `"erk"` (`sentei.sparsity.distribute`).
        seed: of `"rigl"`, `"set"` and `"random"`.

    Returns:
        The same model.

    Raises:
        SenteiError: when the model is not built or not compiled, nothing in it can be pruned, a
            name fits no layer, a weight is pruned already or is not finite, or the schedule does
            not end where the pattern does.
    """
    require_compiled(model)
    rule = pruning(
        model,
        schedule,
        pattern=pattern,
        criterion=criterion,
        scope=scope,
        layers=layers,
        distribution=distribution,
        seed=seed,
    )
    _check_free(model, rule)
    attach(model, rule)
    if isinstance(rule, DynamicSparsity):
        rule.start()
    return model


def pruning(
    model: Any,
    schedule: Schedule,
    *,
    pattern: Pattern = Element(),  # noqa: B008  (frozen)
    criterion: str | Callable[[Any], Any] = "magnitude",
    scope: str = "layer",
    layers: Layers = None,
    distribution: str = "uniform",
    seed: int = 0,
) -> Pruning:
    """The rule that `prune` attaches, for `sentei.Projected` in a training loop of your own.

    Args:
        model: a built Keras model; it need not be compiled and is not changed. The optimizer must
            be built on `model.trainable_variables`.
        schedule: as in `prune`.
        pattern: as in `prune`.
        criterion: as in `prune`.
        scope: as in `prune`.
        layers: as in `prune`.
        distribution: as in `prune`.
        seed: as in `prune`.

    Returns:
        The rule.

    Raises:
        SenteiError: as `prune`, but for compiling.
    """
    require_built(model)
    _check_kind("schedule", schedule, Schedule, "ConstantSparsity(0.8)")
    _check_kind("pattern", pattern, Pattern, "Element()")
    if scope not in ("layer", "global"):
        raise SenteiError(f"`scope` must be 'layer' or 'global'. Received: scope={scope!r}.")
    if scope == "global" and isinstance(pattern, NofM):
        raise SenteiError(
            "NofM fixes the sparsity of every group, so one threshold across layers means "
            "nothing. Use scope='layer' with it."
        )
    selected, skipped = select(model, layers)
    if not selected:
        raise _nothing_prunable(model, skipped)
    if distribution != "uniform":
        selected = _distributed(selected, distribution, schedule, scope)
    weights = [_pruned(chosen, schedule, pattern, scope) for chosen in selected]
    variables = model.trainable_variables
    for pruned in weights:
        values = ops.convert_to_numpy(variables[pruned.weight.index]).astype("float32")
        if not np.isfinite(values).all():
            raise not_finite(pruned.weight.path)
    if isinstance(criterion, str) and criterion in SALIENCY:
        return SALIENCY[criterion](schedule, weights, pattern, criterion, scope)
    if not (isinstance(criterion, str) and criterion in GROWTH):
        return Pruning(schedule, weights, pattern, criterion, scope)
    if scope != "layer":
        raise SenteiError(
            f"criterion={criterion!r} keeps a fixed number of weights in each layer. "
            f"Use scope='layer' with it. Received: scope={scope!r}."
        )
    return DynamicSparsity(schedule, weights, pattern, criterion, seed=seed)


def _distributed(
    selected: list[Selected], distribution: str, schedule: Schedule, scope: str
) -> list[Selected]:
    """The weights without a target of their own get their share of the schedule's sparsity."""
    if scope != "layer":
        raise SenteiError(
            f"distribution={distribution!r} gives each layer its share, but scope='global' sets "
            "one threshold for all. Use scope='layer'."
        )
    free = [chosen.weight for chosen in selected if chosen.setting is None]
    shapes, axes = [weight.shape for weight in free], [weight.axes for weight in free]
    shares = dict(zip(free, distribute(distribution, shapes, axes, schedule.final), strict=True))
    return [replace(c, setting=shares.get(c.weight, c.setting)) for c in selected]


def _pruned(chosen: Selected, schedule: Schedule, pattern: Pattern, scope: str) -> PrunedWeight:
    weight = chosen.weight
    if chosen.setting is None:
        target = schedule.final
    elif scope == "global":
        raise SenteiError(
            f"`layers` gives {weight.layer!r} a sparsity of its own, but scope='global' sets one "
            "threshold for all. Use scope='layer', or None to leave the layer alone."
        )
    else:
        target = check_sparsity(f"layers[{weight.layer!r}]", chosen.setting)
    pattern.check_target(weight.path, target)
    return PrunedWeight(weight, target)


def _check_kind(name: str, value: Any, kind: type, example: str) -> None:
    if not isinstance(value, kind):
        raise SenteiError(
            f"`{name}` must be a sentei.sparsity.{kind.__name__}, such as {example}. "
            f"Received: {name}={value!r}."
        )


def _check_free(model: Any, rule: Pruning) -> None:
    projected = find(model)
    for other in projected.projections if projected is not None else ():
        if not isinstance(other, Pruning):
            continue
        for pruned in rule.weights:
            if pruned.weight.index in other.positions:
                raise SenteiError(
                    f"{pruned.weight.path} is being pruned already, by {other.schedule!r}. To "
                    "start again, call sentei.strip(model) first; to prune other layers by "
                    "another rule, name them in `layers`."
                )


def _nothing_prunable(model: Any, skipped: list[Skipped]) -> SenteiError:
    if not model.trainable_variables:
        return SenteiError(
            f"Model {model.name!r} has no trainable weights to prune. Set `trainable` on the "
            "layers to prune, then compile again."
        )
    listed = "; ".join(f"{s.weight.path} {s.weight.shape}: {s.reason}" for s in skipped[:8])
    return SenteiError(
        f"Nothing in model {model.name!r} is selected for pruning. Weights it has: "
        f"{listed or 'only biases and other vectors'}."
    )
