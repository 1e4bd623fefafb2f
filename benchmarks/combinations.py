"""What combining prunes, clusters and quantizes away, and what the naive order loses of it.

    float
    pruned 50 %, 80 %                    fine-tuned under a pruning rule, one threshold for all
    clustered 32, 16, 8                  fine-tuned under a clustering rule
    QAT                                  int8, trained on
    PQAT, CQAT, PCQAT                    pruned, clustered, or both; then int8, trained on under
                                         `sentei.preserve`
    ..., one scale                       the same with one scale a kernel, not one a channel (the
                                         default of `sentei.quantize`)

and beside them, without `preserve`: `... → int8` is quantized after training, `... → QAT` trains on
with nothing that keeps zeros or clusters.

Of a ResNet-20 (pretrained, CIFAR-10) and of a GRU (trained here, Free Spoken Digit Dataset: 2,000
words, 200 of them for the test). Accuracy is measured on the file, in the runtime; so are the
bytes, alone, under gzip -9 and packed by `sentei.pack`; latency is interleaved with the float
file's.

    .venv-bench/bin/python benchmarks/combinations.py   # 100 steps a stage: about 50 minutes
    ... --quick                                 # 80 steps, the first 2,000 test images
    ... --full                                  # 2,000 steps

Rows that are done are kept in benchmarks/results/combinations.json, and the weights that later
rows start from in benchmarks/.data/combinations; `--fresh` begins anew.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine  # isort: skip  # before Keras

import cifar
import data
import keras
import numpy as np
import pretrained
from keras import layers

import sentei
from sentei.litert import flatbuffer
from sentei.litert.runtime import Runner
from sentei.quantization import Custom
from sentei.sparsity import PolynomialDecay

RESULTS = data.HERE / "results" / "combinations.json"
SETTINGS = {"quick": (80, 2000), "default": (100, 10000), "full": (2000, 10000)}
CALIBRATION = 256
STATISTICS = 40  # batches that batch normalization's statistics are estimated from
# Of the GRU: frames, mel bands, states, words a step, and how many steps for one of the ResNet's.
FRAMES, BANDS, STATES, WORDS, MORE = 20, 24, 48, 64, 6
Rules = Callable[[Any], Any]


@dataclass(frozen=True)
class Task:
    """A network with its data.

    Attributes:
        name: How the table calls it.
        build: The float network with its trained weights.
        train: Trains a model that `compile` has compiled.
        compile: Compiles a model for a stage that is `"light"`, `"heavy"` or in `"integers"`: the
            more a stage takes away, the higher the learning rate.
        calibration: Inputs that ranges are found with.
        accuracy: The share of the test part that a file gets right.
    """

    name: str
    build: Callable[[], Any]
    train: Callable[[Any], None]
    compile: Callable[[Any, str], Any]
    calibration: np.ndarray
    accuracy: Callable[[Path], float]


def resnet(steps: int, images: int, folder: Path) -> Task:
    """ResNet-20 with the weights of others."""
    split = data.cifar10()
    rates = {"light": 1e-4, "heavy": 1e-3, "integers": 1e-4}

    def fit(model: Any) -> None:
        cifar.fit(model, split, steps)
        # After so few steps, the moving statistics are still those of the network before.
        sentei.update_batch_norm(model, cifar.Batches(split, STATISTICS))

    return Task(
        "ResNet-20",
        lambda: pretrained.resnet(20),
        fit,
        lambda model, stage: cifar.compiled(model, steps, rates[stage]),
        pretrained.normalized(split.x_train[:CALIBRATION]),
        lambda path: cifar.accuracy(path, split, images),
    )


def gru(steps: int, images: int, folder: Path) -> Task:
    """A GRU, trained here."""
    split = data.spoken_digits(FRAMES, BANDS)
    epochs = max(1, round(MORE * steps / (len(split.x_train) / WORDS)))

    rates = {"light": 3e-3, "heavy": 3e-3, "integers": 1e-3}

    def compiled(model: Any, stage: str) -> Any:
        return cifar.compiled(model, MORE * steps, rates[stage])

    def fit(model: Any, epochs: int = epochs) -> None:
        noise = np.random.default_rng(0).normal(0, 0.1, split.x_train.shape)
        noisy = (split.x_train + noise).astype("float32")
        model.fit(noisy, split.y_train, WORDS, epochs, verbose=0)

    def build() -> Any:
        keras.utils.set_random_seed(0)
        inputs = keras.Input((FRAMES, BANDS), name="sound")
        model = keras.Model(inputs, layers.Dense(10, name="digit")(layers.GRU(STATES)(inputs)))
        kept = folder / "gru.weights.h5"
        if not kept.exists():
            fit(cifar.compiled(model, 60 * len(split.x_train) // WORDS, 5e-3), 60)
            model.save_weights(kept)
        model.load_weights(kept)
        return model

    def accuracy(path: Path) -> float:
        runner = Runner(path)
        found = [next(iter(runner(word[None]).values()))[0].argmax() for word in split.x_test]
        return float(np.mean(np.asarray(found) == split.y_test))

    return Task("GRU", build, fit, compiled, split.x_train[:CALIBRATION], accuracy)


TASKS = {"ResNet-20": resnet, "GRU": gru}


class Stages:
    """Trains a task's float stages one after another; those that are in the folder are loaded.

    Args:
        task: what is trained.
        folder: where the weights of a stage are kept.
        steps: optimizer steps a stage.
    """

    def __init__(self, task: Task, folder: Path, steps: int) -> None:
        self.task, self.folder, self.steps = task, folder, steps
        folder.mkdir(parents=True, exist_ok=True)

    def pruned(self, share: float) -> Any:
        """The network with so many weights pruned."""
        end = max(1, round(0.6 * self.steps))
        schedule = PolynomialDecay(0.3, share, 0, end, frequency=max(1, end // 20))
        stage = "heavy" if share > 0.5 else "light"
        return self.run(
            f"pruned_{share}", None, lambda m: sentei.prune(m, schedule, scope="global"), stage
        )

    def clustered(self, n: int) -> Any:
        """The network with n values a kernel."""
        stage = "heavy" if n < 16 else "light"
        return self.run(f"clustered_{n}", None, lambda m: sentei.cluster(m, n), stage)

    def both(self, share: float, n: int, keep: bool) -> Any:
        """The pruned network with n values a kernel.

        Args:
            share: of weights that are zero.
            n: how many values a kernel.
            keep: whether zeros stay zero.
        """
        name = f"pruned_{share}_clustered_{n}" + ("" if keep else "_naive")

        def rules(model: Any) -> None:
            sentei.cluster(model, n, preserve_sparsity=keep)
            if keep:
                sentei.preserve(model)

        return self.run(name, lambda: self.pruned(share), rules, "light")

    def run(self, name: str, start: Callable[[], Any] | None, rules: Rules, stage: str) -> Any:
        """The network after a stage.

        Args:
            name: of the stage.
            start: the stage before; None: the float network.
            rules: puts rules on the compiled model.
            stage: `"light"` or `"heavy"`.
        """
        kept = self.folder / f"{name}.weights.h5"
        model = self.task.build()
        if not kept.exists():
            if start is not None:
                model.set_weights(start().get_weights())
            keras.utils.set_random_seed(1)
            self.task.compile(model, stage)
            rules(model)
            print(f"{self.task.name}: training {name}", flush=True)
            self.task.train(model)
            half = kept.with_name(f"half_{kept.name}")
            model.save_weights(half)
            os.replace(half, kept)
        model.load_weights(kept)
        return model

    def integers(self, model: Any, *, train: bool, keep: bool, one_scale: bool = False) -> Any:
        """A network with int8 weights and activations.

        Args:
            model: the float network; it is changed if `train`.
            train: whether to train on.
            keep: whether to keep its zeros and clusters while training.
            one_scale: whether clustered kernels have one scale, as is the default.
        """
        scheme = Custom(
            per_channel=None if one_scale else True, ranges="moving" if train else "fixed"
        )
        qmodel = sentei.quantize(model, scheme, calibration=self.task.calibration)
        if train:
            keras.utils.set_random_seed(2)
            self.task.compile(qmodel, "integers")
            if keep:
                sentei.preserve(qmodel)
            self.task.train(qmodel)
        return qmodel

    def rows(self) -> dict[str, Callable[[], Any]]:
        """Row → how to make its model."""

        def integers(model: Callable[[], Any], **options: Any) -> Callable[[], Any]:
            return lambda: self.integers(model(), **options)

        def pruned(share: float) -> Callable[[], Any]:
            return lambda: self.pruned(share)

        def both(keep: bool) -> Callable[[], Any]:
            return lambda: self.both(0.5, 16, keep)

        def clustered(n: int) -> Callable[[], Any]:
            return lambda: self.clustered(n)

        trained, after = {"train": True, "keep": True}, {"train": False, "keep": False}
        lost = {"train": True, "keep": False}
        return {
            "float": self.task.build,
            "pruned 50 %": pruned(0.5),
            "pruned 80 %": pruned(0.8),
            "clustered 32": clustered(32),
            "clustered 16": clustered(16),
            "clustered 8": clustered(8),
            "int8": integers(self.task.build, **after),
            "QAT": integers(self.task.build, **trained),
            "PQAT 50 %": integers(pruned(0.5), **trained),
            "pruned 50 % → int8": integers(pruned(0.5), **after),
            "pruned 50 % → QAT": integers(pruned(0.5), **lost),
            "PQAT 80 %": integers(pruned(0.8), **trained),
            "pruned 80 % → int8": integers(pruned(0.8), **after),
            "CQAT 16": integers(clustered(16), **trained),
            "CQAT 16, one scale": integers(clustered(16), **trained, one_scale=True),
            "clustered 16 → int8": integers(clustered(16), **after),
            "clustered 16 → QAT": integers(clustered(16), **lost),
            "PCQAT 50 %, 16": integers(both(True), **trained),
            "PCQAT 50 %, 16, one scale": integers(both(True), **trained, one_scale=True),
            "pruned 50 % → clustered 16 → int8": integers(both(False), **after),
        }


def measure(model: Any, task: Task, dense: Path, path: Path, timed: bool) -> dict[str, Any]:
    """A row of the table, read off the file that a model is written to.

    Args:
        model: the model.
        task: whose it is.
        dense: the float file, that latency is compared with; written if it is not there.
        path: where to write.
        timed: whether to measure latency.
    """
    if not dense.exists():
        sentei.export(task.build(), dense)
    sentei.export(model, path, sparse=False)
    raw = path.read_bytes()
    kernels = _kernels(path)
    return {
        "accuracy": task.accuracy(path),
        "bytes": len(raw),
        "gzip_bytes": len(gzip.compress(raw, 9, mtime=0)),
        "packed_bytes": sentei.pack(path, path.with_suffix(".stz")).packed_size,
        "zeros": sum(int(np.sum(k == 0)) for k in kernels) / sum(k.size for k in kernels),
        "values": max(len(np.unique(channel)) for k in kernels for channel in k),
        "values_a_kernel": max(len(np.unique(k)) for k in kernels),
        "latency_ratio": sentei.benchmark([dense, path], runs=50)[1].ratio if timed else None,
    }


def _kernels(path: Path) -> list[np.ndarray]:
    """The stored kernels of a file, each `(output channels, weights)`."""
    found = []
    for tensor in flatbuffer.load(path).tensors():
        values = tensor.data()
        if values is not None and tensor.dtype in ("int8", "float32") and values.ndim > 1:
            values = values.reshape(tensor.shape)
            if values.size >= 64:
                found.append(values.reshape(len(values), -1))
    return found


# Measured first, should a run be stopped; then the rows that a target is about, then the others.
FIRST = ("float", "QAT")
# Row → what it is compared with, most points below it, most of its gzip bytes.
TARGETS = {
    "pruned 50 %": ("float", 0.3, None),
    "clustered 32": ("float", 0.3, None),
    "clustered 16": ("float", 0.8, None),
    "PQAT 50 %": ("QAT", 0.3, 0.75),
    "PCQAT 50 %, 16, one scale": ("QAT", 1.0, 0.55),
}


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["# Combinations", ""]
    for name, rows in results["networks"].items():
        lines += [
            f"## {name}",
            "",
            "| | accuracy of the file | bytes | gzip -9 | packed | zeros | values a channel "
            "| a kernel | latency | target | met |",
            "|---|---:|---:|---:|---:|---:|---:|---:|---:|---|---|",
        ]
        for row, found in rows.items():
            target = met = ""
            if (
                name == "ResNet-20"
                and row in TARGETS
                and TARGETS[row][0] in rows
                and row != "float"
            ):
                other, points, share = TARGETS[row]
                lost = 100 * (rows[other]["accuracy"] - found["accuracy"])
                ratio = found["gzip_bytes"] / rows[other]["gzip_bytes"]
                target = f"{points} points of {other}"
                target += f", {share}x its gzip" if share else ""
                good = lost <= points + 1e-9 and ratio <= (share or 9)
                met = ("yes" if good else "no") + f" ({lost:+.2f}"
                met += f", {ratio:.2f}x)" if share else ")"
            latency = found["latency_ratio"]
            lines.append(
                f"| {row} | {found['accuracy']:.2%} | {found['bytes']:,} "
                f"| {found['gzip_bytes']:,} | {found['packed_bytes']:,} | {found['zeros']:.1%} "
                f"| {found['values']} | {found['values_a_kernel']} "
                f"| {'' if latency is None else f'{latency:.2f}x'} | {target} | {met} |"
            )
        lines.append("")
    lines += [
        "Zeros, and the most distinct values in an output channel and in a kernel, are counted in "
        "the file, in kernels of 64 weights and more. In brackets: points lost, and the share of "
        "the other's gzip bytes.",
        "",
        f"Setting `{results['setting']}`: {results['steps']} steps a stage of {cifar.BATCH} images "
        f"({MORE} times as many of {WORDS} words), {results['images']:,} test images, 200 words, "
        f"trained on {_backends(results)}. Made by `benchmarks/combinations.py`.",
    ]
    return "\n".join(lines) + "\n"


def _backends(results: dict[str, Any]) -> str:
    return ", ".join(f"{backend} ({name})" for name, backend in results["backends"].items())


def main() -> None:
    """Trains what is missing, measures it and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="80 steps, 2,000 test images")
    parser.add_argument("--full", action="store_true", help="2,000 steps")
    parser.add_argument("--network", choices=TASKS, action="append", help="only these")
    parser.add_argument("--untimed", action="store_true", help="no latency: the machine is busy")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    arguments = parser.parse_args()
    if not arguments.quick:
        machine.refuse_hours()
    setting = "quick" if arguments.quick else "full" if arguments.full else "default"
    steps, images = SETTINGS[setting]
    kept = data.CACHE / "combinations" / setting
    if arguments.fresh:
        shutil.rmtree(kept, ignore_errors=True)
    head = {"setting": setting, "steps": steps, "images": images}
    results: dict[str, Any] = {**head, "networks": {}, "backends": {}}
    if RESULTS.exists() and not arguments.fresh:
        earlier = json.loads(RESULTS.read_text())
        if {key: earlier[key] for key in head} == head:
            results = earlier
    for name in arguments.network or TASKS:
        folder = kept / name
        folder.mkdir(parents=True, exist_ok=True)
        task = TASKS[name](steps, images, folder)
        done = results["networks"].setdefault(name, {})
        results["backends"][name] = keras.backend.backend()
        with tempfile.TemporaryDirectory() as scratch:
            rows = Stages(task, folder, steps).rows()
            for row in dict.fromkeys((*FIRST, *TARGETS, *rows)):
                if row in done:
                    continue
                start = time.perf_counter()
                dense, path = (Path(scratch) / each for each in ("dense.tflite", "m.tflite"))
                found = measure(rows[row](), task, dense, path, not arguments.untimed)
                done[row] = found
                results["networks"][name] = {row: done[row] for row in rows if row in done}
                data.keep(RESULTS, results, table(results))
                spent = time.perf_counter() - start
                print(f"{name}: {row}: {found['accuracy']:.2%}, {spent:.0f} s", flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
