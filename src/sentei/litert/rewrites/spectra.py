"""Complex spectra as pairs of real tensors.

LiteRT's RFFT2D makes complex numbers, and next to nothing else takes them: so the two parts are
read off at once, and what the program does to the spectrum is done to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jax import lax

from sentei.core.errors import UnsupportedModel
from sentei.litert.rewrites.graph import Rule, Run, Step, Value

Pair = tuple[Any, Any]

# Primitives that move numbers without looking at them.
_MOVING = ("broadcast_in_dim", "copy", "reshape", "rev", "slice", "squeeze", "transpose")


# Beyond this, the matrices of a transform whose length is no power of two are too large for a file.
_LONGEST_MATRIX = 1024


def _spectrum(step: Step, run: Run) -> Sequence[Any] | None:
    length = step.params["fft_lengths"][-1]
    real = lax.FftType(step.params["fft_type"]) == lax.FftType.RFFT
    if not real or len(step.params["fft_lengths"]) > 1:
        raise UnsupportedModel(
            f"Layer {step.layer!r} cannot be exported: it takes an inverse, complex or "
            "multi-dimensional Fourier transform, which LiteRT has no operator for. Only "
            "`keras.ops.rfft` and `keras.ops.stft` can be exported; do the rest outside the model."
        )
    signal = step.inputs[0].array
    if length & (length - 1) == 0:
        (spectrum,) = step.bind(signal)
        return [_paired((lax.real(spectrum), lax.imag(spectrum)))]
    if length > _LONGEST_MATRIX:
        raise UnsupportedModel(
            f"Layer {step.layer!r} cannot be exported: LiteRT's Fourier transform wants a power of "
            f"two, its length is {length}. Use an FFT length of "
            f"{2 ** (length - 1).bit_length()}; the window can stay as it is."
        )
    angles = np.outer(np.arange(length), np.arange(length // 2 + 1)) * (2 * np.pi / length)
    matrices = np.cos(angles).astype(np.float32), -np.sin(angles).astype(np.float32)
    return [_paired((signal @ matrices[0], signal @ matrices[1]))]


def _paired(pair: Pair) -> Value:
    return Value(lax.complex(*pair), parts=pair)


def _parts(value: Value) -> Pair | None:
    """A complex value's real and imaginary parts; those of a constant or a real number, too."""
    if value.parts is not None:
        return value.parts
    if isinstance(value.array, np.ndarray):
        return value.array.real, value.array.imag
    real = value.made_by("convert_element_type")
    if real is None or np.iscomplexobj(real.inputs[0].array):
        return None
    return real.inputs[0].array, lax.full_like(real.inputs[0].array, 0)


def _moved(step: Step, run: Run) -> Sequence[Any] | None:
    pair = step.inputs[0].parts
    if pair is None:
        return None
    return [_paired((step.bind(pair[0])[0], step.bind(pair[1])[0]))]


def _combined(step: Step, run: Run) -> Sequence[Any] | None:
    """Sums, products and quotients, when one of the two is a spectrum."""
    if all(value.parts is None for value in step.inputs):
        return None
    first, second = (_parts(value) for value in step.inputs)
    if first is None or second is None:
        return None
    (a, b), (c, d) = first, second
    if step.name in ("add", "sub"):
        return [_paired((step.bind(a, c)[0], step.bind(b, d)[0]))]
    if step.name == "div":
        length = c * c + d * d
        c, d = c / length, -d / length
    return [_paired((a * c - b * d, a * d + b * c))]


def _read(step: Step, run: Run) -> Sequence[Any] | None:
    """What makes a spectrum real."""
    pair = step.inputs[0].parts
    if pair is None:
        return None
    real, imaginary = pair
    if step.name == "abs":
        return [lax.sqrt(real * real + imaginary * imaginary)]
    return [real if step.name == "real" else imaginary]


RULES: dict[str, Rule] = {
    "fft": _spectrum,
    **dict.fromkeys(_MOVING, _moved),
    **dict.fromkeys(("add", "sub", "mul", "div"), _combined),
    **dict.fromkeys(("abs", "real", "imag"), _read),
}
