"""The inputs and outputs of a `.tflite` file: real numbers outside, the file's own type inside."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from sentei.core.errors import SenteiError


@dataclass(frozen=True)
class Port:
    """One input or output of a file.

    Attributes:
        name: Its name in the signature, or the tensor's name in a file without signatures.
        shape: The shape, with -1 where the file leaves a dimension open.
        dtype: The numpy type the runtime takes or gives.
        index: Its tensor's place in the graph.
        scale: The quantization scale, or None when the values are not quantized.
        zero_point: The integer that stands for zero (0 when not quantized).
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    index: int
    scale: float | None = None
    zero_point: int = 0

    def __str__(self) -> str:
        grid = "" if self.scale is None else f", scale {self.scale:g}, zero point {self.zero_point}"
        return f"{self.name!r} ({self.dtype} {list(self.shape)}{grid})"

    def draw(self, random: np.random.Generator) -> np.ndarray:
        """Random values that the runtime takes: normal numbers, the whole grid, or 0 and 1.

        Args:
            random: Where they come from.

        Returns:
            Array of the port's shape (1 where it is open) and type.
        """
        shape = tuple(1 if size < 0 else size for size in self.shape)
        if self.scale is not None:
            limits = np.iinfo(self.dtype)
            return random.integers(limits.min, limits.max, shape, self.dtype, endpoint=True)
        if self.dtype.kind in "iub":
            return random.integers(0, 2, shape).astype(self.dtype)
        return random.standard_normal(shape).astype(self.dtype)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Turns real numbers into what the runtime takes.

        Values that already have the port's own type pass as they are (so integers of a quantized
        input may be given raw); everything else is read as real numbers and, when the port is
        quantized, put on its grid: `round(values / scale) + zero_point`, clipped.

        Args:
            values: Array of any shape.

        Returns:
            Array of the same shape and of type `dtype`.

        Raises:
            SenteiError: The values are not numbers, or cannot be given as `dtype` (NaN on a grid,
                fractions or too large integers for an integer input).
        """
        if values.dtype == self.dtype:
            return values
        if not np.can_cast(values.dtype, np.complex128) or values.dtype.kind == "c":
            raise SenteiError(f"Input {self} expects real numbers; received {values.dtype}.")
        if self.dtype.kind not in "iu":
            return values.astype(self.dtype)
        limits = np.iinfo(self.dtype)
        if self.scale is not None:
            grid = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
            if np.isnan(grid).any():
                raise SenteiError(f"Input {self} cannot take NaN; the array given holds some.")
            return np.clip(grid, limits.min, limits.max).astype(self.dtype)
        integers = values.dtype.kind in "iub"
        fits = integers and ((values >= limits.min) & (values <= limits.max)).all()
        if not fits:
            raise SenteiError(
                f"Input {self} expects integers from {limits.min} to {limits.max}; received "
                f"{values.dtype} values that do not fit. Convert them first."
            )
        return values.astype(self.dtype)

    def decode(self, values: np.ndarray) -> np.ndarray:
        """Turns what the runtime gives into real numbers: `scale * (values - zero_point)`.

        Args:
            values: Array of type `dtype`.

        Returns:
            Array of the same shape; float32 when the port is quantized, else `values`.
        """
        if self.scale is None:
            return values
        return ((values.astype(np.float64) - self.zero_point) * self.scale).astype(np.float32)


def port_of(detail: Mapping[str, Any], name: str) -> Port:
    """Reads a port from what the interpreter tells about a tensor.

    Args:
        detail: One entry of `get_input_details` or `get_output_details`.
        name: The name to give it.

    Returns:
        The port.
    """
    grid = detail["quantization_parameters"]
    dtype = np.dtype(detail["dtype"])
    quantized = len(grid["scales"]) == 1 and grid["scales"][0] > 0 and dtype.kind in "iu"
    signature = detail["shape_signature"]
    shape = signature if len(signature) == len(detail["shape"]) else detail["shape"]
    return Port(
        name=name,
        shape=tuple(max(int(size), -1) for size in shape),
        dtype=dtype,
        index=int(detail["index"]),
        scale=float(grid["scales"][0]) if quantized else None,
        zero_point=int(grid["zero_points"][0]) if quantized else 0,
    )
