"""How long an export takes and how much memory, against Keras' own exporter on TensorFlow.

Every measurement is a process of its own that imports, builds the model with random weights and
exports it once; the contenders take turns. Time is that of the export call alone, with whatever it
still has to import; processor time is what the process and its children spent in it on all cores,
which other load on the machine hardly changes. Memory is how much the anonymous memory of the
process and of its children grew during the call, at its peak, sampled from outside (`RssAnon`: code
mapped from files is not in it).

    python benchmarks/export_time.py [--model MobileNetV2] [--rounds 5] [--peer-python PATH]
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import data

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PEER = ROOT / ".venv-tensorflow" / "bin" / "python"

# The program of a measurement. It says when it is ready, waits to be watched, and says when done.
PROGRAM = """
import sys, time
import keras
model = getattr(keras.applications, {model!r})(weights=None)
{imports}
print("ready", sum(w.size for w in map(keras.ops.convert_to_numpy, model.weights)) * 4, flush=True)
sys.stdin.readline()
start = time.perf_counter()
{export}
print("done", time.perf_counter() - start, flush=True)
sys.stdin.readline()
"""


@dataclass(frozen=True)
class Contender:
    """One way to export: its name, the interpreter's backend, and the two lines that differ."""

    name: str
    backend: str
    imports: str
    export: str


@dataclass(frozen=True)
class Measurement:
    """One export: seconds, peak growth of memory in bytes, bytes of the model and of the file."""

    seconds: float
    processor_seconds: float
    memory: int
    model: int
    file: int


SENTEI = "import sentei"
CONTENDERS = (
    Contender("sentei, verified", "jax", SENTEI, "sentei.export(model, {path!r})"),
    Contender(
        "sentei, not verified", "jax", SENTEI, "sentei.export(model, {path!r}, verify=False)"
    ),
)
PEER_CONTENDERS = (
    Contender(
        "Keras on TensorFlow",
        "tensorflow",
        "",
        "model.export({path!r}, format='litert', verbose=False)",
    ),
    Contender(
        "sentei on TensorFlow, verified", "tensorflow", SENTEI, "sentei.export(model, {path!r})"
    ),
)


def main() -> int:
    """Runs the benchmark and writes its table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="MobileNetV2", help="a name in keras.applications")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", type=Path, help="a Python that has TensorFlow")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    peer = options.peer_python or (PEER if PEER.exists() else None)
    if peer is None:
        skipped = f"Keras on TensorFlow was not measured: {PEER} does not exist (--peer-python)."
        print(skipped)
    runs = [(sys.executable, contender) for contender in CONTENDERS]
    runs += [(str(peer), contender) for contender in PEER_CONTENDERS if peer]
    found: dict[str, list[Measurement]] = {contender.name: [] for _, contender in runs}
    for turn in range(options.rounds):
        for python, contender in runs:
            result = measure(python, contender, options.model)
            found[contender.name].append(result)
            print(f"round {turn + 1}: {contender.name}: {result.seconds:.2f} s", flush=True)
    write(found, options.model, options.rounds, options.output, None if peer else skipped)
    return 0


def measure(python: str, contender: Contender, model: str) -> Measurement:
    """Exports once in a fresh process and watches its memory."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "model.tflite")
        program = PROGRAM.format(
            model=model, imports=contender.imports, export=contender.export.format(path=path)
        )
        environment = {
            **os.environ,
            "KERAS_BACKEND": contender.backend,
            "PYTHONPATH": str(ROOT / "src"),
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "",
        }
        process = subprocess.Popen(
            [python, "-c", program],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # TensorFlow's converter logs more than a pipe holds: somebody has to read it.
        complaints: list[str] = []
        reader = threading.Thread(target=lambda: complaints.extend(process.stderr or ()))
        reader.start()
        try:
            size = int(answer(process, "ready", complaints))
            before = processor_seconds(process.pid)
            watch = Watch(process.pid)
            tell(process)
            seconds = float(answer(process, "done", complaints))
            spent = processor_seconds(process.pid) - before
            memory = watch.stop()
            tell(process)
            process.wait(timeout=60)
            return Measurement(seconds, spent, memory, size, Path(path).stat().st_size)
        finally:
            process.kill()
            process.wait()
            reader.join()


def tell(process: subprocess.Popen[str]) -> None:
    """Lets the process go on."""
    if process.stdin is not None:
        process.stdin.write("\n")
        process.stdin.flush()


def answer(process: subprocess.Popen[str], word: str, complaints: list[str]) -> str:
    """Reads lines until one begins with a word, and returns the rest of it."""
    for line in process.stdout or ():
        if line.startswith(word + " "):
            return line[len(word) + 1 :]
    process.wait()
    raise RuntimeError("the measured process failed:\n" + "".join(complaints[-20:]))


class Watch:
    """Samples the anonymous memory of a process and its children every few milliseconds."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._baseline = self._peak = anonymous_memory(pid)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stopped.wait(0.005):
            self._peak = max(self._peak, anonymous_memory(self._pid))

    def stop(self) -> int:
        """Returns how much the memory grew at its peak, in bytes."""
        self._stopped.set()
        self._thread.join()
        return self._peak - self._baseline


def processor_seconds(pid: int) -> float:
    """Processor time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


def anonymous_memory(pid: int) -> int:
    """Bytes of anonymous memory of a process and all it started."""
    total = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                total += int(line.split()[1]) * 1024
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                total += anonymous_memory(int(child))
    except (FileNotFoundError, ProcessLookupError):  # It has just ended.
        pass
    return total


def median(results: list[Measurement], field: str) -> float:
    """The median of one field."""
    return statistics.median(getattr(result, field) for result in results)


def ratio(value: float, reference: float | None) -> str:
    """A value against Keras' own, if that was measured."""
    return f"{value / reference:.3f}x" if reference else "-"


def write(
    found: dict[str, list[Measurement]], model: str, rounds: int, folder: Path, note: str | None
) -> None:
    """Writes the table as Markdown and JSON."""
    peer = found.get("Keras on TensorFlow")
    reference = median(peer, "seconds") if peer else None
    reference_spent = median(peer, "processor_seconds") if peer else None
    lines = [
        f"# Export of {model} to a `.tflite` file",
        "",
        f"Median of {rounds} rounds, contenders in turn, each export in a fresh process; "
        f"{os.cpu_count()} cores, {platform.machine()}, Python {platform.python_version()}, "
        f"{time.strftime('%Y-%m-%d')}. Reproduce: `python benchmarks/export_time.py "
        f"--model {model} --rounds {rounds}`.",
        "",
        "| exporter | seconds (lowest to highest) | of Keras | processor seconds | of Keras "
        "| peak memory | x model | file |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, results in found.items():
        seconds = [m.seconds for m in results]
        memory = median(results, "memory")
        spent = median(results, "processor_seconds")
        lines.append(
            f"| {name} | {statistics.median(seconds):.2f} ({min(seconds):.2f} to "
            f"{max(seconds):.2f}) | {ratio(statistics.median(seconds), reference)} | {spent:.2f} | "
            f"{ratio(spent, reference_spent)} | {memory / 1e6:.0f} MB | "
            f"{memory / results[0].model:.1f} | {results[0].file / 1e6:.2f} MB |"
        )
    lines += ["", f"The model's weights take {next(iter(found.values()))[0].model / 1e6:.1f} MB."]
    lines += ["", note] if note else []
    text = "\n".join(lines) + "\n"
    stem = "export_time" if model == "MobileNetV2" else f"export_time_{model.lower()}"
    measurements = {name: [asdict(m) for m in results] for name, results in found.items()}
    document = {"model": model, "rounds": rounds, "skipped": note, "measurements": measurements}
    data.keep(folder / f"{stem}.json", document, text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
