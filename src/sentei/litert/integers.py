"""Holding a quantized file against the simulation it was trained in, tensor by tensor.

The simulation is run once more, and at each quantizer it goes on with the integers that the *file*
computed there instead of its own. So every operator of the file is judged by itself, on the very
integers it was given, and no difference is carried along.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from sentei.core.errors import ExportMismatch
from sentei.litert.flatmodel import Operator, Tensor
from sentei.litert.precision import full_precision
from sentei.litert.runtime import Kernels, Runner
from sentei.litert.samples import Sample
from sentei.litert.signature import Signature
from sentei.quantization.grid import spread

# Which of the runtime's kernels are judged. XNNPACK keeps its inner tensors to itself: the outputs
# it gives are compared instead (see `verify`).
_JUDGED: tuple[Kernels, ...] = ("reference", "builtin")
# The reference kernels round twice, which moves one integer in some hundreds.
EXACT_SHARE = {"builtin": 0.999, "reference": 0.99}
# Operators whose kernels round in a way of their own: the largest difference in steps.
OWN_ROUNDING = {
    "AVERAGE_POOL_2D": 2,
    "ELU": 1,
    "EXP": 1,
    "GELU": 1,
    "HARD_SWISH": 1,
    "LEAKY_RELU": 1,
    "LOGISTIC": 1,
    "MEAN": 1,
    "RESIZE_BILINEAR": 1,
    "SOFTMAX": 1,
    "SUM": 1,
    "TANH": 1,
}
_LARGEST = 1
_WITH_BIAS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")


@dataclass(frozen=True)
class TensorCheck:
    """One quantized tensor of a file against the simulation fed with the same integers.

    Attributes:
        name: The quantizer's name.
        operator: The operator of the file that writes the tensor.
        kernels: Which of the runtime's kernels ran.
        values: How many integers were compared.
        largest: The largest difference, in steps of the grid.
        exact: The share of the integers that are equal.
        promised: The share that must be equal.
    """

    name: str
    operator: str
    kernels: str
    values: int
    largest: int
    exact: float
    promised: float

    @property
    def passed(self) -> bool:
        """Whether this is what is promised of the operator."""
        limit = OWN_ROUNDING.get(self.operator, _LARGEST)
        unequal = round((1.0 - self.exact) * self.values)
        return self.largest <= limit and not_more(unequal, self.values, 1 - self.promised)


def not_more(events: int, trials: int, share: float) -> bool:
    """Whether a count is within three standard deviations of a share of few trials, or below.

    Args:
        events: How often it happened.
        trials: Out of how many.
        share: How often it may happen on average.
    """
    expected = share * trials
    return events <= expected + 3.0 * expected**0.5 + 1.0


def check_integers(
    model: Any,
    quantizers: Sequence[Any],
    content: bytes,
    signature: Signature,
    samples: Sequence[Sample],
) -> list[TensorCheck]:
    """Runs file and simulation side by side and compares the integers of every activation.

    Args:
        model: The quantized model, on any backend.
        quantizers: Its quantizers.
        content: The file.
        signature: What both are called with, with a fixed batch size.
        samples: What to run them on.

    Returns:
        One entry per quantized activation and kind of kernels, in the order of the simulation.

    Raises:
        ExportMismatch: A tensor differs by more than is promised; it names the first such layer.
    """
    checks = []
    judge = _Judge(model, quantizers, signature)
    for kernels in _JUDGED:
        checks += judge.compare(_Tensors(content, kernels), kernels, samples)
    for check in checks:
        if not check.passed:
            limit = OWN_ROUNDING.get(check.operator, _LARGEST)
            raise ExportMismatch(
                f"{check.name!r} is the first tensor of the file that is not what was simulated: "
                f"fed with the same integers, {check.operator} ({check.kernels} kernels) differs "
                f"by up to {check.largest} steps, and {check.exact:.2%} of {check.values} integers "
                f"are equal (at most {limit} and at least {check.promised:.1%} are promised). No "
                "file was written. Keep this layer float: layers={name: None}."
            )
    return checks


class _Tensors:
    """The integers that a file computes."""

    def __init__(self, content: bytes, kernels: Kernels) -> None:
        self._runner = Runner(content, kernels=kernels, keep_tensors=True)
        graph = self._runner.model.subgraphs[0]
        self.writers = {i: operator.name for operator in graph.operators for i in operator.outputs}
        self.promises = {
            index: _promised(operator, graph.tensors, kernels)
            for operator in graph.operators
            for index in operator.outputs
        }
        self.grids: dict[int, tuple[float, int]] = {}
        for index, tensor in enumerate(graph.tensors):
            grid = tensor.quantization
            if tensor.buffer is None and grid is not None and grid.scale.size == 1:
                self.grids[index] = (float(np.float32(grid.scale[0])), int(grid.zero_point[0]))

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        """The integers of one run, flat, by tensor."""
        self._runner.set(self._runner.match(inputs))
        self._runner.invoke()
        return {i: self._runner.tensor(i).astype(np.float32).ravel() for i in self.grids}


def _promised(operator: Operator, tensors: Sequence[Tensor], kernels: Kernels) -> float:
    """The share of an operator's integers that must be equal to the simulated ones.

    A bias is int32 on the grid of the products, `s_in * s_w`, and float in the simulation. Its
    rounding moves the sums of a channel by up to half of that, hence as large a share of its
    outputs of step `s_out` as `s_in * s_w / (2 s_out)`. It counts where few products make a sum.
    """
    if operator.name in OWN_ROUNDING or tensors[operator.outputs[0]].dtype == "int16":
        return 0.0
    share = EXACT_SHARE[kernels]
    if operator.name in _WITH_BIAS and len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        indices = (*operator.inputs[:2], operator.outputs[0])
        image, kernel, output = (tensors[index].quantization for index in indices)
        if image is not None and kernel is not None and output is not None:
            step = image.scale[0] * kernel.scale / output.scale[0]
            channels = max(tensors[operator.outputs[0]].shape[-1], 1)
            moved = float(np.sum(np.minimum(step, 1.0))) / 2 * (channels / step.size)
            # A channel that hardly varies falls on one side as a whole: channels are counted.
            share -= min((moved + 3.0 * moved**0.5 + 1) / channels, max(moved / channels, 0.005))
    return max(share, 0.0)


@dataclass
class _Tally:
    """What was counted at one call of a quantizer, per tensor of the file that it may be."""

    name: str
    candidates: list[int]
    values: int = 0
    largest: np.ndarray | float = 0.0
    unequal: np.ndarray | float = 0.0

    def add(self, size: int, largest: Any, unequal: Any) -> None:
        """Counts one run."""
        self.values += size
        self.largest = np.maximum(self.largest, ops.convert_to_numpy(largest))
        self.unequal = self.unequal + ops.convert_to_numpy(unequal)

    def verdict(self, tensors: _Tensors, kernels: str) -> TensorCheck:
        """The verdict on the candidate that fits best."""
        largest, unequal = np.atleast_1d(self.largest), np.atleast_1d(self.unequal)
        best = int(np.lexsort((largest, unequal))[0])
        chosen = self.candidates[best]
        return TensorCheck(
            name=self.name,
            operator=tensors.writers.get(chosen, "input"),
            kernels=kernels,
            values=self.values,
            largest=round(float(largest[best])),
            exact=1.0 - float(unequal[best]) / self.values,
            promised=tensors.promises.get(chosen, EXACT_SHARE["builtin"]),
        )


class _Judge:
    """The simulation, going on with the file's integers at each quantizer."""

    def __init__(self, model: Any, quantizers: Sequence[Any], signature: Signature) -> None:
        self._model, self._quantizers, self._signature = model, quantizers, signature
        self._grids: dict[int, tuple[float, int]] = {}
        self._calls: list[tuple[str, list[int], int]] = []
        self._program = self._compiled() if keras.backend.backend() == "jax" else self._run

    def compare(
        self, tensors: _Tensors, kernels: str, samples: Sequence[Sample]
    ) -> list[TensorCheck]:
        """Runs both on samples: the verdict on each quantized tensor that the file has."""
        self._grids = tensors.grids
        names = [spec.name for spec in self._signature.inputs]
        tallies: list[_Tally] = []
        for sample in samples:
            integers = tensors.run(dict(zip(names, sample, strict=True)))
            counts = self._program(integers, list(sample))
            if not tallies:
                tallies = [_Tally(name, candidates) for name, candidates, _ in self._calls]
            for tally, (_, _, size), count in zip(tallies, self._calls, counts, strict=True):
                if tally.candidates:
                    tally.add(size, *count)
        return [tally.verdict(tensors, kernels) for tally in tallies if tally.candidates]

    def _compiled(self) -> Callable[..., Any]:
        import jax

        return jax.jit(self._run)

    def _run(self, integers: dict[int, Any], sample: Sequence[Any]) -> list[Any]:
        """Runs the simulation; per call of a quantizer, the counts of each candidate."""
        self._calls = []
        counts: list[Any] = []

        def judged(x: Any, grid: Any, name: str) -> Any:
            size = int(np.prod(x.shape))
            candidates = [
                index
                for index, key in self._grids.items()
                if key == _key(grid) and int(np.prod(integers[index].shape)) == size
            ]
            self._calls.append((name, candidates, size))
            rounded, dequantized = _rounded(x, grid)
            if not candidates:
                counts.append((0.0, 0.0))
                return dequantized(rounded)
            theirs = ops.stack([ops.convert_to_tensor(integers[i]) for i in candidates])
            difference = ops.abs(theirs - ops.reshape(rounded, (1, -1)))
            unequal = ops.sum(ops.cast(difference > 0.5, "float32"), axis=1)
            counts.append((ops.max(difference, axis=1), unequal))
            chosen = ops.take(theirs, ops.argmin(unequal), axis=0)
            return dequantized(ops.reshape(chosen, x.shape))

        with _hooked(self._quantizers, judged), full_precision(self._model), _no_state():
            self._signature.call(self._model, [ops.convert_to_tensor(value) for value in sample])
        return counts


def _no_state() -> Any:
    """Takes up every assignment, so that no variable of the model moves."""
    return keras.StatelessScope()


@contextmanager
def _hooked(quantizers: Sequence[Any], hook: Callable[[Any, Any, str], Any]) -> Iterator[None]:
    """Lets a function do the work of the quantizers: it is given tensor, grid and name."""
    before = [quantizer.emit for quantizer in quantizers]
    try:
        for number, quantizer in enumerate(quantizers):
            name = getattr(quantizer, "label", "") or f"quantizer {number}"
            quantizer.emit = _named(hook, name)
        yield
    finally:
        for quantizer, emit in zip(quantizers, before, strict=True):
            quantizer.emit = emit


def _named(hook: Callable[[Any, Any, str], Any], name: str) -> Callable[[Any, Any], Any]:
    return lambda x, grid: hook(x, grid, name)


def _key(grid: Any) -> tuple[float, int] | None:
    scale, zero = np.ravel(grid.scale), np.ravel(grid.zero_point)
    return (float(np.float32(scale[0])), int(zero[0])) if scale.size == 1 else None


def _rounded(x: Any, grid: Any) -> tuple[Any, Callable[[Any], Any]]:
    """A tensor's integers by its grid, and how such integers become real numbers again."""
    kind = grid.kind
    # As tensors: PyTorch reads `tensor / array` as arithmetic of arrays.
    scale, zero = (
        ops.convert_to_tensor(spread(values, tuple(x.shape), kind, np), "float32")
        for values in (grid.scale, grid.zero_point)
    )
    integers = ops.clip(ops.round(x / scale) + zero, kind.low, kind.high)
    return integers, lambda integers: (integers - zero) * scale
