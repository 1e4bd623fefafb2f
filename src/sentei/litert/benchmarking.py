"""Timing `.tflite` files against each other on the real runtime."""

import gzip
import io
import math
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from sentei.core.errors import CorruptFile, SenteiError
from sentei.litert import flatbuffer, memory, profiling, tables
from sentei.litert.profiling import OperatorTime
from sentei.litert.runtime import Runner

Inputs = np.ndarray | Sequence[np.ndarray] | Mapping[str, np.ndarray]

_WARM_UP_RUNS = 3
# A turn shorter than this would time the clock and Python's call (about a microsecond) as well.
_SHORTEST_TURN = 2e-3
_SECONDS_PER_FRAME = 0.1
_SEED = 0


@dataclass(frozen=True)
class Measurement:
    """What one file costs.

    Invariants: `quartiles_ms[0] <= median_ms <= quartiles_ms[1]`, and the same for the ratios; the
    first file's `ratio` is exactly 1.

    Attributes:
        file: The path.
        size: Bytes of the file.
        gzip_size: Bytes after `gzip -9`, about what a download costs.
        median_ms: Median latency of one run, in milliseconds.
        quartiles_ms: First and third quartile of the latency: half of all runs lie between them.
        ratio: Median of this file's latency over the first file's in the same round; below 1 is
            faster.
        ratio_quartiles: First and third quartile of that ratio.
        memory: Growth of the peak resident memory, in bytes, of a process that loads the file and
            runs it (touched pages of the file, packed weights, activations); None where the system
            does not tell.
        batch: The shapes of the inputs it was run on, by name.
        threads: Threads of the runtime.
        runs: Timed rounds.
        profile: Time per operator in running order, from a run apart on zeros at the shapes on
            disk; None where the runtime gives no profile (a file exported with an open batch, say).
    """

    file: str
    size: int
    gzip_size: int
    median_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]
    memory: int | None
    batch: dict[str, tuple[int, ...]]
    threads: int
    runs: int
    profile: tuple[OperatorTime, ...] | None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        return asdict(self)

    def __str__(self) -> str:
        low, high = self.quartiles_ms
        return (
            f"{self.file}: {self.median_ms:.4g} ms [{low:.4g}, {high:.4g}], x{self.ratio:.2f}, "
            f"{self.size:,} bytes ({self.gzip_size:,} gzipped)"
        )


class Measurements(list[Measurement]):
    """The measurements of one benchmark, in the order of the files; prints as a table."""

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        return {"measurements": [item.to_dict() for item in self]}

    def tables(self) -> list[Table | str]:
        """What `str` shows, for `rich` to print."""
        columns = ("file", "bytes", "gzip -9", "median ms", "[quartiles]", "ratio", "[quartiles]")
        rows = (
            (
                item.file,
                tables.count(item.size),
                tables.count(item.gzip_size),
                f"{item.median_ms:.4g}",
                "[{:.4g}, {:.4g}]".format(*item.quartiles_ms),
                f"{item.ratio:.2f}x",
                "[{:.2f}, {:.2f}]".format(*item.ratio_quartiles),
                tables.count(item.memory),
            )
            for item in self
        )
        return [tables.table((*columns, "peak memory"), rows)]

    def profiles(self) -> list[Table | str]:
        """Which kinds of operators take the time of each file, for `rich` to print."""
        shown: list[Table | str] = []
        for item in self:
            if item.profile is None:
                shown.append(f"{item.file}: the runtime gives no profile")
            else:
                shown += [f"{item.file}:", _profile_table(item.profile)]
        return shown

    def __str__(self) -> str:
        return tables.plain(*self.tables())


def _profile_table(profile: Sequence[OperatorTime]) -> Table:
    """One row per kind of operator, the costliest first."""
    kinds: dict[tuple[str, str], list[OperatorTime]] = {}
    for item in profile:
        kinds.setdefault((item.name, item.by), []).append(item)
    ranked = sorted(kinds.items(), key=lambda kind: -sum(item.share for item in kind[1]))
    rows = (
        (
            name,
            by,
            tables.count(len(items)),
            f"{sum(item.mean_ms for item in items):.3f}",
            tables.share(sum(item.share for item in items)),
        )
        for (name, by), items in ranked
    )
    return tables.table(("operator", "run by", "times", "mean ms", "share"), rows)


def benchmark(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    inputs: Inputs | None = None,
    threads: int = 1,
    runs: int = 50,
) -> Measurements:
    """Measures size, speed and memory of `.tflite` files side by side.

    The files take turns (A B C, B C A, C A B, ...), so that a machine that gets slower for a while
    slows all of them, and each ratio compares two turns of the same round. A turn runs the file
    once, or as often as fills two milliseconds, and times only the run itself. The runtime uses
    XNNPACK, as on devices. Memory is measured in a process per file (see `Measurement.memory`).

    Args:
        files: One or more files; the first is what the others are compared with.
        inputs: One array, a list in the order of the inputs, or a dict by name, as real numbers
            (quantized inputs are put on their grid); a file with a fixed batch takes the first
            rows. None draws from a fixed seed: floats from the standard normal distribution,
            quantized integers uniformly over their whole range, other integers 0 or 1 (valid
            positions in any lookup table of two rows or more); open dimensions get the size 1.
        threads: Threads of the runtime.
        runs: Timed rounds.

    Returns:
        One measurement per file, in the order of `files`.

    Raises:
        CorruptFile: A file is missing, damaged, or makes the runtime crash.
        UnsupportedModel: The runtime refuses a file; the message holds its words.
        SenteiError: `files` is empty, `runs` or `threads` is below 1, or `inputs` do not fit.
    """
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = [os.fspath(file) for file in given]
    if not paths:
        raise SenteiError("`files` is empty. Give at least one .tflite file.")
    if runs < 1 or threads < 1:
        raise SenteiError(f"`runs` and `threads` must be at least 1; received {runs}, {threads}.")
    with progress(2 * len(paths) + runs) as advance:
        contestants = []
        for path in paths:
            contestants.append(_Contestant(path, inputs, threads))
            advance(2)
        times = _take_turns(contestants, runs, advance)
    results = Measurements()
    for contestant, own in zip(contestants, times, strict=True):
        low, median, high = np.percentile(own * 1e3, [25, 50, 75]).tolist()
        # NumPy's median of a value over itself is exactly 1, so the first row needs no exception.
        ratio_low, ratio, ratio_high = np.percentile(own / times[0], [25, 50, 75]).tolist()
        results.append(
            Measurement(
                file=contestant.path,
                size=contestant.size,
                gzip_size=contestant.gzip_size,
                median_ms=median,
                quartiles_ms=(low, high),
                ratio=ratio,
                ratio_quartiles=(ratio_low, ratio_high),
                memory=contestant.memory,
                batch={name: value.shape for name, value in contestant.values.items()},
                threads=threads,
                runs=runs,
                profile=contestant.profile,
            )
        )
    return results


def read_inputs(path: str | os.PathLike[str]) -> Inputs:
    """Reads inputs that `numpy.savez` (arrays by name) or `numpy.save` (one array) wrote.

    Args:
        path: A `.npz` or `.npy` file.

    Returns:
        What `benchmark` takes as `inputs`.

    Raises:
        CorruptFile: The file is missing, damaged or neither of the two.
    """
    content = flatbuffer.read_bytes(path)
    try:
        stored = np.load(io.BytesIO(content), allow_pickle=False)
        return stored if isinstance(stored, np.ndarray) else {key: stored[key] for key in stored}
    except Exception as error:  # NumPy's zip and header parsers let many kinds through.
        raise CorruptFile(
            f"{os.fspath(path)} holds no arrays that NumPy can read: it is damaged or neither .npz "
            "nor .npy. Write it with numpy.savez('x.npz', input_name=array)."
        ) from error


class _Contestant:
    """A file, loaded and warm, that can take a turn."""

    def __init__(self, path: str, inputs: Inputs | None, threads: int):
        content = flatbuffer.read_bytes(path)
        self.path = path
        self.size = len(content)
        self.gzip_size = len(gzip.compress(content, 9))
        self.runner = Runner(path, threads)
        self.values = draw(self.runner) if inputs is None else take(inputs, self.runner)
        # The child runs it first: if the runtime crashes on the file, this process lives on.
        ports = self.runner.inputs
        shapes = {ports[name].index: value.shape for name, value in self.values.items()}
        self.memory = memory.measure(path, shapes, threads)
        self.profile = profiling.profile(path, threads)
        self.runner.set(self.values)
        seconds = [self.turn() for _ in range(_WARM_UP_RUNS)]
        self.repeats = max(1, math.ceil(_SHORTEST_TURN / max(min(seconds), 1e-9)))

    repeats = 1

    def turn(self) -> float:
        """Seconds of one run, the mean over `repeats` of them."""
        invoke = self.runner.invoke
        start = time.perf_counter_ns()
        for _ in range(self.repeats):
            invoke()
        return (time.perf_counter_ns() - start) / self.repeats * 1e-9


def _take_turns(contestants: Sequence[_Contestant], runs: int, advance: Any) -> np.ndarray:
    """Seconds per file and round: array of shape `(files, runs)`."""
    times = np.empty((len(contestants), runs))
    for turn in range(runs):
        for place in range(len(contestants)):
            index = (place + turn) % len(contestants)
            contestants[index].runner.set(contestants[index].values)
            times[index, turn] = contestants[index].turn()
        advance(1)
    return times


def draw(runner: Runner) -> dict[str, np.ndarray]:
    """Random inputs as `benchmark` describes them.

    Args:
        runner: The file, loaded.

    Returns:
        Values by name.
    """
    random = np.random.default_rng(_SEED)
    return {name: port.draw(random) for name, port in runner.inputs.items()}


def take(inputs: Inputs, runner: Runner) -> dict[str, np.ndarray]:
    """The user's inputs, cut to the batch that one run of the file takes.

    Args:
        inputs: As `benchmark` takes them.
        runner: The file, loaded.

    Returns:
        Values by name.

    Raises:
        SenteiError: They do not fit.
    """
    if isinstance(inputs, Mapping) and len(inputs) == len(runner.inputs) == 1:
        inputs = next(iter(inputs.values()))
    cut = {}
    for name, value in runner.match(inputs).items():
        rows = runner.inputs[name].shape[:1]
        cut[name] = value if rows in ((), (-1,)) else value[: rows[0]]
        if rows not in ((), (-1,)) and len(cut[name]) < rows[0]:
            raise SenteiError(
                f"Input {runner.inputs[name]} of {runner.name} needs {rows[0]} rows; "
                f"received {len(value)}."
            )
    return cut


@contextmanager
def progress(total: int) -> Iterator[Any]:
    """A bar on a terminal; it draws only between turns, for drawing takes time from a run.

    Args:
        total: Steps until it is full.

    Yields:
        A function that takes the number of steps just done.
    """
    console = Console(stderr=True)
    columns = (
        TextColumn("measuring"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(
        *columns,
        console=console,
        auto_refresh=False,
        transient=True,
        disable=not console.is_terminal,
    )
    with bar:
        task = bar.add_task("measuring", total=total)

        drawn = 0.0

        def advance(steps: int) -> None:
            nonlocal drawn
            due = time.monotonic() - drawn > _SECONDS_PER_FRAME
            drawn = time.monotonic() if due else drawn
            bar.update(task, advance=steps, refresh=due)

        yield advance
