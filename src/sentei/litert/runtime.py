"""Running a `.tflite` file in the LiteRT interpreter, with real numbers in and out."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from sentei.core.errors import SenteiError, UnsupportedModel
from sentei.litert import flatbuffer

Kernels = Literal["xnnpack", "builtin", "reference"]
_RESOLVERS = {
    "xnnpack": OpResolverType.BUILTIN,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}
_stderr_lock = threading.RLock()


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


class Runner:
    """A `.tflite` file ready to run.

    Invariants:
        `inputs` has the order of the graph's inputs, so a list of arrays is matched by position;
        what a call returns has the keys of `outputs`;
        a run never depends on the one before: the file's variables are reset.

    Example:
        >>> runner = Runner("model.tflite")  # doctest: +SKIP
        >>> runner(images)["scores"].argmax(-1)  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | bytes,
        threads: int = 1,
        *,
        kernels: Kernels = "xnnpack",
        signature: str | None = None,
    ):
        """Loads a file and gives it memory.

        Args:
            model: The file, or its bytes.
            threads: Threads of the runtime, at least 1.
            kernels: `"xnnpack"` as on devices, `"builtin"` for the runtime's own optimized kernels,
                `"reference"` for its plain ones.
            signature: Which signature of the main graph to run; the first one by default.

        Raises:
            CorruptFile: The file is missing or damaged.
            UnsupportedModel: The runtime refuses the file; the message holds its words.
            SenteiError: `threads`, `kernels` or `signature` is not possible.
        """
        if threads < 1:
            raise SenteiError(f"`threads` must be at least 1; received {threads}.")
        if kernels not in _RESOLVERS:
            raise SenteiError(f"`kernels` must be one of {list(_RESOLVERS)}; received {kernels!r}.")
        self.name = "the model" if isinstance(model, bytes) else os.fspath(model)
        content = model if isinstance(model, bytes) else flatbuffer.read_bytes(model)
        self.model = flatbuffer.parse(content, self.name)
        chosen = self._choose(signature)
        with self._runtime("refuses"), quiet():
            self._interpreter = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_op_resolver_type=_RESOLVERS[kernels],
            )
            self._interpreter.allocate_tensors()
            self._details = self._interpreter.get_input_details()
            results = self._interpreter.get_output_details()
        taken = {index: name for name, index in chosen.inputs.items()} if chosen else {}
        names = _distinct(taken.get(detail["index"], detail["name"]) for detail in self._details)
        self.inputs = {n: _port(d, n) for n, d in zip(names, self._details, strict=True)}
        by_index = {int(detail["index"]): detail for detail in results}
        given = chosen.outputs if chosen else {}
        if not given:
            given = dict(zip(_distinct(d["name"] for d in results), by_index, strict=False))
        self._output_indices = given
        self.outputs = {name: _port(by_index[index], name) for name, index in given.items()}
        self._stateful = any(tensor.is_variable for tensor in self.model.tensors())

    def __call__(
        self,
        inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
        *,
        raw: bool = False,
    ) -> dict[str, np.ndarray]:
        """Runs the file on a batch of any size.

        A file with an open batch dimension is resized to the batch; a file with a fixed one is run
        as often as needed (its last round filled up with zeros that are cut off again): resizing it
        would leave behind shapes that the exporter wrote into its operators.

        Args:
            inputs: One array, a list in the order of `inputs`, or a dict by name.
            raw: Whether to give the integers of a quantized output instead of real numbers.

        Returns:
            The outputs by name.

        Raises:
            SenteiError: An input is missing, unknown, or of a shape or type that does not fit.
            UnsupportedModel: The runtime fails; the message holds its words.
        """
        arrays = self.match(inputs)
        batch = self._rounds(arrays)
        if batch is not None:
            return self._run_in_rounds(arrays, *batch, raw=raw)
        self.set(arrays)
        self.invoke()
        return self.get(raw=raw)

    def set(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copies inputs by name into the runtime, resizing open dimensions where needed."""
        values = {name: port.encode(inputs[name]) for name, port in self.inputs.items()}
        resized = [
            (detail["index"], value.shape)
            for detail, value in zip(self._details, values.values(), strict=True)
            if tuple(detail["shape"]) != value.shape
        ]
        with self._runtime("refuses the inputs of"):
            if resized:
                with quiet():
                    for index, shape in resized:
                        self._interpreter.resize_tensor_input(index, shape, strict=True)
                    self._interpreter.allocate_tensors()
                self._details = self._interpreter.get_input_details()
            for detail, value in zip(self._details, values.values(), strict=True):
                self._interpreter.set_tensor(detail["index"], np.ascontiguousarray(value))

    def invoke(self) -> None:
        """Computes the outputs of the inputs that were `set`."""
        with self._runtime("fails to run"):
            if self._stateful:
                self._interpreter.reset_all_variables()
            self._interpreter.invoke()

    def get(self, *, raw: bool = False) -> dict[str, np.ndarray]:
        """Copies the outputs out of the runtime, as real numbers unless `raw`."""
        with self._runtime("computes no output of"):
            values = {n: self._interpreter.get_tensor(i) for n, i in self._output_indices.items()}
        return values if raw else {name: self.outputs[name].decode(v) for name, v in values.items()}

    @contextlib.contextmanager
    def _runtime(self, does: str) -> Iterator[None]:
        """Turns the runtime's exceptions into ours, on one line."""
        try:
            yield
        except (ValueError, RuntimeError, MemoryError) as error:
            words = " ".join(str(error).split()) or type(error).__name__
            raise UnsupportedModel(f"The runtime {does} {self.name}: {words}") from None

    def _choose(self, key: str | None) -> flatbuffer.Signature | None:
        main = [item for item in self.model.signatures if item.subgraph == 0]
        chosen = [item for item in main if key in (None, item.key)]
        if key is not None and not chosen:
            known = [item.key for item in main]
            raise SenteiError(f"{self.name} has no signature {key!r} of its main graph: {known}.")
        return chosen[0] if chosen else None

    def match(self, inputs: Any) -> dict[str, np.ndarray]:
        """Sorts inputs by name and checks their shapes, except for the batch.

        Args:
            inputs: As for a call.

        Returns:
            The arrays in the order of `inputs`.

        Raises:
            SenteiError: An input is missing, unknown, or of a shape that does not fit.
        """
        if isinstance(inputs, Mapping):
            if set(inputs) != set(self.inputs):
                raise SenteiError(
                    f"{self.name} expects the inputs {sorted(self.inputs)}; "
                    f"received {sorted(inputs)}."
                )
            given = [inputs[name] for name in self.inputs]
        else:
            given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != len(self.inputs):
            raise SenteiError(
                f"{self.name} expects {len(self.inputs)} inputs {list(self.inputs)}; "
                f"received {len(given)}."
            )
        arrays = {name: np.asarray(value) for name, value in zip(self.inputs, given, strict=True)}
        for name, port in self.inputs.items():
            have = arrays[name].shape
            pairs = list(zip(have, port.shape, strict=False))
            if len(have) != len(port.shape) or any(want not in (-1, n) for n, want in pairs[1:]):
                raise SenteiError(f"Input {port} does not fit an array of shape {list(have)}.")
            if 0 in have:
                raise SenteiError(f"Input {port} got an empty array of shape {list(have)}.")
        return arrays

    def _rounds(self, arrays: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
        """None when one run does, else (samples given, samples a run takes)."""
        ports = [port for port in self.inputs.values() if port.shape]
        if all(port.shape[0] in (-1, arrays[port.name].shape[0]) for port in ports):
            return None
        samples = {arrays[port.name].shape[0] for port in ports}
        steps = {port.shape[0] for port in ports} - {-1}
        if len(samples) > 1 or len(steps) > 1 or 0 in steps or len(ports) < len(self.inputs):
            shapes = {name: list(array.shape) for name, array in arrays.items()}
            expected = {name: list(port.shape) for name, port in self.inputs.items()}
            raise SenteiError(f"{self.name} expects the shapes {expected}; received {shapes}.")
        return samples.pop(), steps.pop()

    def _run_in_rounds(
        self, arrays: Mapping[str, np.ndarray], samples: int, step: int, *, raw: bool
    ) -> dict[str, np.ndarray]:
        rounds = []
        for start in range(0, samples, step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            self.set({name: _fill(array, step) for name, array in part.items()})
            self.invoke()
            rounds.append(self.get(raw=raw))
            for name, value in rounds[-1].items():
                if value.shape[:1] != (step,):
                    raise SenteiError(
                        f"Output {name!r} of {self.name} has the shape {list(value.shape)}, "
                        f"not one row per sample: give exactly {step} samples, received {samples}."
                    )
        return {name: np.concatenate([r[name] for r in rounds])[:samples] for name in self.outputs}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back the runtime's chatter ("INFO: Created TensorFlow Lite XNNPACK delegate ...").

    The C++ logger writes to file descriptor 2 and has no switch in Python, so the descriptor is
    pointed at a temporary file for as long as the runtime is being set up; lines that are more than
    information are passed on afterwards, and so is what another thread wrote meanwhile.
    """
    with _stderr_lock, tempfile.TemporaryFile() as log:
        if sys.stderr is not None:
            sys.stderr.flush()
        saved = os.dup(2)
        os.dup2(log.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            log.seek(0)
            kept = [line for line in log if not line.startswith((b"INFO:", b"VERBOSE:"))]
            if kept:
                os.write(2, b"".join(kept))


def _port(detail: Mapping[str, Any], name: str) -> Port:
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


def _distinct(names: Iterable[str]) -> list[str]:
    """Names a dict can hold: repeated ones get a number."""
    result: list[str] = []
    for name in names:
        candidate, number = name, 1
        while candidate in result:
            candidate, number = f"{name}_{number}", number + 1
        result.append(candidate)
    return result


def _fill(array: np.ndarray, step: int) -> np.ndarray:
    """Appends rows of zeros up to `step` rows."""
    missing = step - array.shape[0]
    return np.pad(array, [(0, missing), *[(0, 0)] * (array.ndim - 1)]) if missing else array
