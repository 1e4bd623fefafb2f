"""Exporting a quantized model: what its file is held against, and what the report says of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from sentei.core.errors import ExportMismatch
from sentei.litert.flatmodel import FlatModel
from sentei.litert.integers import TensorCheck, check_integers, not_more
from sentei.litert.runtime import Runner
from sentei.litert.samples import Sample
from sentei.litert.signature import Signature
from sentei.litert.verify import Outputs

# On how many samples the tensors are compared one by one; the outputs are on all.
_INSPECTED = 8
_AGREEMENT = 0.995
_STEPS = 2
# Of an output that is left in real numbers.
_RELATIVE = 0.02
_CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class Census:
    """What a quantized file's operators compute with.

    Attributes:
        integer: How many compute with integers.
        floating: How many compute with real numbers, by name.
        conversions: How many convert between the two, or between two grids.
    """

    integer: int
    floating: dict[str, int]
    conversions: int


@dataclass(frozen=True)
class IntegerCheck:
    """How far a quantized file is from the simulation.

    Attributes:
        census: What its operators compute with.
        tensors: The quantized activations, one by one.
        agreement: The share of predictions that agree: the largest class is the same, or every
            value is within 2 steps.
        predictions: How many there were.
    """

    census: Census
    tensors: tuple[TensorCheck, ...]
    agreement: float
    predictions: int

    def to_dict(self) -> dict[str, Any]:
        """The check as JSON-ready data."""
        return asdict(self)

    def table(self) -> str:
        """The tensors, one a line: name, operator, kernels, equal share, largest difference."""
        rows = [("tensor", "operator", "kernels", "equal", "steps")]
        rows += [
            (c.name, c.operator, c.kernels, f"{c.exact:.3%}", str(c.largest)) for c in self.tensors
        ]
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        return "\n".join(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )

    def __str__(self) -> str:
        floating = ", ".join(f"{n} {name}" for name, n in sorted(self.census.floating.items()))
        worst = max((check.largest for check in self.tensors), default=0)
        values = sum(check.values for check in self.tensors)
        equal = sum(check.exact * check.values for check in self.tensors) / max(values, 1)
        return (
            f"{self.census.integer} integer operators, {floating or 'no float ones'}; of "
            f"{values:,} integers {equal:.3%} are as simulated, the others within {worst}; "
            f"{self.agreement:.1%} of {self.predictions} predictions agree"
        )


def take_census(model: FlatModel) -> Census:
    """Counts a file's operators by what they compute with.

    Args:
        model: The file.
    """
    floating: dict[str, int] = {}
    integer = conversions = 0
    for graph in model.subgraphs:
        for operator in graph.operators:
            written = [graph.tensors[i].dtype for i in operator.outputs]
            if operator.name in _CONVERSIONS:
                conversions += 1
            elif any(dtype.startswith("float") for dtype in written):
                floating[operator.name] = floating.get(operator.name, 0) + 1
            else:
                integer += 1
    return Census(integer, floating, conversions)


def check_quantized(
    model: Any,
    quantizers: Sequence[Any],
    content: bytes,
    runner: Runner,
    trials: Sequence[tuple[Signature, Sequence[Sample]]],
    expected: Sequence[Sequence[Outputs]],
) -> IntegerCheck:
    """Holds a quantized file against the simulation, tensor by tensor and at its outputs.

    Args:
        model: The quantized model.
        quantizers: Its quantizers.
        content: The file.
        runner: The file, ready to run as on devices.
        trials: Samples by the signature they are for.
        expected: What the simulation predicts for each.

    Returns:
        How far they differ.

    Raises:
        ExportMismatch: A tensor or the predictions differ by more than is promised.
    """
    tensors: list[TensorCheck] = []
    for signature, samples in trials:
        tensors += check_integers(model, quantizers, content, signature, samples[:_INSPECTED])
    agreeing = total = 0
    scales = _output_scales(runner)
    for (signature, samples), outputs in zip(trials, expected, strict=True):
        names = [spec.name for spec in signature.inputs]
        for sample, want in zip(samples, outputs, strict=True):
            have = runner(dict(zip(names, sample, strict=True)))
            for name, value in want.items():
                same = _agreeing(value, have[name], scales[name])
                agreeing, total = agreeing + int(same.sum()), total + same.size
    if not not_more(total - agreeing, total, 1 - _AGREEMENT):
        raise ExportMismatch(
            f"Only {agreeing / total:.1%} of {total} predictions of the file agree with the "
            f"simulation of model {model.name!r} (at least {_AGREEMENT:.1%} are promised), though "
            "each operator by itself does. No file was written. If random numbers are no fit "
            "input for this model, pass your own: verify=x[:200]."
        )
    return IntegerCheck(take_census(runner.model), tuple(tensors), agreeing / total, total)


def _output_scales(runner: Runner) -> dict[str, float | None]:
    """The steps of the outputs' grids, also of those that the file turns into real numbers."""
    graph = runner.model.subgraphs[0]
    behind = {op.outputs[0]: op.inputs[0] for op in graph.operators if op.name == "DEQUANTIZE"}
    scales: dict[str, float | None] = {}
    for name, port in runner.outputs.items():
        grid = graph.tensors[behind.get(port.index, port.index)].quantization
        scales[name] = None if grid is None else float(grid.scale[0])
    return scales


def _agreeing(want: np.ndarray, have: np.ndarray, scale: float | None) -> np.ndarray:
    """Which rows of the last axis agree."""
    want, have = np.atleast_2d(want.astype(np.float64)), np.atleast_2d(have.astype(np.float64))
    allowed = _RELATIVE * np.max(np.abs(want), initial=0.0) if scale is None else _STEPS * scale
    close = np.max(np.abs(want - have), axis=-1) <= allowed + 1e-6
    if want.shape[-1] < 2:
        return close
    # Integers often tie: any of the largest will do.
    chosen = np.take_along_axis(want, have.argmax(-1)[..., None], -1)[..., 0]
    return close | (chosen >= want.max(-1))
