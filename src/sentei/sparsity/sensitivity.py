"""How much a model's outputs suffer from zeros in each layer, and the shares that follow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.divergence import divergence
from sentei.core.errors import SenteiError
from sentei.core.samples import batches, told
from sentei.core.schedule import check_sparsity
from sentei.core.select import Layers, Selected, Weight, require_built, select
from sentei.sparsity.balance import MOST, balance
from sentei.sparsity.patterns import Element
from sentei.sparsity.rule import not_finite
from sentei.sparsity.scores import magnitude
from sentei.sparsity.uses import uses_of

Distance = Callable[[np.ndarray, np.ndarray], float]
LEVELS = (0.5, 0.7, 0.85, 0.95)


@dataclass(frozen=True)
class Tried:
    """What zeros in one weight do to a model.

    Attributes:
        path: the weight's, as `layers` takes it.
        size: its elements.
        uses: how many times a sample multiplies with each of them; None where that is not known.
        harm: how far the outputs then are from those without, for each level.
    """

    path: str
    size: int
    uses: float | None
    harm: tuple[float, ...]


@dataclass(frozen=True)
class Sensitivity:
    """What zeros in each weight do to a model, and the shares of zeros that follow.

    Attributes:
        levels: shares of zeros that were tried, ascending.
        weights: what they do, in the model's order.
        others: paths of the weights that were not selected.
    """

    levels: tuple[float, ...]
    weights: tuple[Tried, ...]
    others: tuple[str, ...] = ()

    def allocate(
        self, sparsity: float, *, multiplications: float | None = None, least: float = 0.0
    ) -> dict[str, float | None]:
        """Each weight's own sparsity, such that the outputs suffer least from all together.

        That may leave those dense that take the most time, small kernels on large images:
        `multiplications` says how many of the multiplications have to go as well, and a price on
        them that is just high enough sees to it (`sentei.sparsity.balance`).

        Args:
            sparsity: share of zeros over all selected weights, in [0, 0.98]. No weight is made
                sparser than that.
            multiplications: share of the multiplications with them that falls away, at least;
                None: as it comes. With the same sparsity everywhere it would be that sparsity.
            least: share of zeros in each weight, at least. A runtime's sparse kernels are slower
                than its dense ones where there are hardly any zeros.

        Returns:
            For `layers` of `sentei.prune`: the sparsity of each selected weight, None for others.

        Raises:
            SenteiError: when so many multiplications cannot fall away, or it is not known how
                often a weight is used (recurrent and custom layers).
        """
        check_sparsity("sparsity", sparsity)
        if check_sparsity("least", least) > sparsity:
            raise SenteiError(
                f"`least` must not be more than all have together. Received: least={least!r}, "
                f"sparsity={sparsity!r}."
            )
        if sparsity > MOST:
            raise SenteiError(
                f"No weight is made sparser than {MOST:.0%} here, so all together cannot be. "
                f"Received: sparsity={sparsity!r}. Give `layers` shares of your own instead."
            )
        uses = [tried.uses for tried in self.weights]
        if multiplications is None:
            uses = [0.0] * len(uses)
        else:
            check_sparsity("multiplications", multiplications)
        if None in uses:
            raise SenteiError(
                f"How often a sample uses {self.weights[uses.index(None)].path} is not known "
                "(recurrent and custom layers do not tell). Leave it out of the scan by `layers`, "
                "or leave out `multiplications`."
            )
        shares = balance(
            np.array([tried.size for tried in self.weights], float),
            np.array(uses, float),
            np.array(self.levels),
            np.array([tried.harm for tried in self.weights]),
            sparsity,
            multiplications or 0.0,
            least,
        )
        chosen = zip((tried.path for tried in self.weights), map(float, shares), strict=True)
        return dict.fromkeys(self.others) | dict(chosen)

    def __str__(self) -> str:
        """A table: a row for each weight, a column for each level."""
        width = max(len(tried.path) for tried in self.weights)
        lines = [" ".join([" " * width, *(f"{level:>9.0%}" for level in self.levels)])]
        for tried in self.weights:
            lines.append(" ".join([f"{tried.path:<{width}}", *(f"{h:9.3g}" for h in tried.harm)]))
        return "\n".join(lines)


def sensitivity(
    model: Any,
    samples: Any,
    *,
    layers: Layers = None,
    levels: Sequence[float] = LEVELS,
    distance: Distance = divergence,
    batch_size: int = 64,
    progress: bool | None = None,
) -> Sensitivity:
    """Prunes one weight at a time, sees how much the outputs change, and puts it back.

    The scan by which Han et al. 2015 (arXiv:1506.02626, figure 6) choose how sparse each layer is
    to be; nothing is trained. `sentei.prune(model, schedule, layers=scan.allocate(0.8))` then puts
    zeros where they hurt least. The model is called once for each weight and level.

    Args:
        model: a built Keras model; it is left as it was.
        samples: what it is fed with: an array, a dict of arrays, a list of arrays (one per input),
            or batches (`PyDataset`, generator, `tf.data.Dataset`, `DataLoader`). A few hundred
            will do; no labels are needed.
        layers: which weights, as for `sentei.prune`, without a sparsity of their own: names,
            `"xnnpack"`, ...
        levels: shares of zeros to try, in (0, 1), ascending.
        distance: how far outputs are from what they were, of two arrays of one output (all
            samples). By default the Kullback-Leibler divergence where they are `(samples,
            classes)`, probabilities or logits, and for others the squared difference over the
            variance; give your own where that is not what matters, such as classes of pixels.
        batch_size: samples at a time.
        progress: whether to count on a terminal; None: if there is one.

    Returns:
        What was seen.

    Raises:
        SenteiError: when the model is not built, nothing in it is selected, `layers` gives a
            sparsity, a weight is not finite, or the samples do not fit.
    """
    levels = _checked_levels(levels)
    require_built(model)
    selected, skipped = select(model, layers)
    if not selected:
        raise SenteiError(
            f"Nothing in model {model.name!r} is selected, so there is nothing to try. Name "
            "layers with kernels in `layers`."
        )
    _refuse_settings(selected)
    fed = list(batches(model, samples, batch_size))
    if not fed:
        raise SenteiError("The samples are empty. Give at least one batch.")
    weights = [(each.weight, model.trainable_variables[each.weight.index]) for each in selected]
    uses = uses_of(model, weights, fed[0])
    expected = _outputs(model, fed)
    seen_so_far = []
    for weight, variable in told(weights, "sensitivity", progress, each="weight"):
        before = np.asarray(ops.convert_to_numpy(variable))
        if not np.isfinite(before.astype("float32")).all():
            raise not_finite(weight.path)
        try:
            harm = []
            for level in levels:
                variable.assign(_pruned(before, weight, level))
                harm.append(sum(map(distance, expected, _outputs(model, fed))))
        finally:
            variable.assign(before)
        seen_so_far.append(Tried(weight.path, before.size, uses[weight.index], tuple(harm)))
    return Sensitivity(levels, tuple(seen_so_far), tuple(each.weight.path for each in skipped))


def _refuse_settings(selected: Sequence[Selected]) -> None:
    for chosen in selected:
        if chosen.setting is not None:
            raise SenteiError(
                f"`layers` gives {chosen.weight.layer!r} the sparsity {chosen.setting!r}, which is "
                "what is to be found here. Name layers only, or give None to leave one alone."
            )


def _outputs(model: Any, fed: Sequence[Any]) -> list[np.ndarray]:
    """What the model says to all batches, one array for each of its outputs."""
    found = [keras.tree.flatten(model.predict_on_batch(batch)) for batch in fed]
    return [np.concatenate(parts) for parts in zip(*found, strict=True)]


def _pruned(values: np.ndarray, weight: Weight, level: float) -> np.ndarray:
    """The values that `sentei.prune` would leave by default, zero elsewhere."""
    pattern = Element()
    keep = pattern.kept_units(weight.shape, weight.axes, level)
    mask = pattern.mask(magnitude(ops.convert_to_tensor(values)), weight.axes, keep)
    return np.where(ops.convert_to_numpy(mask), values, values.dtype.type(0))


def _checked_levels(levels: Sequence[float]) -> tuple[float, ...]:
    for level in levels:
        check_sparsity("levels", level)
    if not levels or sorted(set(levels)) != list(levels) or levels[0] == 0:
        raise SenteiError(
            f"`levels` must be shares of zeros above 0, ascending. Received: levels={levels!r}."
        )
    return tuple(levels)
