"""How long each operator of a `.tflite` file takes, as the runtime itself measures it.

LiteRT's Python interpreter offers no profile, but the C library in the same wheel does. It is
called through ctypes, in a process of its own (run as a module this file is that process), so a
library that has changed costs the profile and nothing else.
"""

import ctypes
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_RUNS = 30
_WARM_UP_RUNS = 3
_PATIENCE = 120.0
_COMMAND = ("-m", "sentei.litert.profiling")
_CPU, _WRITE = 1, 1
# Larger than the C structure that describes a tensor's type, whatever its version.
_TYPE_BYTES = 1024
# One row of the library's report: node type, start, first, average (ms), share, ..., times called.
_ROW = re.compile(
    r"^\s*(?P<name>\S.*?)\s+[\d.]+\s+[\d.]+\s+(?P<average>[\d.]+)\s+(?P<share>[\d.]+)%"
    r"\s+[\d.]+%\s+-?[\d.]+\s+\d+\s+\S"
)


@dataclass(frozen=True)
class OperatorTime:
    """The time of one operator in one run.

    Attributes:
        name: What was run, in the words of whoever ran it.
        by: `"xnnpack"`, or `"builtin"` for the runtime's own kernels.
        share: Share of the whole run, from 0 to 1.
        mean_ms: Mean time in milliseconds; the clock of the profile ticks in microseconds.
    """

    name: str
    by: str
    share: float
    mean_ms: float


def profile(path: str | os.PathLike[str], threads: int = 1) -> tuple[OperatorTime, ...] | None:
    """Profiles a file at the shapes it has on disk (open dimensions are 1), on zeros.

    Args:
        path: The file.
        threads: Threads of the runtime.

    Returns:
        The operators in the order in which they run, or None where the runtime gives no profile.
    """
    command = [sys.executable, *_COMMAND, os.fspath(path), str(threads)]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except subprocess.TimeoutExpired:
        return None
    if child.returncode:
        return None
    report: str = json.loads(child.stdout.splitlines()[-1])
    return parse(report) or None


def parse(report: str) -> tuple[OperatorTime, ...]:
    """Reads the library's text report.

    Args:
        report: The text; its first table lists the operators in the order in which they run.

    Returns:
        The rows of that table.
    """
    first_table = report.partition("Top by Computation Time")[0]
    rows = filter(None, map(_ROW.match, first_table.splitlines()))
    return tuple(
        OperatorTime(
            name=row["name"].removeprefix("Delegate/"),
            by="xnnpack" if row["name"].startswith("Delegate/") else "builtin",
            share=float(row["share"]) / 100,
            mean_ms=float(row["average"]),
        )
        for row in rows
    )


class _Library:
    """The C library; every call is checked."""

    def __init__(self) -> None:
        import ai_edge_litert

        folder = Path(ai_edge_litert.__file__).parent
        (path,) = [*folder.glob("libLiteRt.*"), *folder.glob("LiteRt.dll")]
        self._library = ctypes.CDLL(str(path))

    def __call__(self, function: str, *arguments: object) -> None:
        status = getattr(self._library, f"LiteRt{function}")(*arguments)
        if status:
            raise RuntimeError(f"LiteRt{function} gives the status {status}")

    def make(self, function: str, *arguments: object) -> ctypes.c_void_p:
        """Calls a function whose last argument receives a handle."""
        handle = ctypes.c_void_p()
        self(function, *arguments, ctypes.byref(handle))
        return handle


def _answer(path: str, threads: int) -> str:
    """The library's report on one file."""
    call = _Library()
    environment = call.make("CreateEnvironment", 0, None)
    model = call.make("CreateModelFromFile", environment, os.fsencode(path))
    options = call.make("CreateOptions")
    call("SetOptionsHardwareAccelerators", options, _CPU)
    settings = {b"runtime_options_string": b"enable_profiling = true\n"}
    settings[b"xnnpack"] = b"num_threads = %d\n" % threads
    # The library keeps pointers to the texts, and calls what it is given to free them.
    texts = [ctypes.create_string_buffer(text) for text in settings.values()]
    keep = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: None)
    for name, text in zip(settings, texts, strict=True):
        added = call.make("CreateOpaqueOptions", name, ctypes.byref(text), keep)
        call("AddOpaqueOptions", options, added)
    compiled = call.make("CreateCompiledModel", environment, model, options)
    inputs = _buffers(call, environment, model, compiled, "Input")
    outputs = _buffers(call, environment, model, compiled, "Output")
    sizes = ctypes.c_size_t(len(inputs)), ctypes.c_size_t(len(outputs))
    profiler = call.make("CompiledModelGetProfiler", compiled)

    def run(times: int) -> None:
        for _ in range(times):
            signature = ctypes.c_size_t(0)
            call("RunCompiledModel", compiled, signature, sizes[0], inputs, sizes[1], outputs)

    run(_WARM_UP_RUNS)
    call("StartProfiler", profiler)
    run(_RUNS)
    call("StopProfiler", profiler)
    report = ctypes.c_char_p()
    call("GetProfileSummary", profiler, compiled, ctypes.byref(report))
    return (report.value or b"").decode("utf-8", "replace")


def _buffers(
    call: _Library,
    environment: ctypes.c_void_p,
    model: ctypes.c_void_p,
    compiled: ctypes.c_void_p,
    side: str,
) -> "ctypes.Array[ctypes.c_void_p]":
    """Memory for every input or output, as the compiled model wants it."""
    graph = call.make("GetModelSubgraph", model, ctypes.c_size_t(0))
    count = ctypes.c_size_t()
    call(f"GetNumSubgraph{side}s", graph, ctypes.byref(count))
    found = (ctypes.c_void_p * count.value)()
    for index in range(count.value):
        place = ctypes.c_size_t(index)
        tensor = call.make(f"GetSubgraph{side}", graph, place)
        kind = (ctypes.c_char * _TYPE_BYTES)()
        call("GetRankedTensorType", tensor, kind)
        wanted = call.make(
            f"GetCompiledModel{side}BufferRequirements", compiled, ctypes.c_size_t(0), place
        )
        made = call.make("CreateManagedTensorBufferFromRequirements", environment, kind, wanted)
        found[index] = made.value
        _fill_with_zeros(call, made)
    return found


def _fill_with_zeros(call: _Library, buffer: ctypes.c_void_p) -> None:
    """New memory holds anything: positions out of range, or numbers that are slow to add."""
    size = ctypes.c_size_t()
    call("GetTensorBufferPackedSize", buffer, ctypes.byref(size))
    memory = ctypes.c_void_p()
    call("LockTensorBuffer", buffer, ctypes.byref(memory), _WRITE)
    ctypes.memset(memory, 0, size.value)
    call("UnlockTensorBuffer", buffer)


if __name__ == "__main__":
    text = _answer(sys.argv[1], int(sys.argv[2]))
    sys.stdout.write("\n" + json.dumps(text) + "\n")
    sys.stdout.flush()
    # The library's destructors have nothing to add, and one that fails must not cost the answer.
    os._exit(0)
