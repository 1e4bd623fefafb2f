"""`sentei.advise`: the techniques that fit what a user has, and the best of them, measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from sentei.advice.choices import CHOICES, HARDWARE, Choice, fitting, ranked
from sentei.advice.measure import FLOAT, Measured, measure
from sentei.advice.train import BATCH, Lesson
from sentei.core.errors import SenteiError
from sentei.litert import tables

# How many samples ranges are found on, and how many more are measured on at most.
_CALIBRATED, _MEASURED = 100, 500
# What may be lost without labels: 20 dB are a tenth of the outputs' magnitude.
_LEAST_AGREEMENT, _LEAST_SQNR = 0.98, 20.0


_MODES = {choice.name for choice in CHOICES if choice.is_mode}


@dataclass(frozen=True)
class Advice:
    """What to do, why, and what the candidates measured.

    Attributes:
        hardware: Where the model shall run.
        have: What there is to work with: `"nothing"`, `"samples"` or `"training"`.
        recommended: The name of the choice to take first.
        reason: Why.
        order: The choices to try in turn, each with its reason.
        choices: Those that are possible.
        others: Why each of the others is not.
        measured: Their files, the float file first; those of the choices that need training only
            where they were trained. Empty without a model.
    """

    hardware: str
    have: str
    recommended: str
    reason: str
    order: tuple[tuple[str, str], ...]
    choices: tuple[Choice, ...]
    others: dict[str, str]
    measured: tuple[Measured, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        return {**asdict(self), "measured": [item.to_dict() for item in self.measured]}

    def tables(self) -> list[Table | str]:
        """What `str` shows, for `rich` to print."""
        code = next(c.code for c in CHOICES if c.name == self.recommended)
        shown: list[Table | str] = [f"Take {self.recommended}: {self.reason}.", f"  {code}"]
        columns = ("choice", "bytes saved", "needs", "accuracy risk", "speed")
        rows = [(c.name, f"{c.cut:.0%}", c.needs, c.risk, c.speed) for c in self.choices]
        shown += ["", f"What fits ({self.hardware}; at hand: {self.have}), as a rule:"]
        shown.append(tables.table(columns, rows))
        if self.measured:
            shown += ["Measured with the LiteRT runtime on this machine:", self._measurements()]
            shown += [f"{m.name} failed: {m.failure}" for m in self.measured if m.failure]
        shown += ["In this order:"]
        shown += [f"  {i}. {name}: {why}" for i, (name, why) in enumerate(self.order, 1)]
        shown += [f"  not {name}: {why}" for name, why in self.others.items()]
        return shown

    def _measurements(self) -> Table:
        columns = (
            *("file", "bytes", "share", "packed"),
            *("accuracy", "as float", "SQNR dB", "ms", "ratio"),
        )

        def text(value: float | None, form: str) -> str:
            return "" if value is None else form.format(value)

        rows = [
            (
                m.name,
                text(m.bytes, "{:,}"),
                text(m.share, "{:.2f}x"),
                text(m.packed, "{:,}"),
                text(m.accuracy, "{:.2%}"),
                text(m.agreement, "{:.2%}"),
                text(m.sqnr, "{:.1f}"),
                text(m.milliseconds, "{:.4g}"),
                text(m.ratio, "{:.2f}x"),
            )
            for m in self.measured
            if not m.failure
        ]
        return tables.table(columns, rows)

    def __str__(self) -> str:
        return tables.plain(*self.tables())


def advise(
    model: Any = None,
    data: Any = None,
    labels: Any = None,
    *,
    hardware: str = "cpu",
    training: bool = False,
    tolerance: float = 0.01,
    epochs: int = 1,
    runs: int = 30,
    progress: bool | None = None,
) -> Advice:
    """Which technique to use, from what there is and where the model shall run.

    Without a model, the rules of thumb. With one, every candidate is written, run on the samples
    and timed with the LiteRT runtime, and the recommendation is the smallest (of these the fastest)
    that loses no more than `tolerance`. With `training` and labels, copies of a compiled model are
    trained, too: quantized, pruned to 80 %, clustered to 16 values, for `epochs` on all samples but
    those that are measured on. That is short: longer training loses less.

    Args:
        model: A built Keras model, or None.
        data: Samples of its inputs: an array, or a dict by name. The first 100 calibrate; up to
            500 others are measured on (the same ones, where there are fewer than 200).
        labels: The class index of each sample: then accuracy is measured, else how often the file
            predicts what the float file does, or the noise of its outputs.
        hardware: `"cpu"`, `"gpu"`, `"integer"` (an accelerator that knows integers only) or
            `"microcontroller"`.
        training: Whether there are labeled data and time to train.
        tolerance: How much accuracy may be lost, as a share.
        epochs: How often candidates that are trained go through the samples; 0: none is trained.
        runs: Timed rounds.
        progress: Whether to say on a terminal what is done; None: if there is one.

    Returns:
        The advice; printed, tables and reasons.

    Raises:
        SenteiError: An argument is not possible, the samples do not fit, nothing runs on the
            hardware with what there is, or the float model cannot be exported.
    """
    if hardware not in HARDWARE:
        raise SenteiError(f"`hardware` must be one of {HARDWARE}. Received: {hardware!r}.")
    if epochs < 0:
        raise SenteiError(f"`epochs` must be 0 or more. Received: {epochs}.")
    if labels is not None and data is None:
        raise SenteiError("`labels` belong to samples: give `data` too.")
    have = "training" if training else "nothing" if data is None else "samples"
    possible, others = fitting(hardware, have)
    if not possible or all(not choice.is_mode for choice in possible):
        raise SenteiError(
            f"Nothing but calibrated integers runs on this hardware ({hardware}), and that needs "
            "samples of the inputs: give some 100 as `data` (no labels needed)."
        )
    order = tuple(ranked(hardware, have))
    measured: tuple[Measured, ...] = ()
    name, reason = order[0]
    if model is not None:
        calibration, samples, truth = _split(data, labels)
        lesson = None
        if training and truth is not None and epochs:
            trained = tuple(choice.name for choice in possible if not choice.is_mode)
            lesson = Lesson(trained, *_rest(data, labels), epochs, calibration, hardware)
        modes = [
            choice.name
            for choice in possible
            if choice.is_mode and (choice.needs == "nothing" or calibration is not None)
        ]
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(
                model, modes, calibration, samples, truth, Path(folder), runs, progress, lesson
            )
        name, reason = _best(measured, name, reason, tolerance, training)
    return Advice(hardware, have, name, reason, order, tuple(possible), others, measured)


def _split(data: Any, labels: Any) -> tuple[Any, Any, np.ndarray | None]:
    """Samples to calibrate on, samples to measure on, and the labels of these."""
    if data is None:
        return None, None, None
    arrays = dict(data) if isinstance(data, Mapping) else {"": data}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    counts = {array.shape[0] if array.ndim else 0 for array in arrays.values()}
    truth = None if labels is None else np.asarray(labels)
    if truth is not None:
        counts.add(len(truth))
    if len(counts) != 1 or 0 in counts:
        raise SenteiError(
            f"The samples (and labels) must be as many each, and some. Received: {sorted(counts)}."
        )
    rest = _measured_on(*counts)
    return (
        _cut(data, slice(_CALIBRATED)),
        _cut(data, rest),
        None if truth is None else truth[rest],
    )


def _measured_on(count: int) -> slice:
    """Which of some samples are measured on."""
    first = _CALIBRATED if count >= 2 * _CALIBRATED else 0
    return slice(first, first + _MEASURED)


def _cut(data: Any, where: Any) -> Any:
    if isinstance(data, Mapping):
        return {name: np.asarray(array)[where] for name, array in data.items()}
    return np.asarray(data)[where]


def _rest(data: Any, labels: Any) -> tuple[Any, np.ndarray]:
    """The samples and labels that are not measured on."""
    truth = np.asarray(labels)
    free = np.ones(len(truth), bool)
    free[_measured_on(len(truth))] = False
    if np.count_nonzero(free) < BATCH:
        raise SenteiError(
            f"Candidates are trained on the samples that are not measured on, of which there are "
            f"{np.count_nonzero(free)}: give {2 * _CALIBRATED} samples or more (thousands are "
            "better), or epochs=0 to train none."
        )
    return _cut(data, free), truth[free]


def _best(
    measured: tuple[Measured, ...], name: str, reason: str, tolerance: float, training: bool
) -> tuple[str, str]:
    """The smallest of the files that are good enough, and of those the fastest."""
    plain = measured[0]
    files = [m for m in measured if m.name != FLOAT and m.bytes is not None]

    def loss(m: Measured) -> tuple[bool, str]:
        if m.accuracy is not None and plain.accuracy is not None:
            lost = plain.accuracy - m.accuracy
            return lost <= tolerance, f"{max(lost, 0.0):.2%} of accuracy lost"
        if m.agreement is not None:
            least = min(_LEAST_AGREEMENT, 1 - tolerance)
            return (
                m.agreement >= least,
                f"{m.agreement:.1%} of the predictions are the float file's",
            )
        return (m.sqnr or 0.0) >= _LEAST_SQNR, f"{m.sqnr:.1f} dB above its noise"

    good = [m for m in files if loss(m)[0]]
    if not good:
        tried = max(files, key=lambda m: m.sqnr or 0.0, default=None)
        if tried is None:
            return name, f"{reason}; none could be measured"
        if training and all(m.name in _MODES for m in files):
            return "training int8", "all that needs no training loses more than you allow"
        return tried.name, f"it loses least, yet more than you allow ({loss(tried)[1]})"
    # Sizes within a twentieth are the same: then speed decides.
    smallest = min(m.bytes or 0 for m in good)
    close = [m for m in good if (m.bytes or 0) <= 1.05 * smallest]
    # Not trained, where that is as good.
    close = [m for m in close if m.name in _MODES] or close
    best = min(close, key=lambda m: m.milliseconds or 0.0)
    return best.name, (
        f"the smallest and fastest that is good enough: {best.share:.2f} of the bytes, "
        f"{best.ratio:.2f} of the time, {loss(best)[1]}"
    )
