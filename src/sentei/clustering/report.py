"""How many values each weight holds, and what they cost: read off a model as it is now."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

from sentei.clustering.cluster import DECLARE
from sentei.clustering.rule import ClusteredWeight, Clustering
from sentei.core.install import find
from sentei.core.select import Weight, require_built, select


@dataclass(frozen=True)
class WeightReport:
    """One weight of a model.

    Attributes:
        path: names of the layers around it, and its own.
        shape: its shape.
        size: values in it.
        n: most distinct values its rule allows, or None when no rule is about it.
        per_channel: whether each output channel has values of its own.
        distinct: distinct values, measured in the variable; of the channel that has most, with
            `per_channel`.
        zeros: share of values that are exactly zero.
        entropy: bits a weight of an ideal code for which value it is (of its channel).
        error: what clustering changed when it came: root of the squared change over the squared
            weights; None without a rule.
        estimate: bytes of such a code and a float32 table of the values; never above 4 bytes a
            weight.
        note: why no rule is about it, or "".
    """

    path: str
    shape: tuple[int, ...]
    size: int
    n: int | None
    per_channel: bool
    distinct: int
    zeros: float
    entropy: float
    error: float | None
    estimate: int
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)


class ClusterReport(list[WeightReport]):
    """A list of `WeightReport` that prints as a table."""

    @property
    def bits(self) -> float:
        """Mean entropy, in bits a weight, over the weights that a rule is about (else all)."""
        rows = [row for row in self if row.n is not None] or list(self)
        size = sum(row.size for row in rows)
        return sum(row.entropy * row.size for row in rows) / size if size else 0.0

    def __str__(self) -> str:
        table = Table(title=f"{self.bits:.2f} bits a weight under a rule")
        for name in ("weight", "shape", "n", "distinct", "zeros", "bits", "error", "bytes"):
            table.add_column(name, justify="left" if name == "weight" else "right")
        table.add_column("note")
        for row in self:
            table.add_row(
                row.path,
                "x".join(map(str, row.shape)),
                "-" if row.n is None else f"{row.n}{' a channel' if row.per_channel else ''}",
                str(row.distinct),
                f"{row.zeros:.2%}",
                f"{row.entropy:.2f}",
                "-" if row.error is None else f"{row.error:.2%}",
                f"{row.estimate} / {4 * row.size}",
                row.note,
            )
        text = io.StringIO()
        Console(file=text, width=160).print(table)
        return text.getvalue()


def report(model: Any) -> ClusterReport:
    """The distinct values of every kernel of a model, measured, and what a file of them takes.

    Args:
        model: a built Keras model, with or without rules on its optimizer.

    Returns:
        A list of `WeightReport`, one a weight that is or could be clustered, in the model's order.

    Raises:
        SenteiError: when `model` is not a built Keras model, or a clustered weight is not finite.
    """
    require_built(model)
    projected = find(model)
    rules: list[Clustering] = []
    if projected is not None:
        projected.check()
        rules = [rule for rule in projected.projections if isinstance(rule, Clustering)]
    selected, skipped = select(model, declare=DECLARE)
    kernels: dict[int, tuple[ClusteredWeight | Weight, str, float | None]] = {
        s.weight.index: (s.weight, "", None) for s in selected
    }
    kernels |= {s.weight.index: (s.weight, s.reason, None) for s in skipped}
    reasons: dict[str, str] = {}
    for rule in rules:
        reasons |= dict(rule.skipped)
        errors = ops.convert_to_numpy(rule.errors)
        kernels |= {
            c.weight.index: (c, "", float(e)) for c, e in zip(rule.weights, errors, strict=True)
        }
    return ClusterReport(
        _row(model, about, note, error, reasons if rules else None)
        for _, (about, note, error) in sorted(kernels.items())
    )


def _row(
    model: Any,
    about: ClusteredWeight | Weight,
    note: str,
    error: float | None,
    reasons: dict[str, str] | None,
) -> WeightReport:
    held = isinstance(about, ClusteredWeight)
    clustered = about if isinstance(about, ClusteredWeight) else ClusteredWeight(about, 256)
    weight, groups = clustered.weight, clustered.groups
    values = ops.convert_to_numpy(model.trainable_variables[weight.index]).astype("float32")
    counts = [np.unique(row, return_counts=True)[1] for row in groups.rows(values)]
    size = math.prod(weight.shape)
    bits = sum(_code_length(row) for row in counts)
    if not held and reasons is not None:
        note = reasons.get(weight.path, note or "no rule")
    return WeightReport(
        path=weight.path,
        shape=weight.shape,
        size=size,
        n=clustered.n if held else None,
        per_channel=clustered.per_channel,
        distinct=max((len(row) for row in counts), default=0),
        zeros=1.0 - np.count_nonzero(values) / size if size else 0.0,
        entropy=bits / size if size else 0.0,
        error=error,
        estimate=min(math.ceil(bits / 8) + 4 * sum(map(len, counts)), 4 * size),
        note=note,
    )


def _code_length(counts: np.ndarray) -> float:
    """Bits that an ideal code takes for symbols that occur so often (Shannon 1948, theorem 9)."""
    total = counts.sum()
    return float(-(counts * np.log2(counts / total)).sum()) if total else 0.0
