"""What pruning costs: the training step with a pruning rule over the plain one, per backend.

Both models train in one process on the same data, in turns (plain, pruned, plain, ...), through
`fit`; a turn is a fixed number of steps. Of each turn the median step is taken, and the ratio of
the two medians turn by turn; the table holds its median over the turns. With mask updates every
100 steps the median step has none: the ratio of the mean steps, which have, stands beside it (the
dense network's turns of 100 steps hold one update each, ResNet-20's hold none).

    python benchmarks/prune_overhead.py                     # every backend it finds
    python benchmarks/prune_overhead.py --backend jax       # this interpreter, one backend

Writes benchmarks/results/prune_overhead.json and .md.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import data

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
BACKENDS = ("jax", "tensorflow", "torch")


@dataclass(frozen=True)
class Rule:
    """A rule whose cost is measured.

    Attributes:
        script: the file that is run in each backend's interpreter.
        word: what it makes of a model: "pruned".
        told: what the table says the rule does.
        tasks: task → steps a turn, turns, bound on the ratio (None: there is none).
        attach: puts the rule on a model that will train so many steps; gives the model to train
            where that is another one.
        weights: how many weights of a model are under the rule.
    """

    script: str
    word: str
    told: str
    tasks: dict[str, tuple[int, int, float | None]]
    attach: Callable[[Any, int], Any]
    weights: Callable[[Any], int]

    @property
    def results(self) -> Path:
        """The table, but for its suffix."""
        return RESULTS / Path(self.script).stem


def prune(model: Any, steps: int) -> None:
    """Prunes a model to 80 % over so many steps, with an update every 100."""
    import sentei
    from sentei.sparsity import PolynomialDecay

    sentei.prune(model, PolynomialDecay(0.0, 0.8, 0, max(steps, 1), frequency=100))


def pruned_weights(model: Any) -> int:
    """How many weights of a model are under a pruning rule."""
    from sentei.sparsity import report

    return sum(row.size for row in report(model) if row.pattern)


PRUNING = Rule(
    __file__,
    "pruned",
    "a pruning rule (mask update every 100 steps)",
    {"resnet20": (5, 11, 1.03), "dense_300_100": (100, 21, 1.10)},
    prune,
    pruned_weights,
)


def main(rule: Rule = PRUNING) -> int:
    """Measures one backend, or each in a process of its own, and writes the table."""
    parser = argparse.ArgumentParser(description=f"What a rule costs: models that are {rule.word}.")
    parser.add_argument("--backend", choices=BACKENDS, help="measure in this interpreter")
    parser.add_argument("--tasks", nargs="+", choices=sorted(rule.tasks), default=list(rule.tasks))
    parser.add_argument("--turns", type=int, help="turns a task (default: by task)")
    options = parser.parse_args()
    if options.backend:
        for task in options.tasks:
            print(json.dumps(measure(rule, options.backend, task, options.turns)), flush=True)
        return 0
    rows = [row for backend in BACKENDS for row in in_child(rule, backend, options)]
    write(rule, rows)
    print(rule.results.with_suffix(".md").read_text())
    return 0


def in_child(rule: Rule, backend: str, options: argparse.Namespace) -> list[dict]:
    """Measures one backend in the interpreter that has it."""
    beside = HERE.parent / f".venv-{backend}" / "bin" / "python"
    python = str(beside) if beside.exists() else sys.executable
    command = [python, rule.script, "--backend", backend, "--tasks", *options.tasks]
    command += ["--turns", str(options.turns)] if options.turns else []
    paths = [str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "KERAS_BACKEND": backend,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "3",
    }
    print(f"measuring on {backend} ...", file=sys.stderr, flush=True)
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        print(f"{backend}: not measured (it is not installed, or failed)", file=sys.stderr)
        return []
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def measure(rule: Rule, backend: str, task: str, turns: int | None) -> dict:
    """Times both models of a task in turns."""
    os.environ["KERAS_BACKEND"] = backend
    import keras
    import models
    import numpy as np

    steps, default_turns, bound = rule.tasks[task]
    turns = turns or default_turns
    batch = 128 if task == "resnet20" else 64
    rng = np.random.default_rng(0)
    shape = (32, 32, 3) if task == "resnet20" else (784,)
    x = rng.normal(size=(steps * batch, *shape)).astype("float32")
    y = rng.integers(0, 10, steps * batch)

    def build() -> keras.Model:
        keras.utils.set_random_seed(0)
        model = models.resnet(20) if task == "resnet20" else models.dense_300_100()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(1e-3), loss)
        return model

    plain, ruled = build(), build()
    ruled = rule.attach(ruled, steps * (turns + 1)) or ruled

    class Clock(keras.callbacks.Callback):
        """Seconds of each step."""

        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_train_batch_begin(self, batch: int, logs: object = None) -> None:
            self.start = time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: object = None) -> None:
            self.seconds.append(time.perf_counter() - self.start)

    times: dict[str, list[float]] = {"plain": [], "ruled": []}
    means: dict[str, list[float]] = {"plain": [], "ruled": []}
    for turn in range(turns + 1):  # the first turn compiles and is not counted
        order = [("plain", plain), ("ruled", ruled)]
        for name, model in order if turn % 2 else order[::-1]:
            clock = Clock()
            start = time.perf_counter()
            model.fit(x, y, batch_size=batch, verbose=0, shuffle=False, callbacks=[clock])
            if turn:
                means[name].append((time.perf_counter() - start) / steps)
                times[name].append(statistics.median(clock.seconds))
    ratios = sorted(b / a for a, b in zip(times["plain"], times["ruled"], strict=True))
    return {
        "backend": backend,
        "task": task,
        "batch": batch,
        "steps_a_turn": steps,
        "turns": turns,
        "plain_ms": 1e3 * statistics.median(times["plain"]),
        f"{rule.word}_ms": 1e3 * statistics.median(times["ruled"]),
        "ratio": statistics.median(ratios),
        "ratio_quartiles": [ratios[len(ratios) // 4], ratios[(3 * len(ratios)) // 4]],
        "mean_ratio": sum(means["ruled"]) / sum(means["plain"]),
        "bound": bound,
        "bytes_a_weight": (state_bytes(ruled) - state_bytes(plain)) / rule.weights(ruled),
    }


def state_bytes(model: object) -> int:
    """Bytes of optimizer state."""
    import keras

    values = [keras.ops.convert_to_numpy(v) for v in model.optimizer.variables]  # type: ignore[attr-defined]
    return sum(value.nbytes for value in values)


def write(rule: Rule, rows: list[dict]) -> None:
    """Writes the table as JSON and Markdown."""
    lines = [
        f"# Cost of a rule: {rule.word} models",
        "",
        f"Training step with {rule.told} over the plain step,",
        f"turn by turn in one process, on {os.cpu_count()} CPU cores at a load of "
        f"{os.getloadavg()[2]:.1f} (above the number of cores, other jobs took part: look at the "
        f"quartiles). Made by `benchmarks/{Path(rule.script).name}`.",
        "",
        f"| backend | network | batch | plain ms | {rule.word} ms | ratio (quartiles) | bound "
        "| ratio of means | extra bytes a weight |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for r in rows:
        low, high = r["ratio_quartiles"]
        bound = "-" if r["bound"] is None else f"{r['bound']:.2f}"
        lines.append(
            f"| {r['backend']} | {r['task']} | {r['batch']} | {r['plain_ms']:.1f} "
            f"| {r[rule.word + '_ms']:.1f} | {r['ratio']:.3f} ({low:.3f}-{high:.3f}) | {bound} "
            f"| {r['mean_ratio']:.3f} | {r['bytes_a_weight']:.2f} |"
        )
    data.keep(rule.results.with_suffix(".json"), rows, "\n".join(lines) + "\n")


if __name__ == "__main__":
    sys.exit(main())
