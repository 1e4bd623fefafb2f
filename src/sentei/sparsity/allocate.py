"""How sparse each layer should be, so that all of them together are as sparse as asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence

from sentei.core.errors import SenteiError
from sentei.core.select import Axes

DISTRIBUTIONS = ("uniform", "er", "erk")


def distribute(
    distribution: str, shapes: Sequence[tuple[int, ...]], axes: Sequence[Axes], sparsity: float
) -> list[float]:
    """The sparsity of each layer.

    - `"uniform"`: the same everywhere;
    - `"er"`, Erdős–Rényi (Mocanu et al. 2018, arXiv:1707.04780): a density proportional to
      `(in + out) / (in * out)`, so that small layers stay denser;
    - `"erk"`, Erdős–Rényi kernel (Evci et al. 2020, arXiv:1911.11134, section 3): the same with the
      sizes of the kernel, `(in + out + h + w) / (in * out * h * w)`.

    A layer whose density would pass 1 is dense, and the others make up for it.

    Args:
        distribution: one of the three.
        shapes: the weights' shapes.
        axes: what their axes mean.
        sparsity: share of zeros over all of them, in [0, 1).

    Returns:
        A share of zeros for each weight, in [0, 1).

    Raises:
        SenteiError: for an unknown distribution.
    """
    if distribution not in DISTRIBUTIONS:
        raise SenteiError(
            f"`distribution` must be one of {', '.join(map(repr, DISTRIBUTIONS))}. "
            f"Received: distribution={distribution!r}."
        )
    if distribution == "uniform":
        return [sparsity] * len(shapes)
    sizes = [math.prod(shape) for shape in shapes]
    raw = [
        _raw_density(shape, meaning, kernel=distribution == "erk")
        for shape, meaning in zip(shapes, axes, strict=True)
    ]
    dense: set[int] = set()
    while True:
        others = [i for i in range(len(sizes)) if i not in dense]
        wanted = (1.0 - sparsity) * sum(sizes) - sum(sizes[i] for i in dense)
        scale = wanted / sum(raw[i] * sizes[i] for i in others) if others else 0.0
        over = {i for i in others if scale * raw[i] >= 1.0}
        if not over:
            return [0.0 if i in dense else 1.0 - scale * raw[i] for i in range(len(sizes))]
        dense |= over


def _raw_density(shape: tuple[int, ...], axes: Axes, *, kernel: bool) -> float:
    inputs, outputs = (math.prod(shape[a] for a in part) for part in (axes.input, axes.output))
    window = [shape[a] for a in axes.position]
    if not kernel:
        return (inputs + outputs) / (inputs * outputs)
    return (inputs + outputs + sum(window)) / (inputs * outputs * math.prod(window))
