"""Measuring the candidates on a model: written, run in the interpreter, timed in turns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sentei.advice.train import Lesson, write_trained
from sentei.codec import pack
from sentei.core.errors import SenteiError
from sentei.litert.benchmarking import benchmark
from sentei.litert.export import export
from sentei.litert.runtime import Runner

FLOAT = "float32"


@dataclass(frozen=True)
class Measured:
    """One candidate's file.

    Attributes:
        name: The choice.
        bytes: Its size; None where it could not be written.
        share: Its size over the float file's.
        packed: Its bytes for download and storage, by `sentei.pack`.
        accuracy: The share of samples whose largest output is the label; None without labels.
        agreement: The share of samples whose largest output is the float file's; None for outputs
            of one number, or of several tensors.
        sqnr: Signal to noise of all outputs in decibels, against the float file's.
        milliseconds: Median latency of one run.
        ratio: Latency over the float file's in the same round; below 1 is faster.
        failure: Why it could not be written, or nothing.
    """

    name: str
    bytes: int | None = None
    share: float | None = None
    packed: int | None = None
    accuracy: float | None = None
    agreement: float | None = None
    sqnr: float | None = None
    milliseconds: float | None = None
    ratio: float | None = None
    failure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        found = asdict(self)
        if found["sqnr"] is not None and not np.isfinite(found["sqnr"]):
            found["sqnr"] = None  # the outputs are equal: JSON has no infinity
        return found


def measure(
    model: Any,
    modes: Sequence[str],
    calibration: Any,
    samples: Any,
    labels: np.ndarray | None,
    folder: Path,
    runs: int,
    progress: bool | None,
    lesson: Lesson | None = None,
) -> tuple[Measured, ...]:
    """Writes the model as each candidate and measures the files.

    Args:
        model: The Keras model.
        modes: Modes of `sentei.export(quantize=...)`.
        calibration: Sample inputs for those that need them, or None.
        samples: The inputs to measure on, by name or one array; None: random ones.
        labels: The class of each sample, or None.
        folder: Where to write the files.
        runs: Timed rounds.
        progress: Whether to say on a terminal what is done; None: if there is one.
        lesson: Which other choices are trained, and on what; None: none.

    Returns:
        The float file, then one entry per mode and trained choice.
    """
    say = _teller(progress)
    paths: dict[str, Path] = {}
    failures: dict[str, str] = {}
    trained = () if lesson is None else lesson.choices
    names = (FLOAT, *modes, *trained)
    for number, mode in enumerate(names):
        say(f"{'training' if mode in trained else 'writing'} {mode} ({number + 1} of {len(names)})")
        path = folder / f"{mode}.tflite"
        try:
            if lesson is not None and mode in trained:
                write_trained(mode, model, lesson, path)
            else:
                wanted = calibration if mode in ("int8", "int16x8") else None
                quantize = None if mode == FLOAT else mode
                export(model, path, quantize=quantize, calibration=wanted)
            paths[mode] = path
        except SenteiError as error:
            if mode == FLOAT:
                raise
            failures[mode] = str(error)
    runners = {mode: Runner(path) for mode, path in paths.items()}
    given = _drawn(runners[FLOAT]) if samples is None else samples
    outputs = {}
    for mode, runner in runners.items():
        say(f"running {mode}")
        outputs[mode] = runner(given)
    say(f"timing {len(paths)} files")
    times = dict(zip(paths, benchmark(list(paths.values()), runs=runs), strict=True))
    say("")
    made = []
    for mode in names:
        if mode in failures:
            made.append(Measured(mode, failure=failures[mode]))
            continue
        accuracy, agreement, sqnr = _judged(outputs[mode], outputs[FLOAT], labels)
        size = paths[mode].stat().st_size
        made.append(
            Measured(
                mode,
                size,
                size / paths[FLOAT].stat().st_size,
                pack(paths[mode], folder / "packed").packed_size,
                accuracy,
                agreement,
                None if mode == FLOAT else sqnr,
                times[mode].median_ms,
                times[mode].ratio,
            )
        )
    return tuple(made)


def _judged(
    found: dict[str, np.ndarray], wanted: dict[str, np.ndarray], labels: np.ndarray | None
) -> tuple[float | None, float | None, float]:
    """Accuracy, agreement and signal to noise of a file's outputs."""
    pairs = [(found[name].astype(np.float64), wanted[name].astype(np.float64)) for name in wanted]
    signal = sum(float(np.sum(want**2)) for _, want in pairs)
    noise = sum(float(np.sum((have - want) ** 2)) for have, want in pairs)
    sqnr = 10 * float(np.log10(signal / noise)) if noise > 0 and signal > 0 else float("inf")
    have, want = pairs[0]
    if len(pairs) > 1 or have.shape[-1] < 2:
        return None, None, sqnr
    chosen = have.argmax(-1)
    agreement = float(np.mean(chosen == want.argmax(-1)))
    accuracy = None
    if labels is not None:
        if labels.shape != chosen.shape:
            raise SenteiError(
                f"The labels have the shape {labels.shape}, the model's predictions "
                f"{chosen.shape}. Give one class index per prediction."
            )
        accuracy = float(np.mean(chosen == labels))
    return accuracy, agreement, sqnr


def _drawn(runner: Runner) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    found = {}
    for name, port in runner.inputs.items():
        shape = (32, *(max(size, 1) for size in port.shape[1:]))
        if port.dtype.kind == "f":
            found[name] = generator.normal(size=shape).astype(port.dtype)
        else:
            found[name] = generator.integers(0, 2, shape).astype(port.dtype)
    return found


def _teller(progress: bool | None) -> Callable[[str], None]:
    shown = sys.stderr.isatty() if progress is None else progress

    def say(what: str) -> None:
        if shown:
            sys.stderr.write(f"\r\033[K{what}" if what else "\r\033[K")
            sys.stderr.flush()

    return say
