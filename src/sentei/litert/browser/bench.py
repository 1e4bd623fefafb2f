"""Timing `.tflite` files against each other in a browser, where XNNPACK runs sparse."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from sentei.core.errors import SenteiError
from sentei.litert import flatbuffer, tables
from sentei.litert.benchmarking import Inputs, draw, progress, take
from sentei.litert.browser import found
from sentei.litert.browser.server import Visit, attend
from sentei.litert.runtime import Runner

_SILENCE = 180.0
# Outputs that are further apart than this, relative to the largest one, are called different.
_WRONG = 1e-2


@dataclass(frozen=True)
class BrowserMeasurement:
    """What one file costs in one runtime.

    Attributes:
        runtime: npm's name of the runtime, with its version.
        file: The path.
        size: Bytes of the file.
        median_ms: Median latency of one run, in milliseconds.
        quartiles_ms: First and third quartile of it.
        ratio: Median of this file's latency over the first file's in the same round.
        ratio_quartiles: First and third quartile of that ratio.
        error: Largest difference between an output in the browser and here, without XNNPACK,
            relative to the largest value of that output.
        runs: Timed rounds.
    """

    runtime: str
    file: str
    size: int
    median_ms: float
    quartiles_ms: tuple[float, float]
    ratio: float
    ratio_quartiles: tuple[float, float]
    error: float
    runs: int

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        return {**asdict(self), "goes_wrong": self.goes_wrong}

    @property
    def goes_wrong(self) -> bool:
        """Whether the runtime computes something else than it should."""
        return not self.error < _WRONG


class BrowserMeasurements(list[BrowserMeasurement]):
    """The measurements, runtime by runtime in the order of the files; prints as a table.

    Attributes:
        browser: What the browser calls itself.
        missing: Runtimes that are not installed.
        refused: Runtimes that do not take one of the files, and what they say.
    """

    browser: str = ""
    missing: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data that JSON can hold."""
        return {
            "browser": self.browser,
            "missing": list(self.missing),
            "refused": list(self.refused),
            "measurements": [item.to_dict() for item in self],
        }

    def tables(self) -> list[Table | str]:
        """What `str` shows, for `rich` to print."""
        columns = ("file", "runtime", "bytes", "median ms", "[quartiles]", "ratio", "[quartiles]")
        rows = (
            (
                item.file,
                item.runtime,
                tables.count(item.size),
                f"{item.median_ms:.4g}",
                "[{:.4g}, {:.4g}]".format(*item.quartiles_ms),
                f"{item.ratio:.2f}x",
                "[{:.2f}, {:.2f}]".format(*item.ratio_quartiles),
                f"{item.error:.1e}",
            )
            for item in self
        )
        shown: list[Table | str] = [tables.table((*columns, "error"), rows)]
        shown += [
            f"{item.file} goes wrong in {item.runtime}: its outputs are not those of the file. "
            f"Ask `sentei doctor {item.file}` why."
            for item in self
            if item.goes_wrong
        ]
        shown += [f"Not measured: {reason}" for reason in self.refused]
        if self.missing:
            names = " and ".join(self.missing)
            shown.append(f"Not installed: {names}. {found.install_command(*self.missing)}")
        return [*shown, f"One thread, {self.browser}"]

    def __str__(self) -> str:
        return tables.plain(*self.tables())


def benchmark_in_browser(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    inputs: Inputs | None = None,
    runs: int = 50,
    chromium: str | os.PathLike[str] | None = None,
    node_modules: str | os.PathLike[str] | None = None,
) -> BrowserMeasurements:
    """Measures `.tflite` files side by side in headless Chromium, in every runtime installed.

    The runtimes are WebAssembly: `@tensorflow/tfjs-tflite` and `@litertjs/core`, as npm installs
    them, on one thread, with SIMD. The files take turns as in `sentei.benchmark`; a turn lasts at
    least 20 ms. Outputs are compared with those of the runtime here without XNNPACK. All is served
    from this machine, and the browser can reach nothing else.

    Args:
        files: One or more files; the first is what the others are compared with.
        inputs: As in `sentei.benchmark`.
        runs: Timed rounds.
        chromium: The browser; looked for on the PATH by default.
        node_modules: Folder of npm packages; looked for by default (see `found.runtimes`).

    Returns:
        A measurement per runtime and file; without those of a runtime that fails on one of them.

    Raises:
        CorruptFile: A file is missing or damaged.
        UnsupportedModel: The runtime here refuses a file.
        SenteiError: Chromium or the runtimes are not there, every runtime fails on a file, `files`
            is empty, `runs` is below 1 or `inputs` do not fit.
    """
    given = [files] if isinstance(files, str | os.PathLike) else list(files)
    paths = [os.fspath(file) for file in given]
    if not paths:
        raise SenteiError("`files` is empty. Give at least one .tflite file.")
    if runs < 1:
        raise SenteiError(f"`runs` must be at least 1; received {runs}.")
    program, installed = found.chromium(chromium), found.runtimes(node_modules)
    contestants = [_Contestant(path, inputs) for path in paths]
    results = BrowserMeasurements()
    results.missing = tuple(found.RUNTIMES.keys() - {runtime.name for runtime in installed})
    with progress(len(installed) * (len(paths) + runs)) as advance:
        for runtime in installed:
            visit = _visit(runtime, contestants, runs)
            try:
                attend(visit, program, _SILENCE, advance)
            except SenteiError as error:
                if visit.failure is None:
                    raise
                results.refused += (str(error),)
                continue
            results += _measured(visit, runtime, contestants, runs)
            results.browser = str((visit.result or {}).get("agent", ""))
    if not results:
        raise SenteiError(" ".join(results.refused))
    return results


class _Contestant:
    """A file, its inputs, and what it should give."""

    def __init__(self, path: str, inputs: Inputs | None):
        self.path = path
        self.content = flatbuffer.read_bytes(path)
        runner = Runner(path, kernels="builtin")
        values = draw(runner) if inputs is None else take(inputs, runner)
        runner.set(values)
        runner.invoke()
        self.expected = {
            name: (port.index, runner.get(raw=True)[name]) for name, port in runner.outputs.items()
        }
        self.inputs = [
            (port, np.ascontiguousarray(port.encode(values[name])))
            for name, port in runner.inputs.items()
        ]

    def job(self) -> dict[str, Any]:
        """What the page is told of it."""
        return {
            "name": self.path,
            "inputs": [
                {"name": port.name, "dtype": str(value.dtype), "shape": list(value.shape)}
                for port, value in self.inputs
            ],
        }

    def error(self, place: int, outputs: dict[tuple[int, str], np.ndarray]) -> float:
        """The largest difference of an output, relative to its largest value."""
        worst = 0.0
        for name, (index, expected) in self.expected.items():
            seen = outputs.get((place, name), outputs.get((place, str(index))))
            if seen is None or seen.size != expected.size:
                raise SenteiError(f"The browser gave no output {name!r} of {self.path}.")
            reference = expected.astype("float64").ravel()
            largest = max(float(np.abs(reference).max(initial=0.0)), 1e-30)
            difference = float(np.abs(seen.astype("float64") - reference).max(initial=0.0))
            worst = max(worst, difference / largest) if np.isfinite(difference) else np.inf
        return worst


def _visit(runtime: found.Runtime, contestants: Sequence[_Contestant], runs: int) -> Visit:
    return Visit(
        {"runtime": runtime.name, "runs": runs, "files": [item.job() for item in contestants]},
        [item.content for item in contestants],
        [[value.tobytes() for _, value in item.inputs] for item in contestants],
        runtime.folders,
    )


def _measured(
    visit: Visit, runtime: found.Runtime, contestants: Sequence[_Contestant], runs: int
) -> list[BrowserMeasurement]:
    result = visit.result or {}
    if not result.get("features", {}).get("simd"):
        raise SenteiError(f"{runtime.name} found no SIMD in the browser. Use a newer Chromium.")
    times = np.array(result["times"], "float64")
    measured = []
    for place, (contestant, own) in enumerate(zip(contestants, times, strict=True)):
        low, median, high = np.percentile(own, [25, 50, 75]).tolist()
        ratio_low, ratio, ratio_high = np.percentile(own / times[0], [25, 50, 75]).tolist()
        measured.append(
            BrowserMeasurement(
                runtime=f"{runtime.name} {runtime.version}",
                file=contestant.path,
                size=len(contestant.content),
                median_ms=median,
                quartiles_ms=(low, high),
                ratio=ratio,
                ratio_quartiles=(ratio_low, ratio_high),
                error=contestant.error(place, visit.outputs),
                runs=runs,
            )
        )
    return measured
