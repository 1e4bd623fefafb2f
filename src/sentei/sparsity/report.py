"""What is pruned, how far, and what is not: read off a model as it is now."""

from __future__ import annotations

import io
import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from keras import ops
from rich.console import Console
from rich.table import Table

from sentei.core.install import find
from sentei.core.project import Projected
from sentei.core.select import require_built, select
from sentei.sparsity.rule import Pruning


@dataclass(frozen=True)
class WeightReport:
    """One weight of a model.

    Attributes:
        path: names of the layers around it, and its own.
        shape: its shape.
        size: values in it.
        nonzeros: values that are not exactly zero.
        sparsity: share of zeros, measured in the variable.
        pattern: the pattern it is pruned in, or None when no rule is about it.
        scheduled: the sparsity its schedule asks for now (share of the pattern's units), or None.
        target: the sparsity at which its schedule ends, or None.
        note: why no rule is about it, or "".
    """

    path: str
    shape: tuple[int, ...]
    size: int
    nonzeros: int
    sparsity: float
    pattern: str | None = None
    scheduled: float | None = None
    target: float | None = None
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)


class SparsityReport(list[WeightReport]):
    """A list of `WeightReport` that prints as a table."""

    @property
    def sparsity(self) -> float:
        """Share of zeros over all weights that a rule is about (over all, when there is none)."""
        rows = [row for row in self if row.pattern is not None] or list(self)
        size = sum(row.size for row in rows)
        return 1.0 - sum(row.nonzeros for row in rows) / size if size else 0.0

    def __str__(self) -> str:
        table = Table(title=f"sparsity {self.sparsity:.2%} of the weights under a rule")
        for name in ("weight", "shape", "pattern", "sparsity", "scheduled", "target", "non-zeros"):
            table.add_column(name, justify="left" if name in ("weight", "pattern") else "right")
        table.add_column("note")
        for row in self:
            table.add_row(
                row.path,
                "x".join(map(str, row.shape)),
                row.pattern or "-",
                f"{row.sparsity:.2%}",
                _percent(row.scheduled),
                _percent(row.target),
                f"{row.nonzeros} / {row.size}",
                row.note,
            )
        text = io.StringIO()
        Console(file=text, width=160).print(table)
        return text.getvalue()


def report(model: Any) -> SparsityReport:
    """The sparsity of every kernel of a model, measured, beside what its rule asks for.

    Args:
        model: a built Keras model, with or without rules on its optimizer.

    Returns:
        A list of `WeightReport`, one a weight that is or could be pruned, in the model's order.

    Raises:
        SenteiError: when `model` is not a built Keras model, or a pruned weight is not finite.
    """
    require_built(model)
    projected = find(model)
    rules: list[Pruning] = []
    if projected is not None:
        projected.check()
        rules = [rule for rule in projected.projections if isinstance(rule, Pruning)]
    selected, skipped = select(model)
    kernels = {s.weight.index: (s.weight, "") for s in selected}
    kernels |= {s.weight.index: (s.weight, s.reason) for s in skipped}
    for rule in rules:
        kernels |= {p.weight.index: (p.weight, "") for p in rule.weights}
    return SparsityReport(
        _row(model, weight, note, rules, projected) for _, (weight, note) in sorted(kernels.items())
    )


def _row(
    model: Any, weight: Any, note: str, rules: list[Pruning], projected: Projected | None
) -> WeightReport:
    variable = model.trainable_variables[weight.index]
    nonzeros = int(np.count_nonzero(ops.convert_to_numpy(variable)))
    size = math.prod(weight.shape)
    measured = {
        "path": weight.path,
        "shape": weight.shape,
        "size": size,
        "nonzeros": nonzeros,
        "sparsity": 1.0 - nonzeros / size if size else 0.0,
    }
    for rule in rules:
        for pruned in rule.weights:
            if pruned.weight.index == weight.index and projected is not None:
                step = rule.steps_taken(projected.iterations)
                return WeightReport(
                    **measured,
                    pattern=repr(rule.pattern),
                    scheduled=rule.sparsity_at(pruned, step) if step > 0 else 0.0,
                    target=pruned.target,
                )
    return WeightReport(**measured, note=note or ("no rule" if rules else ""))


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
