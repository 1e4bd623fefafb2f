"""How much memory a `.tflite` file takes in the runtime, measured in a process of its own.

Run as a module it is that process: it reads one request from its standard input and answers on its
standard output. A file that makes the runtime crash takes only this process down.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from sentei.core.errors import CorruptFile, UnsupportedModel

# Buffers that the runtime allocates on its first run exist after three.
_RUNS = 3
_COMMAND = ("-m", "sentei.litert.memory")


def measure(
    path: str | os.PathLike[str], shapes: Mapping[int, Sequence[int]], threads: int = 1
) -> int | None:
    """Runs a file in a child process and returns how much its peak memory grew.

    What counts is the growth of the child's peak resident memory from just before the file is
    opened until it has run three times: the pages of the file that are touched, weights packed for
    XNNPACK, and activations. The interpreter's own code and Python are not in it.

    Args:
        path: The file.
        shapes: The shape to give each input tensor, by its index.
        threads: Threads of the runtime.

    Returns:
        Bytes, or None where the system does not tell (no `/proc/self/status`).

    Raises:
        CorruptFile: The runtime crashed on the file.
        UnsupportedModel: The runtime refuses the file; the message holds its words.
    """
    request = json.dumps({"path": os.fspath(path), "shapes": dict(shapes), "threads": threads})
    child = subprocess.run(
        [sys.executable, *_COMMAND],
        input=request,
        capture_output=True,
        text=True,
        check=False,
    )
    if child.returncode < 0:
        raise CorruptFile(
            f"{os.fspath(path)} makes the runtime crash (signal {-child.returncode}): it is "
            "damaged or from an incompatible exporter. Write or copy the file again."
        )
    lines = child.stdout.splitlines()
    if child.returncode or not lines:
        words = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        raise UnsupportedModel(f"The runtime refuses {os.fspath(path)}: {words}")
    growth: int | None = json.loads(lines[-1])
    return growth


def _status(field: str) -> int | None:
    """A field of this process' memory accounts, in bytes (Linux)."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    values = [line.split() for line in lines if line.startswith(f"{field}:")]
    return int(values[0][1]) * 1024 if values else None


def _forget_peak() -> None:
    """Sets the peak back to what is resident now, where the kernel lets us."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def _answer() -> int | None:
    import numpy as np
    from ai_edge_litert.interpreter import Interpreter

    request = json.load(sys.stdin)
    _forget_peak()
    before = _status("VmRSS")
    interpreter = Interpreter(model_path=request["path"], num_threads=request["threads"])
    for index, shape in request["shapes"].items():
        interpreter.resize_tensor_input(int(index), shape)
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        interpreter.set_tensor(detail["index"], np.zeros(detail["shape"], detail["dtype"]))
    for _ in range(_RUNS):
        interpreter.invoke()
    peak = _status("VmHWM")
    return None if before is None or peak is None else max(0, peak - before)


if __name__ == "__main__":
    try:
        answer = _answer()
    except (ValueError, RuntimeError, MemoryError) as error:
        sys.exit(" ".join(str(error).split()) or type(error).__name__)
    sys.stdout.write(json.dumps(answer))
