"""Training sparse from the first step against gradual pruning: ResNet-8 on CIFAR-10.

At 80, 90 and 95 % zeros (ERK distribution, as in the papers): gradual magnitude pruning (Zhu &
Gupta 2017), RigL (Evci et al. 2020) and SET (Mocanu et al. 2018) with as many steps and with three
times as many, and a fixed random mask. The literature expects RigL above SET above fixed, and
gradual magnitude pruning at least at RigL with as many steps. Training FLOPs are those of the
papers' accounting, relative to dense training: a sparse step counts its non-zeros forward and twice
backward; a RigL update also a dense gradient of the weights.

    .venv-bench/bin/python benchmarks/sparse_training.py    # 600 steps a run: 45 core-minutes
    ... --quick                                 # 60 steps of 64, 90 % alone
    ... --full                                  # ResNet-20, 40,000 steps
    ... --bfloat16                              # mixed precision

Runs are kept in benchmarks/.data/sparse_training, so one that was stopped goes on after the last
one that is done. Writes benchmarks/results/sparse_training.json and .md; with --quick beside the
runs.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine  # isort: skip  # before Keras

import data
import keras
import models
import numpy as np
from sparse_tasks import photos, pixels

import sentei
from sentei.sparsity import ConstantSparsity, PolynomialDecay

RESULTS = data.HERE / "results"
# row → criterion, times as many steps as the others
METHODS = {
    "dense": ("", 1),
    "magnitude": ("magnitude", 1),
    "RigL": ("rigl", 1),
    "RigL, 3x steps": ("rigl", 3),
    "SET": ("set", 1),
    "SET, 3x steps": ("set", 3),
    "random, fixed": ("random", 1),
}


@dataclass(frozen=True)
class Setting:
    """How long to train what.

    Attributes:
        name: of the setting.
        depth: of the ResNet.
        steps: of a run.
        batch: images a step.
        images: test images.
        sparsities: shares of zeros.
    """

    name: str
    depth: int
    steps: int
    batch: int
    images: int
    sparsities: tuple[float, ...]


QUICK = Setting("quick", 8, 60, 64, 2_000, (0.9,))
DEFAULT = Setting("default", 8, 600, 128, 10_000, (0.8, 0.9, 0.95))
FULL = Setting("full", 20, 40_000, 128, 10_000, (0.8, 0.9, 0.95))
# Training images for the statistics of batch normalization: after so few steps the moving ones are
# partly those of a network that was denser.
STATISTICS = 2_048


def pruned(model: Any, criterion: str, sparsity: float, steps: int) -> None:
    """Puts the method's rule on a compiled model."""
    every = max(1, min(100, steps // 20))
    if criterion == "magnitude":
        # From the first quarter to the third, as in the comparison of the RigL paper.
        schedule: Any = PolynomialDecay(0.0, sparsity, steps // 4, 3 * steps // 4, frequency=every)
    else:
        schedule = ConstantSparsity(sparsity, end_step=steps, frequency=every)
    sentei.prune(model, schedule, criterion=criterion, distribution="erk")


class Counter:
    """Multiplications of a step, forward: dense, and of what is not zero now."""

    def __init__(self, model: Any) -> None:
        self.places: dict[int, int] = {}  # position of a kernel → places where it is applied
        self.variables = model.trainable_variables
        positions = {id(v): p for p, v in enumerate(self.variables)}
        for layer in model.layers:
            if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
                self.places[positions[id(layer.kernel)]] = math.prod(layer.output.shape[1:-1])
        self.dense = sum(n * math.prod(self.variables[p].shape) for p, n in self.places.items())

    def sparse(self) -> int:
        """Those with weights that are not zero."""
        return sum(
            n * np.count_nonzero(keras.ops.convert_to_numpy(self.variables[p]))
            for p, n in self.places.items()
        )


def kept_in(setting: Setting) -> Path:
    """The folder of a setting's runs."""
    return data.CACHE / "sparse_training" / setting.name


def run(
    method: str, sparsity: float, setting: Setting, split: data.Split, short: bool
) -> dict[str, Any]:
    """Trains once, in bfloat16 if `short`, and tests; or reads what an earlier run found."""
    precision = "_bfloat16" if short else ""
    folder = kept_in(setting) / f"steps_{setting.steps}{precision}"
    kept = folder / f"{method}_{sparsity}.json"
    if kept.exists():
        return dict(json.loads(kept.read_text()))
    criterion, factor = METHODS[method]
    steps = factor * setting.steps
    keras.utils.set_random_seed(0)
    with models.precision(short):
        model = models.resnet(setting.depth)
    decay = keras.optimizers.schedules.CosineDecay(0.1, steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(decay, 0.9, nesterov=True, weight_decay=5e-4), loss)
    counter, random = Counter(model), np.random.default_rng(0)
    if criterion:
        pruned(model, criterion, sparsity, steps)
    spent, now, start = 0.0, counter.sparse(), time.perf_counter()
    every = max(1, min(100, steps // 20))
    for step in range(1, steps + 1):
        value = float(model.train_on_batch(*photos(setting.batch, random)))
        if step % every == 0:  # masks change at updates only
            now = counter.sparse()
        update = criterion == "rigl" and step % every == 0 and step < 0.75 * steps
        spent += 2 * now + (counter.dense if update else now)
        if step % 20 == 0:
            left = (time.perf_counter() - start) / step * (steps - step) / 60
            print(f"{method} {sparsity}: {step}/{steps}, {value:.3f}, {left:.1f} min", flush=True)
    zeros = float(sentei.sparsity.report(model).sparsity) if criterion else 0.0
    weights, model = model.get_weights(), models.resnet(setting.depth)
    model.set_weights(weights)
    seen = [photos(setting.batch, random)[0] for _ in range(STATISTICS // setting.batch)]
    sentei.update_batch_norm(model, np.concatenate(seen))
    x, y = pixels(split.x_test[: setting.images]), split.y_test[: setting.images]
    row = {
        "method": method,
        "sparsity": sparsity,
        "accuracy": float((model.predict(x, batch_size=500, verbose=0).argmax(1) == y).mean()),
        "training_flops": spent / (3 * counter.dense * setting.steps),
        "zeros": zeros,
    }
    data.write(kept, json.dumps(row))
    return row


def markdown(rows: list[dict[str, Any]], setting: Setting, short: bool) -> str:
    """The table, and what the literature expects of it."""
    lines = [
        "# Training sparse",
        "",
        f"Made by `benchmarks/sparse_training.py`, {setting.name} setting: ResNet-{setting.depth} "
        f"on CIFAR-10, {setting.steps} steps of {setting.batch} images in "
        f"{'bfloat16' if short else 'float32'}, one seed; accuracy on {setting.images:,} test "
        "images. Training FLOPs relative to dense training.",
        "",
        "| method | zeros asked for | zeros | accuracy | training FLOPs |",
        "|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {r['method']} | {r['sparsity']:.0%} | {r['zeros']:.1%} | {r['accuracy']:.2%} "
        f"| {r['training_flops']:.2f}x |"
        for r in rows
    ]
    lines.append("")
    for sparsity in setting.sparsities:
        of = {r["method"]: r["accuracy"] for r in rows if r["sparsity"] == sparsity}
        for better, worse in (
            ("RigL", "SET"), ("RigL, 3x steps", "SET, 3x steps"), ("SET", "random, fixed"),
            ("magnitude", "RigL"),
        ):  # fmt: skip
            holds = "holds" if of[better] >= of[worse] else "does not hold here"
            lines.append(f"- {sparsity:.0%}: {better} at least at {worse}: {holds}.")
    return "\n".join(lines) + "\n"


def main() -> int:
    """Trains, writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="90 % zeros alone, a little training")
    parser.add_argument("--full", action="store_true", help="for a real machine")
    parser.add_argument("--bfloat16", action="store_true", help="train in mixed precision")
    options = parser.parse_args()
    if not options.quick:
        machine.refuse_hours()
    setting = QUICK if options.quick else FULL if options.full else DEFAULT
    split = data.cifar10()
    rows = [run("dense", 0.0, setting, split, options.bfloat16)]
    rows += [
        run(method, sparsity, setting, split, options.bfloat16)
        for sparsity in setting.sparsities
        for method in METHODS
        if method != "dense"
    ]
    found = {"setting": setting.__dict__, "bfloat16": options.bfloat16, "rows": rows}
    text = markdown(rows, setting, options.bfloat16)
    # A quick run leaves the table of the others alone.
    folder = kept_in(setting) if setting is QUICK else RESULTS
    data.keep(folder / "sparse_training.json", found, text)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
