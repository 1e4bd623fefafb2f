"""`sentei.export`: a Keras model becomes a `.tflite` file that is proven to compute the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import keras
import numpy as np

from sentei.core.errors import ExportError, SenteiError, UnsupportedModel
from sentei.core.files import replaced
from sentei.core.select import require_built, sublayers
from sentei.litert.biases import widened_biases
from sentei.litert.blocks import blocks_moved
from sentei.litert.caps import without_caps
from sentei.litert.composite import quantizers_of
from sentei.litert.ends import integer_ends
from sentei.litert.exporting_report import ExportReport
from sentei.litert.lower import Lowered, lower_here
from sentei.litert.port import Port
from sentei.litert.post import STORAGE_MODES, Mode, mode_named, quantized_bytes
from sentei.litert.quantized import check_quantized
from sentei.litert.runtime import Runner
from sentei.litert.samples import Sample, given_samples, random_samples
from sentei.litert.signature import Signature, TensorSpec, signature_of
from sentei.litert.slim import slimmed
from sentei.litert.sparse_file import store_sparse
from sentei.litert.sparsify import Sparse, Stored, check_sparse
from sentei.litert.verify import TOLERANCE, Outputs, Verification, compare, predictions

# Batch sizes at which a file with an open batch axis is verified.
_TRIED_BATCHES = (1, 3)
# How many random samples of each: integers are compared one by one, and it takes many to count.
_FLOAT_SAMPLES, _QUANTIZED_SAMPLES = 2, 8
# What `sentei.quantize` does with a model before it is exported.
SCHEMES = ("int8", "int16x8")
# Samples of one batch size, and the signature that has it.
_Trial = tuple[Signature, list[Sample]]


def export(
    model: Any,
    path: str | os.PathLike[str],
    *,
    signature: Any = None,
    batch_size: int | None = 1,
    quantize: str | None = None,
    calibration: Any = None,
    io: str = "float",
    sparse: Sparse = "auto",
    slim: bool = False,
    verify: Any = True,
) -> ExportReport:
    """Writes a Keras model as a LiteRT file, without TensorFlow, and checks it against Keras.

    The model is exported at inference, in float32 or, when `sentei.quantize` made it, with exactly
    the integers that it simulates, and is left as it was. On the TensorFlow
    and PyTorch backends a saved copy is converted by a second Python process on JAX, and the file
    is held against the model that was passed.

    The file's inputs have the names of the model's inputs (the keys of a dict, the names given to
    `keras.Input`, else `input_0`, `input_1`, ...), its outputs those of the model's outputs (keys,
    the output layers' names, else `output_0`, ...).

    Args:
        model: A built Keras model: Sequential, Functional or subclassed, on any backend.
        path: The file to write; its name ends in `.tflite`, its folder exists.
        signature: What the model is called with, where it does not tell: a shape with its batch
            axis, `(shape, dtype)`, `keras.InputSpec`, `keras.KerasTensor`, an example array, or a
            list or dict of these.
        batch_size: The batch size of the file, or None to leave it to whoever runs the file.
        quantize: How to quantize a float model on the way: None not at all; `"int8"` or
            `"int16x8"` wholly, as `sentei.quantize` with this calibration does; or only how the
            weights are stored: `"float16"`, `"dynamic"` (int8 weights, activations rounded as it
            runs), `"weight-only-int8"`, `"int4"` or `"int4-block32"`. See
            `sentei.litert.post.MODES` for the tolerance of these.
        calibration: For `"int8"` and `"int16x8"`, the data that `sentei.quantize` takes.
        io: Whether the inputs and outputs of a quantized model are real numbers (`"float"`) or the
            integers themselves (`"int8"`, whatever their size).
        sparse: `"auto"` stores each pruned floating-point weight sparse that is smaller so; True
            each weight that holds a zero, int8 ones too; False none. The outputs are the same bit
            for bit (which is checked). XNNPACK runs such files faster where `sentei.diagnose` says
            so; the runtime for microcontrollers does not take them.
        slim: Whether to leave out what no runtime reads: the names of inner tensors (reports then
            cannot name layers), notes, empty constants.
        verify: True runs the file in the LiteRT interpreter on random inputs; samples (one array
            per input, alone or in a list or dict by name) are run as well as random inputs; False
            only checks that the interpreter accepts the file. A quantized model is compared tensor
            by tensor, integer by integer (see `IntegerCheck`).

    Returns:
        What was written, how large it is, and how far it is from Keras.

    Raises:
        SenteiError: The path, the model or the signature is not fit for an export.
        UnsupportedModel: A layer cannot be exported; the message names it and the reason.
        ExportError: The converter or the runtime refuses the model.
        ExportMismatch: The file does not compute what Keras computes. No file is left.
    """
    target = _check_path(path)
    require_built(model)
    _check_batch(batch_size)
    _check_float(model)
    check_sparse(sparse)
    if quantize in SCHEMES:
        model, quantize = _quantized(model, quantize, calibration), None
    mode = _check_mode(quantize)
    quantizers = quantizers_of(model)
    _check_ends(io, bool(quantizers), quantize)
    pinned = signature_of(model, signature, batch_size)
    given = None if isinstance(verify, bool | np.bool_) else verify
    count = _QUANTIZED_SAMPLES if quantizers else _FLOAT_SAMPLES
    trials = _trials(model, pinned, given, count) if given is not None or verify else []
    with replaced(target) as temporary:
        lowered = _lower(model, pinned, temporary)
        start = perf_counter()
        _mend(temporary, bool(quantizers), io)
        stored = _finish(temporary, sparse, slim) if quantize is None else None
        lowered.seconds["convert"] += perf_counter() - start
        start = perf_counter()
        expected = [predictions(model, fixed, samples) for fixed, samples in trials]
        runner = _load(temporary, lowered)
        verification, integers = None, None
        if quantizers and trials:
            content = temporary.read_bytes()
            integers = check_quantized(model, quantizers, content, runner, trials, expected)
        else:
            verification = _verify(runner, trials, expected)
        seconds = {**lowered.seconds, "verify": perf_counter() - start}
        if quantize is not None and mode is not None:
            start = perf_counter()
            temporary.write_bytes(quantized_bytes(temporary.read_bytes(), quantize))
            stored = _finish(temporary, sparse, slim)
            runner = _load(temporary, lowered)
            verification = _verify(runner, trials, expected, mode.tolerance)
            seconds["quantize"] = perf_counter() - start
    return ExportReport(
        path=str(target),
        bytes=runner.model.size,
        operators=dict(runner.model.census()),
        dtypes=dict(runner.model.dtype_census()),
        inputs=_as_stored(pinned.inputs, runner.inputs) if io == "int8" else pinned.inputs,
        outputs=_as_stored(lowered.outputs, runner.outputs) if io == "int8" else lowered.outputs,
        verification=verification,
        seconds=seconds,
        sparse=stored,
        integers=integers,
    )


def _lower(model: Any, signature: Signature, path: Path) -> Lowered:
    """Converts a model into a file, whatever the backend: here, or in a second process on JAX."""
    if keras.backend.backend() == "jax":
        return lower_here(model, signature, path)
    from sentei.litert.child import lower_elsewhere

    return lower_elsewhere(model, signature, path)


def _mend(path: Path, quantized: bool, io: str) -> None:
    """The passes over what the converter wrote."""
    written = path.read_bytes()
    content = blocks_moved(written)
    if quantized:
        content = without_caps(widened_biases(content))
    if io == "int8":
        content = integer_ends(content)
    if content is not written:
        path.write_bytes(content)


def _finish(path: Path, sparse: Sparse, slim: bool) -> Stored | None:
    """The passes over a file whose numbers are what they shall be."""
    stored = store_sparse(path, sparse)
    if slim:
        path.write_bytes(slimmed(path.read_bytes()))
    return stored


def _as_stored(specs: Sequence[TensorSpec], ports: Mapping[str, Port]) -> tuple[TensorSpec, ...]:
    """Specs with the types that the file has."""
    return tuple(replace(spec, dtype=ports[spec.name].dtype.name) for spec in specs)


def _trials(model: Any, signature: Signature, given: Any, count: int) -> list[_Trial]:
    """Random samples of each batch size that is tried, and the user's if there are any."""
    trials = []
    for size in _TRIED_BATCHES if signature.open_batch else (None,):
        fixed = signature if size is None else signature.with_batch(size)
        samples = random_samples(model, fixed, count)
        if given is not None and size in (1, None):
            samples = [*given_samples(given, fixed), *samples]
        trials.append((fixed, samples))
    return trials


def _verify(
    runner: Runner,
    trials: Sequence[_Trial],
    expected: Sequence[list[Outputs]],
    tolerance: float = TOLERANCE,
) -> Verification | None:
    """Holds the file against what Keras computes."""
    if not trials:
        return None
    found = [
        compare(runner, fixed.inputs, samples, outputs, tolerance)
        for (fixed, samples), outputs in zip(trials, expected, strict=True)
    ]
    return Verification(
        samples=sum(one.samples for one in found),
        absolute_error=max(one.absolute_error for one in found),
        relative_error=max(one.relative_error for one in found),
    )


def _load(path: Path, lowered: Lowered) -> Runner:
    """Opens the written file in the interpreter, or says which operation it does not have."""
    try:
        return Runner(path)
    except UnsupportedModel as error:
        about = ", ".join(map(str, lowered.leftovers))
        reason = str(error).replace(str(path), "the file")
        raise ExportError(
            f"{reason} " + (f"It holds {about}. " if about else "") + "No file was written. "
            "Replace these layers, or split the model before them."
        ) from None


def _check_path(path: str | os.PathLike[str]) -> Path:
    try:
        target = Path(path)
    except TypeError:
        raise SenteiError(
            f"`path` must be a file name ending in .tflite. Received: {path!r} of type "
            f"{type(path).__name__}."
        ) from None
    if target.is_dir():
        raise SenteiError(f"`path` is a directory: {target}. Give a file in it: model.tflite.")
    if target.suffix.lower() != ".tflite":
        raise SenteiError(
            f"`path` must end in .tflite, which runtimes go by. Received: {str(target)!r}. "
            f"Use {target.with_suffix('.tflite').name!r}."
            if target.name
            else f"`path` must name a file ending in .tflite. Received: {str(path)!r}."
        )
    if not target.parent.is_dir():
        raise SenteiError(
            f"The folder {str(target.parent)!r} of `path` does not exist. Create it first."
        )
    return target


def _check_batch(batch_size: Any) -> None:
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size > 0):
        raise SenteiError(
            "`batch_size` must be a positive integer, or None to leave the batch open. "
            f"Received: {batch_size!r}."
        )


def _check_mode(quantize: str | None) -> Mode | None:
    if quantize is None:
        return None
    if quantize not in STORAGE_MODES:
        raise SenteiError(
            f"`quantize` must be None or one of {[*SCHEMES, *STORAGE_MODES]}. "
            f"Received: {quantize!r}."
        )
    return mode_named(quantize)


def _quantized(model: Any, scheme: str, calibration: Any) -> Any:
    if quantizers_of(model):
        raise SenteiError(
            f"Model {model.name!r} is quantized already: leave `quantize` out to export it as it "
            "is, or strip it first (sentei.strip)."
        )
    if calibration is None:
        raise SenteiError(
            f"`quantize={scheme!r}` measures the ranges of the activations: pass sample inputs, "
            "calibration=x[:256]."
        )
    quantization = import_module("sentei.quantization")
    return quantization.quantize(model, scheme, calibration=calibration)


def _check_ends(io: Any, quantized: bool, quantize: str | None) -> None:
    if io not in ("float", "int8"):
        raise SenteiError(f"`io` must be 'float' or 'int8'. Received: {io!r}.")
    if io == "int8" and not quantized:
        raise SenteiError(
            "`io='int8'` needs a quantized model, whose inputs and outputs are integers: pass "
            "quantize='int8' and calibration=x[:256], or a model that sentei.quantize made."
        )
    if quantized and quantize is not None:
        raise SenteiError(
            f"`quantize={quantize!r}` is for float models; this one is quantized already. Leave it "
            "out, or export sentei.strip(model)."
        )


def _check_float(model: Any) -> None:
    for layer, _ in sublayers(model):
        mode = layer.dtype_policy.quantization_mode
        if mode is not None:
            raise UnsupportedModel(
                f"Layer {layer.name!r} was quantized by Keras (model.quantize({mode!r})), whose "
                "arithmetic the converter has no operators for. Export the model as it was before."
            )
