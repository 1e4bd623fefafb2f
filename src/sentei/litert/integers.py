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
from sentei.litert import flatbuffer
from sentei.litert.exposed import exposed
from sentei.litert.precision import full_precision
from sentei.litert.requantized import halves_go_up, integers_of, second_shifts
from sentei.litert.runtime import Kernels, Runner
from sentei.litert.samples import Sample
from sentei.litert.signature import Signature
from sentei.quantization.grid import spread

# Which of the runtime's kernels are judged: those of phones and browsers, and those that
# microcontrollers' are held against.
_JUDGED: tuple[Kernels, ...] = ("xnnpack", "reference")
# The share of integers that are equal. The reference kernels of convolutions round twice, and are
# held against numbers that are rounded twice.
EXACT_SHARE = 0.999
# The same where the file rounds what operators with real numbers computed: their last bits are not
# Keras' (a sigmoid is a polynomial of another degree), a recurrence carries that on, and a number
# beside a tie is the other integer.
ROUNDED_SHARE = 0.95
# Operators whose kernels round in a way of their own: the largest difference in steps.
OWN_ROUNDING = {
    "AVERAGE_POOL_2D": 2,
    "ELU": 1,
    "EXP": 1,
    "GELU": 1,
    "HARD_SWISH": 1,
    "LEAKY_RELU": 2,
    "LOGISTIC": 1,
    "MEAN": 1,
    "RESIZE_BILINEAR": 1,
    "SOFTMAX": 1,
    "SUM": 1,
    "TANH": 1,
}
_LARGEST = 1
# Of 65,536 levels: the kernels interpolate between the entries of tables.
_WIDE = 4
_HALF = 0.5
# The same of the reference kernels alone: XNNPACK computes as the simulation does.
_REFERENCE_ROUNDING = ("ADD", "MUL", "SUB")


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
        allowed: How many steps a difference may have.
    """

    name: str
    operator: str
    kernels: str
    values: int
    largest: int
    exact: float
    promised: float
    allowed: int = 1

    @property
    def passed(self) -> bool:
        """Whether this is what is promised of the operator."""
        unequal = round((1.0 - self.exact) * self.values)
        return self.largest <= self.allowed and not_more(unequal, self.values, 1 - self.promised)


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
            raise ExportMismatch(
                f"{check.name!r} is the first tensor of the file that is not what was simulated: "
                f"fed with the same integers, {check.operator} ({check.kernels} kernels) differs "
                f"by up to {check.largest} steps, and {check.exact:.2%} of {check.values} integers "
                f"are equal (promised: {check.allowed} at most, at least {check.promised:.1%}). "
                "No file was written. Keep this layer float: layers={name: None}."
            )
    return checks


class _Tensors:
    """The integers that a file computes."""

    def __init__(self, content: bytes, kernels: Kernels) -> None:
        graph = flatbuffer.parse(content, "the file").subgraphs[0]
        self.kernels = kernels
        self.writers = {i: operator.name for operator in graph.operators for i in operator.outputs}
        self.grids: dict[int, tuple[float, int]] = {}
        for index, tensor in enumerate(graph.tensors):
            grid = tensor.quantization
            if tensor.buffer is None and grid is not None and grid.scale.size == 1:
                self.grids[index] = (float(np.float32(grid.scale[0])), int(grid.zero_point[0]))
        self.wide = {i for i, tensor in enumerate(graph.tensors) if tensor.dtype == "int16"}
        shown = [index for index in self.grids if index in self.writers]
        own = kernels == "xnnpack"
        self._runner = Runner(
            exposed(content, shown) if own else content, kernels=kernels, keep_tensors=not own
        )
        # By how many bits the kernels shift what they have rounded already; -1 where they do not.
        self.shifts: dict[int, np.ndarray] = {}
        # Which kernels then let halves go up: those of ruy, which has none for groups.
        self.upwards: frozenset[int] = frozenset()
        self.rounded: set[int] = set()
        for operator in graph.operators:
            read = operator.inputs[0]
            computed = read in self.writers and graph.tensors[read].dtype == "float32"
            if operator.name == "QUANTIZE" and computed:
                self.rounded.add(operator.outputs[0])
            shifts = second_shifts(operator, graph.tensors, kernels)
            if shifts is not None:
                self.shifts[operator.outputs[0]] = shifts
                if own and halves_go_up(operator, graph.tensors):
                    self.upwards |= {operator.outputs[0]}

    def promised(self, index: int) -> float:
        """The share of a tensor's integers that must be equal to the simulated ones."""
        operator = self.writers.get(index)
        free = operator in OWN_ROUNDING or index in self.wide
        if self.kernels == "reference":
            free = free or operator in _REFERENCE_ROUNDING
        return 0.0 if free else ROUNDED_SHARE if index in self.rounded else EXACT_SHARE

    def allowed(self, index: int) -> int:
        """How many steps a tensor's integers may differ by from the simulated ones."""
        steps = OWN_ROUNDING.get(self.writers.get(index, ""), _LARGEST)
        return steps * _WIDE if index in self.wide else steps

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[int, np.ndarray]:
        """The integers of one run, flat, by tensor."""
        self._runner.set(self._runner.match(inputs))
        self._runner.invoke()
        return {i: self._runner.tensor(i).astype(np.float32).ravel() for i in self.grids}


@dataclass
class _Tally:
    """What was counted at one call of a quantizer, per tensor of the file that it may be."""

    name: str
    candidates: list[int]
    values: int = 0
    largest: np.ndarray | float = 0.0
    unequal: np.ndarray | float = 0.0

    def add(self, size: int, largest: Any, unequal: Any, held: Any) -> None:
        """Counts one run, unless the file does not hold the tensor."""
        if not held:
            return
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
            promised=tensors.promised(chosen),
            allowed=tensors.allowed(chosen),
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
            counts = self._program(integers, list(sample), tensors.shifts, tensors.upwards)
            if not tallies:
                tallies = [_Tally(name, candidates) for name, candidates, _ in self._calls]
            for tally, (_, _, size), count in zip(tallies, self._calls, counts, strict=True):
                tally.add(size, *count)
        return [tally.verdict(tensors, kernels) for tally in tallies if tally.values]

    def _compiled(self) -> Callable[..., Any]:
        import jax

        return jax.jit(self._run, static_argnums=3)

    def _run(
        self,
        integers: dict[int, Any],
        sample: Sequence[Any],
        shifts: dict[int, Any],
        upwards: frozenset[int],
    ) -> list[Any]:
        """Runs the simulation; per call of a quantizer, the counts of each candidate."""
        self._calls = []
        counts: list[Any] = []

        def judged(x: Any, grid: Any, quantizer: Any, name: str, in_steps: bool = False) -> Any:
            steps, zero, scale = _in_steps(x, grid, in_steps)
            size = int(np.prod(x.shape))
            candidates = [
                index
                for index, key in self._grids.items()
                if key == _key(grid) and int(np.prod(integers[index].shape)) == size
            ]
            self._calls.append((name, candidates, size))
            rounded = ops.clip(ops.round(steps) + zero, grid.kind.low, grid.kind.high)
            if not candidates:
                counts.append((0.0, 0.0, False))
                return (rounded - zero) * scale
            theirs = ops.stack([ops.convert_to_tensor(integers[i]) for i in candidates])
            ours = [
                integers_of(steps, grid, shifts[i], i in upwards)
                if i in shifts and size % int(shifts[i].shape[0]) == 0
                else ops.reshape(rounded, (-1,))
                for i in candidates
            ]
            difference = ops.abs(theirs - ops.stack(ours))
            unequal = ops.sum(ops.cast(difference > _HALF, "float32"), axis=1)
            # The converter merges what only moves integers: a padding becomes a convolution's own,
            # two moves that undo each other vanish. What has the same grid then is another tensor.
            # A move gone wrong shows where its numbers are computed with.
            held = ops.min(unequal) < _HALF if quantizer.moved else True
            counts.append((ops.max(difference, axis=1), unequal, held))
            chosen = ops.take(theirs, ops.argmin(unequal), axis=0)
            chosen = ops.where(held, chosen, ops.reshape(rounded, (-1,)))
            return (ops.reshape(chosen, x.shape) - zero) * scale

        with _hooked(self._quantizers, judged), full_precision(self._model), _no_state():
            self._signature.call(self._model, [ops.convert_to_tensor(value) for value in sample])
        return counts


def _no_state() -> Any:
    """Takes up every assignment, so that no variable of the model moves."""
    return keras.StatelessScope()


@contextmanager
def _hooked(quantizers: Sequence[Any], hook: Callable[..., Any]) -> Iterator[None]:
    """Lets a function do the work of the quantizers: given tensor, grid, quantizer and name."""
    before = [quantizer.stand_in for quantizer in quantizers]
    try:
        for number, quantizer in enumerate(quantizers):
            name = getattr(quantizer, "label", "") or f"quantizer {number}"
            quantizer.stand_in = _bound(hook, quantizer, name)
        yield
    finally:
        for quantizer, stand_in in zip(quantizers, before, strict=True):
            quantizer.stand_in = stand_in


def _bound(hook: Callable[..., Any], quantizer: Any, name: str) -> Callable[..., Any]:
    return lambda x, grid, in_steps=False: hook(x, grid, quantizer, name, in_steps)


def _key(grid: Any) -> tuple[float, int] | None:
    scale, zero = np.ravel(grid.scale), np.ravel(grid.zero_point)
    return (float(np.float32(scale[0])), int(zero[0])) if scale.size == 1 else None


def _in_steps(x: Any, grid: Any, already: bool) -> tuple[Any, Any, Any]:
    """A tensor in steps from its zero point, not rounded; that zero point, and the step."""
    # As tensors: PyTorch reads `tensor * array` as arithmetic of arrays.
    zero, scale, inverse = (
        ops.convert_to_tensor(spread(values, tuple(x.shape), grid.kind, np), "float32")
        for values in (grid.zero_point, grid.scale, np.float32(1.0) / grid.scale)
    )
    return (x if already else x * inverse), zero, scale
