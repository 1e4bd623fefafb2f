"""What sparsity costs and brings: accuracy, latency in a browser, bytes.

The study of Elsen et al. 2020 ("Fast sparse ConvNets", arXiv:1911.09723), in small, on two tasks
(see `sparse_tasks`): a MobileNetV2-style classifier of CIFAR-10, and a MobileNetV3-style network
that tells for each pixel of a scene which garment it belongs to. Their 1x1 convolutions are pruned
to 30 ... 90 % (`layers="xnnpack"`), each as far as it bears (`sentei.sparsity.sensitivity`), such
that 1.25 times as many multiplications stay as weights. Beside them stand a network 20 % wider at
70 %, and the dense network that is as fast as the one at 70 % (the "distilled" alternative). All
but the dense network are tuned half towards the labels, half towards what that network says.
Latency is that of headless Chromium, in every WebAssembly runtime found (`sentei bench
--browser`), all files in turns. Targets: 1.35 times as fast at 70 % zeros, 2.0 times at 85 %, at
most one point lost at 70 %.

    .venv-bench/bin/python benchmarks/sparse_ablation.py    # 50 minutes on 2 cores
    ... --task segmentation                     # one of the two
    ... --quick                                 # half the width, 100 + 40 steps of 64
    ... --full                                  # 60,000 + 20,000 steps of 128
    ... --speed                                 # no training, all layers alike: latency, bytes

By default 1,500 + 300 steps, of 64 photos or 32 scenes. Both tasks are trained at once, each on
half of the cores; times are taken after that, since they want a quiet machine. Stages are kept in
benchmarks/.data/sparse_ablation, and a run that was stopped goes on after the last one that is
done. Writes sparse_classification.json, .md and .png in benchmarks/results, and
sparse_segmentation likewise (with --speed: sparse_speed_classification, ...); with --quick beside
the stages.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine  # isort: skip  # before Keras

import data
import keras
import numpy as np
from sparse_table import TARGETS, markdown, plot
from sparse_tasks import TASKS, Batch, Task
from teaching import Teacher, distance

import sentei
from sentei.core.divergence import divergence
from sentei.litert.browser.bench import benchmark_in_browser
from sentei.litert.runtime import Runner
from sentei.litert.xnnpack.clusters import ZEROS_NEEDED
from sentei.sparsity import PolynomialDecay, Sensitivity, sensitivity

RESULTS = data.HERE / "results"
# The most telling first: a run that is cut short has them.
ORDER = (0.0, 0.7, 0.85, 0.9, 0.8, 0.5, 0.3)
# Training images for the statistics of batch normalization, and for the scan of sensitivities.
STATISTICS, SCANNED = 2_048, 256
# Multiplications that stay, relative to weights that stay: the fewer, the faster and the worse.
STAYING = 1.25
# Zeros of each layer in what runs sparse, at least: with 5 % of them in three small layers
# @litertjs/core needed half as long again for the whole network as with 20 %.
LEAST = 0.2
# Learning rates: at first, and of the tuning; and how much of its loss is the teacher's.
RATE, TUNING_RATE, TAUGHT = 3e-3, 2e-3, 0.5
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclass(frozen=True)
class Setting:
    """How long to train what.

    Attributes:
        name: of the setting.
        width: of the network's channels, relative to MobileNetV2's.
        steps: of the dense network.
        tuning: more steps, pruned or not.
        batch: images a step.
        images: tested on.
    """

    name: str
    width: float
    steps: int
    tuning: int
    batch: int
    images: int


QUICK = Setting("quick", 0.5, 100, 40, 64, 2_000)
DEFAULT = Setting("default", 1.0, 1_500, 300, 64, 4_000)
FULL = Setting("full", 1.0, 60_000, 20_000, 128, 10_000)


def taught_loss(target: Any, said: Any) -> Any:
    """Partly that, partly how far logits are from a teacher's.

    Args:
        target: the teacher's logits, and the label behind them: one number more in the last axis.
        said: the logits.
    """
    logits, labels = target[..., :-1], target[..., -1]
    return (1 - TAUGHT) * loss(labels, said) + TAUGHT * distance(logits, said)


def classes_apart(expected: np.ndarray, found: np.ndarray) -> float:
    """Kullback and Leibler's divergence of logits in the last axis, a pixel or image at a time."""
    return divergence(*(each.reshape(-1, each.shape[-1]) for each in (expected, found)))


class Study:
    """Trains stage by stage; what is done is kept.

    Args:
        task: what.
        setting: how long.
        speed: whether to leave out training.
    """

    def __init__(self, task: Task, setting: Setting, speed: bool) -> None:
        self.task, self.setting, self.speed = task, setting, speed
        stage = f"{task.name}_{'speed' if speed else setting.name}"
        self.folder = data.CACHE / "sparse_ablation" / stage
        self.folder.mkdir(parents=True, exist_ok=True)
        self.batch = round(setting.batch * task.share)
        self.images = round(setting.images * task.share**2)
        self._narrower = self.folder / "narrower.json"
        self._scans: dict[float, Sensitivity] = {}

    def model(self, width: float, sparsity: float, *, begin: bool = False) -> Any:
        """A network at the end of its training, which is done now if it was not before.

        Args:
            width: relative to the setting's.
            sparsity: of the 1x1 convolutions.
            begin: whether to stop before the fine-tuning.
        """
        keras.utils.clear_session()  # layers have the same names in each, as in the scan
        keras.utils.set_random_seed(0)
        model = self.task.network(self.setting.width * width)
        stage = f"x{width:g}" + ("" if begin else f"_{sparsity:g}")
        kept = self.folder / f"{stage}.weights.npz"
        if kept.exists():
            with np.load(kept) as arrays:
                model.set_weights([arrays[name] for name in arrays.files])
            return model
        if not begin:
            model.set_weights(self.model(width, 0.0, begin=True).get_weights())
        self._train(stage, model, width, sparsity, begin)
        sentei.strip(model)
        data.keep_arrays(kept, *model.get_weights())
        return model

    def _train(self, stage: str, model: Any, width: float, sparsity: float, begin: bool) -> None:
        steps = self.setting.steps if begin else self.setting.tuning
        layers = self._shares(model, width, sparsity) if sparsity else None
        teacher = None
        if not (begin or self.speed or (width, sparsity) == (1.0, 0.0)):
            teacher = Teacher(Path(self.row("dense", 1.0, 0.0)["file"]))
        decay = keras.optimizers.schedules.CosineDecay(RATE if begin else TUNING_RATE, steps)
        model.compile(keras.optimizers.Adam(decay), loss if teacher is None else taught_loss)
        if sparsity:
            end = 1 if self.speed else max(1, steps // 2)
            schedule = PolynomialDecay(0.0, sparsity, 0, end, frequency=max(1, end // 25))
            sentei.prune(model, schedule, layers=layers)
        # All are tuned on the same images in the same order.
        random, start = np.random.default_rng(len(stage) if begin else 3), time.perf_counter()
        for step in range(1, (2 if self.speed else steps) + 1):
            x, y = self._batch(random)
            if teacher is not None:
                y = np.concatenate([teacher(x), y[..., None].astype("float32")], axis=-1)
            value = float(model.train_on_batch(x, y))
            if step % 20 == 0:
                left = (time.perf_counter() - start) / step * (steps - step) / 60
                done = f"{self.task.name}, {stage}: step {step}/{steps}"
                print(f"{done}, loss {value:.3f}, {left:.1f} min", flush=True)

    def _shares(self, model: Any, width: float, sparsity: float) -> Any:
        """For `layers` of `sentei.prune`: how sparse each layer becomes."""
        if self.speed:
            return "xnnpack"
        if width not in self._scans:
            x, _ = self.task.batch(round(SCANNED * self.task.share**2), np.random.default_rng(2))
            scan = sensitivity(model, x, layers="xnnpack", distance=classes_apart)
            print(scan, flush=True)
            self._scans[width] = scan
        spared = max(0.0, 1.0 - STAYING * (1.0 - sparsity))
        least = LEAST if sparsity > ZEROS_NEEDED else 0.0
        return self._scans[width].allocate(sparsity, multiplications=spared, least=least)

    def _batch(self, random: np.random.Generator) -> Batch:
        """What to train on; noise when nothing is trained."""
        if not self.speed:
            return self.task.batch(self.batch, random)
        x = random.normal(size=(2, self.task.size, self.task.size, 3)).astype("float32")
        return x, self.task.batch(2, random)[1]

    def row(self, name: str, width: float, sparsity: float) -> dict[str, Any]:
        """Trains and exports a network, as float32 and float16; or reads what is there."""
        path = self.folder / f"x{width:g}_{sparsity:g}.tflite"
        kept = path.with_suffix(".json")
        if kept.exists() and path.exists():
            return dict(json.loads(kept.read_text())) | {"row": name, "file": str(path)}
        model = self.model(width, sparsity)
        if not self.speed:
            # A few hundred steps after pruning the moving statistics are still those of before.
            random = np.random.default_rng(1)
            samples = [self._batch(random)[0] for _ in range(STATISTICS // self.batch)]
            sentei.update_batch_norm(model, np.concatenate(samples))
        row: dict[str, Any] = {"row": name, "width": width, "sparsity": sparsity}
        # Without training the browser's comparison of outputs is check enough. After a hundred
        # steps channels may be dead: with a variance of 0 a last bit moves the outputs by 0.2 %.
        checked = not self.speed and self.setting is not QUICK
        sentei.export(model, path, verify=checked)
        half = path.with_suffix(".f16.tflite")
        sentei.export(model, half, quantize="float16", verify=checked)
        row |= {"file": str(path), "bytes": path.stat().st_size, "f16": half.stat().st_size}
        row["runs_sparse"] = sentei.diagnose(path).runs_sparse
        if not self.speed:
            x, labels = self.task.tests(self.images)
            runner = Runner(path)
            parts = [runner(x[i : i + 100])["logits"] for i in range(0, len(x), 100)]
            row["score"] = self.task.score(np.concatenate(parts), labels)
        print(json.dumps(row), flush=True)
        data.write(kept, json.dumps(row))
        return row

    def narrower(self, sparse: dict[str, Any]) -> float:
        """The width at which a dense network is about as fast as a sparse one; found once."""
        if known := self.known_narrower():
            return known
        paths, widths = [sparse["file"]], (0.85, 0.75, 0.65, 0.5)
        for width in widths:
            path = self.folder / f"untrained_x{width:g}.tflite"
            sentei.export(self.task.network(self.setting.width * width), path, verify=False)
            paths.append(str(path))
        ratios = [item.ratio for item in benchmark_in_browser(paths, runs=15)][1 : len(paths)]
        width = widths[int(np.argmin(np.abs(np.log(ratios))))]
        data.write(self._narrower, json.dumps(width))
        return width

    def known_narrower(self) -> float | None:
        """What `narrower` found, if it was asked before."""
        return float(json.loads(self._narrower.read_text())) if self._narrower.exists() else None


def latencies(rows: list[dict[str, Any]], runs: int) -> dict[str, Any]:
    """Adds each runtime's median and speed-up to the rows; returns what it ran in."""
    results = benchmark_in_browser([row["file"] for row in rows], runs=runs)
    for place, item in enumerate(results):
        row = rows[place % len(rows)]
        row.setdefault("runtimes", {})[item.runtime] = {
            "median_ms": item.median_ms,
            "speed_up": 1 / item.ratio,
            "quartiles": [1 / q for q in reversed(item.ratio_quartiles)],
            "error": item.error,
        }
    return {"browser": results.browser, "runtimes": list(rows[0]["runtimes"])}


def networks(study: Study, options: argparse.Namespace) -> list[tuple[float, float]]:
    """Width and sparsity of all that is trained, as far as it is known before times are taken."""
    chosen = [(1.0, sparsity) for sparsity in ((0.0, *TARGETS) if options.brief else ORDER)]
    if not (options.brief or options.plain):
        chosen.append((1.2, 0.7))
        if narrow := study.known_narrower():
            chosen.append((narrow, 0.0))
    return chosen


def train_at_once(studies: list[Study], options: argparse.Namespace) -> None:
    """Trains several tasks side by side; how wide the narrower networks are is measured between."""
    flags = [f"--{name}" for name in ("quick", "full", "brief", "plain") if getattr(options, name)]
    runs = [[*flags, "--train", "--task", study.task.name] for study in studies]
    machine.side_by_side(*runs)
    if options.brief or options.plain or all(study.known_narrower() for study in studies):
        return
    for study in studies:
        study.narrower(study.row("70% zeros", 1.0, 0.7))
    machine.side_by_side(*runs)


def run(study: Study, options: argparse.Namespace) -> None:
    """Trains, exports, measures, writes."""
    task, setting = study.task, study.setting
    rows = [
        study.row("dense" if sparsity == 0 else f"{sparsity:.0%} zeros", width, sparsity)
        for width, sparsity in networks(study, options)
        if width == 1.0
    ]
    at_70 = next(row for row in rows if row["sparsity"] == 0.7)
    rows.sort(key=lambda row: row["sparsity"])
    if not (options.brief or options.plain):
        rows.append(study.row("20 % wider, 70% zeros", 1.2, 0.7))
        narrow = study.narrower(at_70)
        rows.append(study.row(f"dense, {narrow:g} as wide", narrow, 0.0))
    found = latencies(rows, options.runs) | {"rows": rows}
    found |= {"task": task.name, "measure": task.measure}
    trained = "untrained (magnitudes of the first weights)" if study.speed else (
        f"{setting.name} setting: {setting.steps} + {setting.tuning} steps of {study.batch} "
        f"images, tested on {study.images:,}; {STAYING:g} times as many multiplications as weights "
        "stay; all but the dense row learn from it too"
    )  # fmt: skip
    found["setting"] = f"{trained}, width {setting.width:g}"
    found["noise"] = f"medians of {options.runs} rounds in turns, load {os.getloadavg()[0]:.1f} on "
    found["noise"] += f"{os.cpu_count()} cores"
    for row in rows:
        row["file"] = Path(row["file"]).name
    name = f"sparse_speed_{task.name}" if study.speed else f"sparse_{task.name}"
    # A quick run leaves the tables of the others alone.
    folder = study.folder if setting is QUICK else RESULTS
    data.keep(folder / f"{name}.json", found, markdown(found))
    plot(found, folder / f"{name}.png")
    print(markdown(found))


def main() -> int:
    """Trains what is missing, measures, writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--task", choices=TASKS, action="append", help="only this")
    parser.add_argument("--quick", action="store_true", help="a small network, a little training")
    parser.add_argument("--full", action="store_true", help="for a real machine")
    parser.add_argument("--speed", action="store_true", help="no training")
    parser.add_argument("--train", action="store_true", help="train, measure nothing")
    parser.add_argument("--brief", action="store_true", help="only rows that have a target")
    parser.add_argument("--plain", action="store_true", help="no wider, no narrower network")
    parser.add_argument("--runs", type=int, default=60, help="timed rounds in the browser")
    options = parser.parse_args()
    setting = QUICK if options.quick else FULL if options.full else DEFAULT
    if not (options.quick or options.speed):
        machine.refuse_hours()
    studies = [Study(TASKS[name], setting, options.speed) for name in options.task or TASKS]
    if options.train:
        for study in studies:
            for width, sparsity in networks(study, options):
                study.model(width, sparsity)
        return 0
    if len(studies) > 1 and not options.speed:
        train_at_once(studies, options)
    for study in studies:
        run(study, options)
    return 0


if __name__ == "__main__":
    sys.exit(main())
