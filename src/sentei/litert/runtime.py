"""Running a `.tflite` file in the LiteRT interpreter, with real numbers in and out."""

import contextlib
import os
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
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
_stderr_lock = threading.Lock()


@dataclass(frozen=True)
class Port:
    """One input or output of a file.

    Attributes:
        name: Its name in the signature, or the tensor's name in a file without signatures.
        shape: The shape, with -1 where the file leaves a dimension open.
        dtype: The numpy type the runtime takes or gives.
        scale: The quantization scale, or None when the values are not quantized.
        zero_point: The integer that stands for zero (0 when not quantized).
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float | None = None
    zero_point: int = 0

    def __str__(self) -> str:
        grid = "" if self.scale is None else f", scale {self.scale:g}, zero point {self.zero_point}"
        return f"{self.name!r}: {self.dtype} {list(self.shape)}{grid}"

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Turns real numbers into what the runtime takes.

        Values that already have the port's own integer type pass as they are; everything else is
        read as real numbers and put on the port's grid: `round(values / scale) + zero_point`.

        Args:
            values: Array of any shape.

        Returns:
            Array of the same shape and of type `dtype`.

        Raises:
            SenteiError: The values cannot be given as `dtype` (real numbers for an integer input
                without a scale, or integers out of its range).
        """
        if values.dtype == self.dtype:
            return values
        if values.dtype.kind not in "fiub" and values.dtype.name != "bfloat16":
            raise SenteiError(f"Input {self.name!r} expects numbers; received {values.dtype}.")
        if self.scale is not None:
            limits = np.iinfo(self.dtype)
            grid = np.rint(values.astype(np.float64) / self.scale) + self.zero_point
            return np.clip(grid, limits.min, limits.max).astype(self.dtype)
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            whole = values.dtype.kind in "iub"
            if not whole or (
                values.size and not limits.min <= values.min() <= values.max() <= limits.max
            ):
                raise SenteiError(
                    f"Input {self.name!r} expects integers of type {self.dtype}; received "
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
        `inputs` keeps the order of the graph's inputs, so a list of arrays is matched by position;
        what `__call__` returns has the keys of `outputs`;
        a run never depends on the one before: variables are reset.
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
            signature: Which signature to run; the only or first one of the main graph by default.

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
        graph = self.model.subgraphs[0]
        self._stateful = any(tensor.is_variable for tensor in graph.tensors)
        try:
            with quiet():
                self._interpreter = Interpreter(
                    model_content=content,
                    num_threads=threads,
                    experimental_op_resolver_type=_RESOLVERS[kernels],
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModel(f"The runtime refuses {self.name}: {_one_line(error)}") from None
        self._input_details = self._interpreter.get_input_details()
        self._output_details = self._interpreter.get_output_details()
        input_names = {index: name for name, index in chosen.inputs.items()} if chosen else {}
        output_names = chosen.outputs if chosen else _unique_names(self._output_details)
        self.inputs = {
            port.name: port
            for port in (
                _port(detail, input_names.get(detail["index"], detail["name"]))
                for detail in self._input_details
            )
        }
        by_index = {detail["index"]: detail for detail in self._output_details}
        self._output_index = output_names
        self.outputs = {name: _port(by_index[i], name) for name, i in output_names.items()}

    def _choose(self, key: str | None) -> flatbuffer.Signature | None:
        candidates = [item for item in self.model.signatures if item.subgraph == 0]
        if key is not None:
            candidates = [item for item in candidates if item.key == key]
            if not candidates:
                known = [item.key for item in self.model.signatures if item.subgraph == 0]
                raise SenteiError(f"{self.name} has no signature {key!r}; it has {known}.")
        return candidates[0] if candidates else None

    def __call__(
        self,
        inputs: np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray],
        *,
        raw: bool = False,
    ) -> dict[str, np.ndarray]:
        """Runs the file on a batch of any size.

        A file with an open batch dimension is resized to the batch; a file with a fixed one is run
        as often as needed (the last round filled up with zeros that are cut off again).

        Args:
            inputs: One array, a list in the order of `inputs`, or a dict by name.
            raw: Whether to give the integers of a quantized output instead of real numbers.

        Returns:
            The outputs by name.

        Raises:
            SenteiError: An input is missing, unknown, or of a shape or type that does not fit.
            UnsupportedModel: The runtime fails; the message holds its words.
        """
        arrays = self._match(inputs)
        batch = self._batch(arrays)
        if batch is None:
            self.set(arrays)
            self.invoke()
            return self.get(raw=raw)
        return self._run_in_rounds(arrays, *batch, raw=raw)

    def set(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Copies inputs into the runtime, resizing open dimensions; shapes must otherwise fit."""
        resized = False
        for detail, name in zip(self._input_details, self.inputs, strict=True):
            shape = inputs[name].shape
            if tuple(detail["shape"]) != shape:
                self._interpreter.resize_tensor_input(detail["index"], shape, strict=True)
                resized = True
        try:
            if resized:
                with quiet():
                    self._interpreter.allocate_tensors()
                self._input_details = self._interpreter.get_input_details()
            for detail, (name, port) in zip(self._input_details, self.inputs.items(), strict=True):
                value = np.ascontiguousarray(port.encode(inputs[name]))
                self._interpreter.set_tensor(detail["index"], value)
        except (ValueError, RuntimeError) as error:
            if isinstance(error, SenteiError):
                raise
            raise UnsupportedModel(f"The runtime refuses {self.name}: {_one_line(error)}") from None

    def invoke(self) -> None:
        """Computes the outputs of the inputs that were `set`."""
        if self._stateful:
            self._interpreter.reset_all_variables()
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModel(f"{self.name} fails to run: {_one_line(error)}") from None

    def get(self, *, raw: bool = False) -> dict[str, np.ndarray]:
        """Copies the outputs out of the runtime, as real numbers unless `raw`."""
        values = {name: self._interpreter.get_tensor(i) for name, i in self._output_index.items()}
        return values if raw else {name: self.outputs[name].decode(v) for name, v in values.items()}

    def _match(self, inputs: Any) -> dict[str, np.ndarray]:
        if isinstance(inputs, Mapping):
            if set(inputs) != set(self.inputs):
                raise SenteiError(
                    f"{self.name} expects the inputs {sorted(self.inputs)}; "
                    f"received {sorted(inputs)}."
                )
            return {name: np.asarray(inputs[name]) for name in self.inputs}
        given = list(inputs) if isinstance(inputs, list | tuple) else [inputs]
        if len(given) != len(self.inputs):
            raise SenteiError(
                f"{self.name} expects {len(self.inputs)} inputs {list(self.inputs)}; "
                f"received {len(given)}."
            )
        return {name: np.asarray(value) for name, value in zip(self.inputs, given, strict=True)}

    def _batch(self, arrays: Mapping[str, np.ndarray]) -> tuple[int, int] | None:
        """None when every array fits as it is, else (samples given, samples a run takes)."""
        wanted: set[tuple[int, int]] = set()
        fits = True
        for name, port in self.inputs.items():
            shape = arrays[name].shape
            same_rank = len(shape) == len(port.shape)
            pairs = list(zip(shape, port.shape, strict=True)) if same_rank else []
            good = [want in (-1, have) for have, want in pairs]
            if not same_rank or not all(good[1:]):
                raise SenteiError(f"Input {port} does not fit an array of shape {list(shape)}.")
            if good:
                wanted.add(pairs[0])
                fits = fits and good[0]
        if fits:
            return None
        if len(wanted) != 1:
            raise SenteiError(
                f"The inputs of {self.name} have different batch sizes: "
                f"{ {name: list(array.shape) for name, array in arrays.items()} }."
            )
        return wanted.pop()

    def _run_in_rounds(
        self, arrays: Mapping[str, np.ndarray], samples: int, step: int, *, raw: bool
    ) -> dict[str, np.ndarray]:
        rounds: list[dict[str, np.ndarray]] = []
        for start in range(0, samples, step):
            part = {name: array[start : start + step] for name, array in arrays.items()}
            missing = start + step - samples
            if missing > 0:
                part = {
                    name: np.concatenate(
                        [array, np.zeros((missing, *array.shape[1:]), array.dtype)]
                    )
                    for name, array in part.items()
                }
            self.set(part)
            self.invoke()
            rounds.append(self.get(raw=raw))
            for name, value in rounds[-1].items():
                if value.ndim == 0 or value.shape[0] != step:
                    raise SenteiError(
                        f"Output {name!r} of {self.name} has shape {list(value.shape)}, which "
                        f"has no batch of {step}; give exactly {step} samples."
                    )
        return {name: np.concatenate([r[name] for r in rounds])[:samples] for name in self.outputs}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Holds back the runtime's chatter ("INFO: Created TensorFlow Lite XNNPACK delegate ...").

    The C++ logger writes to file descriptor 2 and has no switch in Python, so the descriptor is
    pointed at a temporary file for as long as the runtime is being set up; lines that are not mere
    information are passed on afterwards. Other threads' writes to it in that moment come later.
    """
    with _stderr_lock, tempfile.TemporaryFile() as log:
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


def _port(detail: dict[str, Any], name: str) -> Port:
    scales = detail["quantization_parameters"]["scales"]
    dtype = np.dtype(detail["dtype"])
    quantized = len(scales) == 1 and dtype.kind in "iu"
    signature = detail["shape_signature"]
    shape = signature if len(signature) == len(detail["shape"]) else detail["shape"]
    return Port(
        name=name,
        shape=tuple(int(size) for size in shape),
        dtype=dtype,
        scale=float(scales[0]) if quantized else None,
        zero_point=int(detail["quantization_parameters"]["zero_points"][0]) if quantized else 0,
    )


def _unique_names(details: Sequence[dict[str, Any]]) -> dict[str, int]:
    return {detail["name"]: int(detail["index"]) for detail in details}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
