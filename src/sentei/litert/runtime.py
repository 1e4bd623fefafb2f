"""Running a `.tflite` file in the LiteRT interpreter, with real numbers in and out."""

import contextlib
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from sentei.core.errors import SenteiError, UnsupportedModel
from sentei.litert import flatbuffer
from sentei.litert.port import port_of
from sentei.litert.stderr import captured_stderr

Kernels = Literal["xnnpack", "builtin", "reference"]
_RESOLVERS = {
    "xnnpack": OpResolverType.BUILTIN,
    "builtin": OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    "reference": OpResolverType.BUILTIN_REF,
}


class Runner:
    """A `.tflite` file ready to run.

    Invariants:
        `inputs` has the order of the graph's inputs, so a list of arrays is matched by position;
        what a call returns has the keys of `outputs`;
        a run does not see the one before: tensors marked as variable are reset (resource variables,
        which training graphs have and exported models do not, are left alone).

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
        keep_tensors: bool = False,
    ):
        """Loads a file and gives it memory.

        Args:
            model: The file, or its bytes.
            threads: Threads of the runtime, at least 1.
            kernels: `"xnnpack"` as on devices, `"builtin"` for the runtime's own optimized kernels,
                `"reference"` for its plain ones.
            signature: Which signature of the main graph to run; the first one by default.
            keep_tensors: Whether every tensor can be read after a run (`tensor`), not only the
                outputs. It takes memory, and XNNPACK keeps what it computes inside to itself.

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
        # The runtime warns of what `keep_tensors` costs.
        with self._runtime("refuses"), quiet(), warnings.catch_warnings(action="ignore"):
            self._interpreter = Interpreter(
                model_content=content,
                num_threads=threads,
                experimental_op_resolver_type=_RESOLVERS[kernels],
                experimental_preserve_all_tensors=keep_tensors,
            )
            self._interpreter.allocate_tensors()
            self._details = self._interpreter.get_input_details()
            results = self._interpreter.get_output_details()
        taken = {index: name for name, index in chosen.inputs.items()} if chosen else {}
        names = _distinct(taken.get(detail["index"], detail["name"]) for detail in self._details)
        self.inputs = {n: port_of(d, n) for n, d in zip(names, self._details, strict=True)}
        by_index = {int(detail["index"]): detail for detail in results}
        given = chosen.outputs if chosen else {}
        if not given:
            given = dict(zip(_distinct(d["name"] for d in results), by_index, strict=False))
        self._output_indices = given
        self.outputs = {name: port_of(by_index[index], name) for name, index in given.items()}
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

    def tensor(self, index: int) -> np.ndarray:
        """A copy of any tensor of the main graph after a run, for a runner that keeps them."""
        with self._runtime("keeps no such tensor of"):
            return np.asarray(self._interpreter.get_tensor(index))

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

    The C++ logger has no switch in Python. Lines that are more than information are passed on
    afterwards, and so is what another thread wrote meanwhile.
    """
    lines: list[str] = []
    try:
        with captured_stderr() as caught:
            try:
                yield
            finally:
                lines = caught().splitlines(keepends=True)
    finally:
        kept = [line for line in lines if not line.startswith(("INFO:", "VERBOSE:"))]
        if kept:
            os.write(2, "".join(kept).encode())


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
