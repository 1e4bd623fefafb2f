"""Post-training modes that only change how a file stores its weights, by litert-quantizer.

They work on any `.tflite` file, whoever wrote it. Full integer quantization of a Keras model does
not go this way: its own graph knows more than the file does (see `quantized`).
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sentei.core.errors import ExportError, ExportMismatch, SenteiError
from sentei.core.files import replaced
from sentei.litert import flatbuffer
from sentei.litert.runtime import Runner, quiet

_SAMPLES = 4
# Integers of unknown meaning: small enough to index any table.
_UNKNOWN_INTEGERS = 2


@dataclass(frozen=True)
class Mode:
    """One way to store a file smaller.

    Attributes:
        recipe: litert-quantizer's recipe, as a name in its module `recipe`.
        summary: What it does, in one line.
        tolerance: The largest difference of an output that is still put down to rounding, relative
            to the output's largest magnitude. Beyond it the file counts as broken.
        calibrated: Whether it needs sample inputs.
    """

    recipe: str
    summary: str
    tolerance: float
    calibrated: bool = False


MODES: dict[str, Mode] = {
    "float16": Mode("float16", "weights in half precision, computed in float32", 0.02),
    "dynamic": Mode("dynamic_wi8_afp32", "int8 weights, activations rounded as it runs", 0.3),
    "weight-only-int8": Mode("weight_only_wi8_afp32", "int8 weights, computed in float32", 0.2),
    "int4": Mode("dynamic_wi4_afp32", "int4 weights per channel, int8 activations", 0.8),
    "int4-block32": Mode(
        "dynamic_wi4b32_afp32", "int4 weights of dense layers in blocks of 32, the rest float", 0.8
    ),
    "int8": Mode("static_wi8_ai8", "int8 weights and activations, calibrated", 0.5, True),
    "int16x8": Mode("static_wi8_ai16", "int8 weights, int16 activations, calibrated", 0.2, True),
}
# What `sentei.export` hands to litert-quantizer; int8 and int16x8 have an exact way of their own.
STORAGE_MODES = tuple(name for name, mode in MODES.items() if not mode.calibrated)


@dataclass(frozen=True)
class PostReport:
    """What `quantize_file` wrote.

    Attributes:
        path: The file.
        mode: How it is stored.
        bytes_before: The size of the file it was made from.
        bytes: Its size.
        operators: How many operators of each name it holds.
        dtypes: How many tensors of each dtype it holds.
        samples: On how many inputs both files were run.
        relative_error: The largest difference of an output from the original file's, over the
            largest magnitude of that output; None when not verified.
        tolerance: The largest such difference that is allowed.
    """

    path: str
    mode: str
    bytes_before: int
    bytes: int
    operators: dict[str, int]
    dtypes: dict[str, int]
    samples: int
    relative_error: float | None
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return asdict(self)

    def __str__(self) -> str:
        operators = sorted(self.operators.items(), key=lambda item: (-item[1], item[0]))
        share = self.bytes / self.bytes_before
        checked = (
            "not verified"
            if self.relative_error is None
            else f"largest error {self.relative_error:.2g} relative over {self.samples} samples "
            f"(at most {self.tolerance:g})"
        )
        rows = {
            "file": self.path,
            "mode": f"{self.mode}: {MODES[self.mode].summary}",
            "size": f"{self.bytes:,} bytes, {share:.2f} of {self.bytes_before:,}",
            "operators": ", ".join(f"{count} {name}" for name, count in operators) or "none",
            "tensors": ", ".join(f"{count} {name}" for name, count in sorted(self.dtypes.items())),
            "against the original": checked,
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())


def quantize_file(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    mode: str,
    *,
    calibration: Any = None,
    verify: bool = True,
) -> PostReport:
    """Quantizes a float `.tflite` file of any origin, and runs both files side by side.

    For a Keras model prefer `sentei.export(model, path, quantize=...)`, whose int8 loses less.

    Args:
        source: The float file.
        target: The file to write; it may be the same path.
        mode: A name of `MODES`.
        calibration: Sample inputs: an array of shape `(samples, ...)`, or one per input in a list
            or a dict by name. Needed by "int8" and "int16x8"; the others are verified on it.
        verify: Whether to compare the outputs, on the calibration samples or random ones.

    Returns:
        What was written.

    Raises:
        CorruptFile: The source is missing or damaged.
        SenteiError: The mode is unknown, or the samples are missing or do not fit.
        ExportError: litert-quantizer or the runtime refuses the file.
        ExportMismatch: The outputs differ by more than the mode's tolerance. No file is left.
    """
    chosen = mode_named(mode)
    content = flatbuffer.read_bytes(source)
    original = Runner(content)
    samples = _batches(original, calibration, chosen, mode)
    with replaced(Path(target)) as temporary:
        temporary.write_bytes(quantized_bytes(content, mode, samples))
        written = _load(temporary, mode)
        error = _largest_error(original, written, samples) if verify else None
        if error is not None and not error <= chosen.tolerance:
            raise ExportMismatch(
                f"Mode {mode!r} moves an output of {os.fspath(source)} by {error:.2g} of its "
                f"largest value (at most {chosen.tolerance:g} is allowed). No file was written. "
                "Use a mode with more bits, give fit samples as the calibration, or verify=False."
            )
    return PostReport(
        path=os.fspath(target),
        mode=mode,
        bytes_before=len(content),
        bytes=written.model.size,
        operators=dict(written.model.census()),
        dtypes=dict(written.model.dtype_census()),
        samples=sum(_rows(sample) for sample in samples) if verify else 0,
        relative_error=error,
        tolerance=chosen.tolerance,
    )


def mode_named(name: Any) -> Mode:
    """Finds a mode.

    Args:
        name: Its name.

    Raises:
        SenteiError: There is no such mode.
    """
    if not isinstance(name, str) or name not in MODES:
        raise SenteiError(f"A quantization mode must be one of {list(MODES)}. Received: {name!r}.")
    return MODES[name]


def quantized_bytes(
    content: bytes, mode: str, samples: Sequence[Mapping[str, np.ndarray]] = ()
) -> bytes:
    """Runs litert-quantizer on a file's bytes.

    Args:
        content: The float file.
        mode: A name of `MODES`.
        samples: For a calibrated mode, inputs by name in batches as the file takes them.

    Returns:
        The quantized file.

    Raises:
        ExportError: litert-quantizer refuses the file; the message holds its words.
    """
    model = flatbuffer.parse(content, "the model")
    if any(tensor.quantization is not None for tensor in model.tensors()):
        raise ExportError("The file is quantized already. Give the float file it was made from.")
    try:
        # It uses the interpreter in ways that make that warn.
        with warnings.catch_warnings(action="ignore"), quiet():
            return _run(content, mode, model, samples)
    except Exception as error:
        words = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        raise ExportError(f"litert-quantizer cannot make the file {mode}: {words}.") from None


def _run(
    content: bytes,
    mode: str,
    model: flatbuffer.FlatModel,
    samples: Sequence[Mapping[str, np.ndarray]],
) -> bytes:
    from litert_quantizer import quantizer

    worker = quantizer.Quantizer(bytearray(content), _recipe(MODES[mode].recipe))
    ranges = None
    if worker.need_calibration:
        key = model.signatures[0].key if model.signatures else None
        # It draws a progress bar that cannot be switched off, line by line into logs too.
        with contextlib.redirect_stderr(io.StringIO()):
            ranges = worker.calibrate({key: samples}, num_threads=1)
    result = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return bytes(result.quantized_model or b"")


def _recipe(name: str) -> Any:
    from litert_quantizer import recipe, recipe_manager

    if name != "float16":
        return getattr(recipe, name)()
    manager = recipe_manager.RecipeManager()
    manager.add_weight_only_config(
        regex=".*",
        operation_name=recipe.TFLOperationName.ALL_SUPPORTED,
        num_bits=16,
        algorithm_key=recipe.AlgorithmName.FLOAT_CASTING,
    )
    return manager.get_quantization_recipe()


def _load(path: Path, mode: str) -> Runner:
    try:
        return Runner(path)
    except SenteiError as error:
        reason = str(error).replace(str(path), "the file")
        raise ExportError(f"{reason} Mode {mode!r} does not suit it; try another.") from None


def _batches(runner: Runner, given: Any, mode: Mode, name: str) -> list[dict[str, np.ndarray]]:
    """The user's samples, or random ones, in batches as the file takes them."""
    if given is None:
        if mode.calibrated:
            raise SenteiError(
                f"Mode {name!r} measures the ranges of the activations: give sample inputs as the "
                "calibration (some 100 suffice)."
            )
        return _random(runner)
    arrays = runner.match(given)
    for key, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise SenteiError(
                f"The calibration samples for input {key!r} hold NaN or infinite values. Remove "
                "these rows."
            )
    counts = {array.shape[0] for array in arrays.values() if array.ndim}
    if len(counts) > 1:
        raise SenteiError(f"The calibration has different numbers of samples: {sorted(counts)}.")
    steps = [port.shape[0] for port in runner.inputs.values() if port.shape]
    step = max(1, *steps) if steps else 1
    count = counts.pop() if counts else 1
    rows = [np.minimum(np.arange(i, i + step), count - 1) for i in range(0, count, step)]
    return [
        {
            key: (array[row] if array.ndim else array).astype(runner.inputs[key].dtype)
            for key, array in arrays.items()
        }
        for row in rows
    ]


def _random(runner: Runner) -> list[dict[str, np.ndarray]]:
    generator = np.random.default_rng(0)

    def draw(port: Any) -> np.ndarray:
        shape = [max(size, 1) for size in port.shape]
        if port.dtype.kind == "f":
            return generator.normal(size=shape).astype(port.dtype)
        return generator.integers(0, _UNKNOWN_INTEGERS, shape).astype(port.dtype)

    return [{name: draw(port) for name, port in runner.inputs.items()} for _ in range(_SAMPLES)]


def _rows(sample: Mapping[str, np.ndarray]) -> int:
    return next((value.shape[0] for value in sample.values() if value.ndim), 1)


def _largest_error(
    original: Runner, written: Runner, samples: Sequence[Mapping[str, np.ndarray]]
) -> float:
    """The largest difference of any output, over that output's largest magnitude."""
    want, have = ([run(sample) for sample in samples] for run in (original, written))
    # Inputs keep their names; outputs may be listed in another order.
    errors = []
    for name in original.outputs:
        expected = np.concatenate([np.ravel(one[name]) for one in want]).astype(np.float64)
        actual = np.concatenate([np.ravel(one[name]) for one in have]).astype(np.float64)
        magnitude = max(float(np.max(np.abs(expected), initial=0.0)), 1e-6)
        errors.append(float(np.max(np.abs(expected - actual), initial=0.0)) / magnitude)
    return max(errors, default=0.0)
