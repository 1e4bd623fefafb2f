"""`sentei.compress`: the smallest file whose predictions are good enough, without training."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import keras
import numpy as np

from sentei.codec import pack, unpack
from sentei.compression.curvature import Statistics, batches_of
from sentei.compression.layers import Matrix, matrices_of, round_biases
from sentei.compression.scoring import Judge, Score
from sentei.core.errors import SenteiError
from sentei.core.files import replaced
from sentei.core.select import require_built
from sentei.litert.export import export
from sentei.litert.runtime import Runner
from sentei.quantization import Custom, quantize

Effort = Literal["fast", "max"]

# Samples that curvature is measured on, in batches of so many.
_CURVATURE_SAMPLES, _BATCH = {"fast": 256, "max": 1024}, 128
# The first price of a bit in divergence, the bounds, and how close prices get.
_FIRST, _LEAST, _MOST = 1e-6, 1e-9, 1e-1
_STRIDE, _CLOSENESS = 4.0, {"fast": 1.4, "max": 1.15}


@dataclass(frozen=True)
class Candidate:
    """One rounding of the model, measured on its file.

    Attributes:
        price: What a bit was worth.
        bytes: Of the packed file.
        score: Of what the file predicts.
        drop: How much worse that is than the float model.
        error: The standard error of the drop.
    """

    price: float
    bytes: int
    score: float
    drop: float
    error: float


@dataclass
class Compressed:
    """What `compress` found; printed, a summary.

    Attributes:
        model: The quantized Keras model, whose export holds exactly these integers.
        tflite: The runnable file.
        packed: The same, packed: `sentei.unpack` gives it back.
        float_score: The float model's score on the data.
        chosen: The candidate that this is.
        candidates: All that were measured, in the order of their prices.
    """

    model: Any
    tflite: bytes = field(repr=False)
    packed: bytes = field(repr=False)
    float_score: float
    chosen: Candidate
    candidates: tuple[Candidate, ...]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the file: packed, or as it runs if the name ends in `.tflite`.

        Args:
            path: Where to; a file that is there is replaced.

        Raises:
            SenteiError: It cannot be written.
        """
        target = Path(path)
        with replaced(target) as file:
            file.write_bytes(self.tflite if target.suffix == ".tflite" else self.packed)

    def to_dict(self) -> dict[str, Any]:
        """The sizes, scores and candidates as plain data, without model and files."""
        return {
            "packed_bytes": len(self.packed),
            "tflite_bytes": len(self.tflite),
            "float_score": self.float_score,
            "chosen": asdict(self.chosen),
            "candidates": [asdict(candidate) for candidate in self.candidates],
        }

    def __str__(self) -> str:
        lines = [
            f"{len(self.packed):,} bytes packed, {len(self.tflite):,} to run; score "
            f"{self.chosen.score:.4f}, {self.chosen.drop:+.4f} below the float model's "
            f"{self.float_score:.4f}",
            f"{'price of a bit':>14} {'bytes':>10} {'score':>8} {'drop':>8} {'±':>7}",
        ]
        lines += [
            f"{c.price:>14.2e} {c.bytes:>10,} {c.score:>8.4f} {c.drop:>8.4f} {c.error:>7.4f}"
            for c in self.candidates
        ]
        return "\n".join(lines)


def compress(
    model: Any,
    data: Any,
    *,
    max_drop: float | None = None,
    target_bytes: int | None = None,
    effort: Effort = "fast",
    score: Score | None = None,
    progress: Callable[[Candidate], None] | None = None,
) -> Compressed:
    """The smallest packed `.tflite` within a budget, from a trained model, without training it.

    Each kernel gets a step and each weight an integer by rate and distortion, with what is off made
    up for by other weights (see `compression.rounding`), batch normalizations get the statistics of
    the rounded network, and one price of a bit, the same for all layers, is searched for. Every
    candidate is exported, packed, and run on all of the data by the runtime.

    Args:
        model: A trained Functional or Sequential model; it is left as it was.
        data: Samples, or `(samples, labels)` with integer or one-hot labels. Without labels the
            float model's own decisions count as right. Some 1,000 samples or more: the drop is
            taken to be one standard error larger than measured.
        max_drop: How far the score may fall; 0.005 is half a percent of the samples. The default
            if `target_bytes` is not given.
        target_bytes: How large the packed file may be, instead.
        effort: `"fast"`, or `"max"`: more samples, closer prices, the codec's best mode.
        score: Another way to score, see `compression.scoring.Judge`.
        progress: Called with each candidate.

    Returns:
        The file and the model.

    Raises:
        SenteiError: The arguments do not fit, or nothing is within the budget.
        UnsupportedModel: The model cannot be quantized or exported.
    """
    budget = _Budget.of(max_drop, target_bytes)
    if effort not in get_args(Effort):
        known = ", ".join(get_args(Effort))
        raise SenteiError(f"effort must be one of {known}, received {effort!r}.")
    require_built(model)
    inputs, labels = _split(data)
    with tempfile.TemporaryDirectory() as folder:
        search = _Search(model, inputs, labels, effort, score, Path(folder), progress)
        return search.run(budget)


@dataclass(frozen=True)
class _Budget:
    max_drop: float | None
    target_bytes: int | None

    @classmethod
    def of(cls, max_drop: float | None, target_bytes: int | None) -> _Budget:
        if max_drop is not None and target_bytes is not None:
            raise SenteiError(
                "Give either max_drop or target_bytes: with both there may be no such file. "
                f"Received: max_drop={max_drop}, target_bytes={target_bytes}."
            )
        if max_drop is None and target_bytes is None:
            max_drop = 0.005
        if (max_drop is not None and not max_drop >= 0) or (target_bytes or 1) < 1:
            raise SenteiError(
                "`max_drop` must be at least 0 and `target_bytes` at least 1. Received: "
                f"max_drop={max_drop}, target_bytes={target_bytes}."
            )
        return cls(max_drop, target_bytes)

    def too_dear(self, found: Candidate) -> bool:
        """Whether bits must cost less: the file is too bad, or as small as it has to be."""
        if self.target_bytes is not None:
            return found.bytes <= self.target_bytes
        return self.max_drop is not None and found.drop + found.error > self.max_drop

    def fits(self, found: Candidate) -> bool:
        """Whether a candidate is within the budget."""
        return self.too_dear(found) == (self.target_bytes is not None)


class _Search:
    """One call of `compress`."""

    def __init__(
        self,
        model: Any,
        inputs: Any,
        labels: Any,
        effort: Effort,
        score: Score | None,
        folder: Path,
        progress: Callable[[Candidate], None] | None,
    ) -> None:
        self.inputs, self.effort, self.folder = inputs, effort, folder
        self.progress = progress
        self.copy = keras.models.clone_model(model)
        self.copy.set_weights(model.get_weights())
        few = _CURVATURE_SAMPLES[effort]
        self.few = keras.tree.map_structure(lambda array: array[:few], inputs)
        self.weights = self.copy.get_weights()
        self.qmodel = quantize(self.copy, Custom(activation_bits=None, rate=0.0))
        file = folder / "float.tflite"
        export(self.copy, file, verify=False)
        self.judge = Judge(self._run(file), labels, score)
        self.statistics = Statistics(self.copy, self.few)
        self.matrices = self._measured()
        self.found: dict[float, Candidate] = {}

    def run(self, budget: _Budget) -> Compressed:
        """Brackets the price and closes in on it."""
        low, high, price = None, None, _FIRST
        while True:
            if budget.too_dear(self.candidate(price)):
                high = price
            else:
                low = price
            if low is not None and high is not None:
                if high / low <= _CLOSENESS[self.effort]:
                    break
                price = math.sqrt(low * high)
            elif not _LEAST < price < _MOST:
                break
            else:
                price = price * _STRIDE if high is None else price / _STRIDE
        return self._finish(budget)

    def candidate(self, price: float) -> Candidate:
        """Rounds at a price, and measures the file."""
        self._round(price)
        file, packed = self.folder / "m.tflite", self.folder / "m.stz"
        export(self.qmodel, file, slim=True, sparse=False, verify=False)
        size = pack(file, packed, effort=self.effort).packed_size
        outputs = self._run(file)
        drop, error = self.judge.drop(outputs)
        found = Candidate(price, size, self.judge.score - drop, drop, error)
        self.found[price] = found
        if self.progress is not None:
            self.progress(found)
        return found

    def _finish(self, budget: _Budget) -> Compressed:
        fitting = [found for found in self.found.values() if budget.fits(found)]
        if not fitting:
            best = min(self.found.values(), key=lambda found: found.drop)
            least = min(self.found.values(), key=lambda found: found.bytes)
            raise SenteiError(
                "No file is within the budget: the best one measured loses "
                f"{best.drop:.4f} ± {best.error:.4f} with {best.bytes:,} bytes, the smallest has "
                f"{least.bytes:,} bytes and loses {least.drop:.4f}. Allow more, or give more data: "
                "the drop counts with its standard error."
            )
        by_drop = budget.target_bytes is not None
        chosen = min(fitting, key=lambda found: (found.drop if by_drop else 0, found.bytes))
        self._round(chosen.price)
        file, packed = self.folder / "m.tflite", self.folder / "m.stz"
        export(self.qmodel, file, slim=True, sparse=False)
        # The best mode is estimated piece by piece: it may end a few bytes above the fast one.
        contents = []
        for effort in get_args(Effort):
            pack(file, packed, effort=effort)
            contents.append(packed.read_bytes())
        packed.write_bytes(min(contents, key=len))
        unpack(packed, file)
        candidates = tuple(self.found[price] for price in sorted(self.found))
        return Compressed(
            self.qmodel,
            file.read_bytes(),
            packed.read_bytes(),
            self.judge.score,
            chosen,
            candidates,
        )

    def _measured(self) -> list[Matrix]:
        found = matrices_of(self.qmodel, self.copy, batches_of(self.few, _BATCH))
        if not found:
            raise SenteiError(
                f"Model {self.copy.name!r} has no kernel to round: there is nothing to compress."
            )
        expected = self._predict()
        for matrix in found:
            matrix.measure(self._predict, expected)
        return found

    def _round(self, price: float) -> None:
        self.copy.set_weights(self.weights)
        for matrix in self.matrices:
            matrix.put(matrix.round(price))
        self.statistics.settle()
        round_biases(self.qmodel)

    def _predict(self) -> np.ndarray:
        outputs = self.copy.predict(self.few, batch_size=_BATCH, verbose=0)
        return np.asarray(keras.tree.flatten(outputs)[0])

    def _run(self, file: Path) -> np.ndarray:
        runner = Runner(file)
        given = self.inputs
        if not isinstance(given, dict):
            given = dict(zip(runner.inputs, keras.tree.flatten(given), strict=True))
        return np.asarray(next(iter(runner(given).values())))


def _split(data: Any) -> tuple[Any, Any]:
    """Samples and labels, as arrays."""
    inputs, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    inputs = keras.tree.map_structure(np.asarray, inputs)
    counts = {len(array) for array in keras.tree.flatten(inputs)}
    if labels is not None:
        counts.add(len(labels))
    if len(counts) != 1 or 0 in counts:
        raise SenteiError(
            "`data` must be samples, or (samples, labels), of as many rows each. Received: "
            f"{sorted(counts)} rows."
        )
    return inputs, labels
