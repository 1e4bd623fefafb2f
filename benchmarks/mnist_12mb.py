"""The classic claim on MNIST: a 12 MB file, pruned to 90 %, quantized, gzipped.

The network is the one of TensorFlow's pruning tutorials: two 5x5 convolutions of 32 and 64 channels
and a dense layer of 1,024, 3.3 million weights. Published: 12 MB → 2 MB pruned → 0.5 MB quantized,
all as gzip sees them. Here, from one dense network:

    dense                                    trained
    pruned 90 %, in blocks of four           fine-tuned from dense, float32 and int8 weights
    the same on 5 bits                       quantized after training: int8 with calibrated
                                             activations, the hidden layer's weights -15 to 15
    pruned 98 %, 16 values, int8             pruned on, clustered, quantized while training

Accuracy is measured on the file, in the runtime, on all 10,000 test images.

    python benchmarks/mnist_12mb.py             # 2 epochs a stage: about 40 minutes on 2 cores
    python benchmarks/mnist_12mb.py --full      # 8 epochs a stage
    python benchmarks/mnist_12mb.py --steps 50  # 50 steps a stage: does it run?

Stages are kept in benchmarks/.data/mnist_12mb, and a run that was stopped goes on after the last
one that is done; `--fresh` begins anew. Writes benchmarks/results/mnist_12mb.json and .md.
"""

from __future__ import annotations

import argparse
import gzip
import os
import re
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import data
import keras
import numpy as np
from keras import layers

import sentei
from sentei.litert.runtime import Runner
from sentei.quantization import Custom
from sentei.sparsity import Block, Element, Pattern, PolynomialDecay

Rules = Callable[[Any], Any]
RESULTS = data.HERE / "results"
BATCH = 128
# row → most bytes of gzip -9, and most points below the dense accuracy
TARGETS = {"pruned": (1.6e6, 0.0), "pruned int8, 5 bits": (0.40e6, 0.0), "pcqat": (0.12e6, 0.1)}


def network() -> keras.Model:
    """5x5x32, 5x5x64, dense 1,024, dense 10: 3,274,634 weights."""
    return keras.Sequential(
        [
            keras.Input((28, 28, 1), name="image"),
            layers.Conv2D(32, 5, padding="same", activation="relu", name="conv_1"),
            layers.MaxPooling2D(name="pool_1"),
            layers.Conv2D(64, 5, padding="same", activation="relu", name="conv_2"),
            layers.MaxPooling2D(name="pool_2"),
            layers.Flatten(name="flat"),
            layers.Dense(1024, activation="relu", name="hidden"),
            layers.Dense(10, name="logits"),
        ],
        name="mnist",
    )


class Stages:
    """Trains stage by stage; a stage that is in the folder is loaded instead.

    Args:
        folder: where stages are kept.
        split: the data.
        steps: optimizer steps a stage.
    """

    def __init__(self, folder: Path, split: data.Split, steps: int) -> None:
        self.folder, self.split, self.steps = folder, split, steps
        folder.mkdir(parents=True, exist_ok=True)

    def run(self, name: str, rate: float, make: Callable[[], Any], rules: Rules) -> Any:
        """The model that a stage ends with.

        Args:
            name: the stage.
            rate: learning rate, which falls to zero along a cosine.
            make: the model it starts from.
            rules: puts rules on the compiled model.
        """
        kept = self.folder / f"{name}.keras"
        if kept.exists():
            print(f"{name}: done in an earlier run", flush=True)
            return keras.models.load_model(kept)
        keras.utils.set_random_seed(0)
        model = make()
        decay = keras.optimizers.schedules.CosineDecay(rate, self.steps)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(decay), loss, metrics=["accuracy"])
        rules(model)
        self.fit(name, model)
        half = kept.with_suffix(".half.keras")
        model.save(half)
        os.replace(half, kept)
        return model

    def fit(self, name: str, model: Any) -> None:
        """Trains for `steps` steps, with progress."""
        random = np.random.default_rng(0)
        start = time.perf_counter()
        for step in range(1, self.steps + 1):
            pick = random.integers(0, len(self.split.x_train), BATCH)
            x, y = pixels(self.split.x_train[pick]), self.split.y_train[pick]
            logs = model.train_on_batch(x, y, return_dict=True)
            if step % 50 == 0 or step == self.steps:
                left = (time.perf_counter() - start) / step * (self.steps - step) / 60
                print(
                    f"{name}: step {step}/{self.steps}, loss {float(logs['loss']):.4f}, "
                    f"{left:.1f} min left",
                    flush=True,
                )
                model.reset_metrics()


def pixels(images: np.ndarray) -> np.ndarray:
    """Images as the network takes them."""
    return images.astype("float32") / 255.0


def measure(name: str, path: Path, split: data.Split, images: int) -> dict[str, Any]:
    """A row of the table, read off a file and its runs."""
    runner = Runner(path, threads=os.cpu_count() or 1)
    right = 0
    for i in range(images):
        scores = next(iter(runner(pixels(split.x_test[i : i + 1])).values()))
        right += int(np.argmax(scores) == split.y_test[i])
        if i % 2000 == 1999:
            print(f"{name}: {i + 1} of {images} test images", flush=True)
    raw = path.read_bytes()
    packed = sentei.pack(path, path.with_suffix(".stz")).packed_size
    return {
        "row": name,
        "bytes": len(raw),
        "gzip_bytes": len(gzip.compress(raw, 9, mtime=0)),
        "packed_bytes": packed,
        "accuracy": right / images,
        "images": images,
    }


def pruned(start: float, hidden: float, convolution: float, pattern: Pattern, steps: int) -> Rules:
    """Rules that prune over the first 60 % of a stage.

    Nearly all weights are the hidden layer's; the first convolution has 800 and stays whole.

    Args:
        start: share of the hidden layer's weights that are zero at the start.
        hidden: and at the end.
        convolution: of the second convolution's.
        pattern: which of the hidden layer's weights go together.
        steps: optimizer steps a stage.
    """
    end = max(1, round(0.6 * steps))

    def decay(share: float) -> PolynomialDecay:
        return PolynomialDecay(min(start, share), share, 0, end, frequency=max(1, end // 20))

    def rules(model: Any) -> Any:
        sentei.prune(model, decay(hidden), pattern=pattern, layers=["hidden"])
        return sentei.prune(model, decay(convolution), layers=["conv_2"])

    return rules


def clustered(model: Any) -> None:
    """Zeros stay, everything else goes onto 15 values and zero."""
    sentei.preserve(model, clusters=False)
    sentei.cluster(model, 16, preserve_sparsity=True)


def files(stages: Stages, split: data.Split) -> dict[str, Path]:
    """Trains every stage and writes every file."""
    steps, folder = stages.steps, stages.folder
    calibration = pixels(split.x_train[:512])
    dense = stages.run("dense", 1e-3, network, lambda model: None)

    def copy_of(model: Any) -> Callable[[], Any]:
        def make() -> Any:
            fresh = network()
            fresh.set_weights(model.get_weights())
            return fresh

        return make

    at_90 = stages.run(
        "pruned_90", 5e-4, copy_of(dense), pruned(0.5, 0.906, 0.8, Block((4, 1)), steps)
    )
    at_97 = stages.run("pruned_97", 5e-4, copy_of(at_90), pruned(0.9, 0.986, 0.9, Element(), steps))
    on_16 = stages.run("clustered", 1e-4, copy_of(at_97), clustered)
    trained = stages.run(
        "quantized",
        5e-5,
        lambda: sentei.quantize(copy_of(on_16)(), calibration=calibration),
        sentei.preserve,
    )
    # 99 of 100 weights are the hidden layer's; of the fewer integers, gzip makes fewer bits.
    on_5_bits = sentei.quantize(
        copy_of(at_90)(),
        calibration=calibration,
        layers={"hidden": Custom(weight_bits=5, weight_steps="nearest")},
    )
    written = {}
    for name, model, options in (
        ("dense", dense, {}),
        ("pruned", at_90, {"sparse": False}),
        ("pruned int8", at_90, {"quantize": "dynamic", "sparse": False}),
        ("pruned int8, 5 bits", on_5_bits, {"sparse": False}),
        ("pruned 98 %", at_97, {"sparse": False}),
        ("clustered", on_16, {"sparse": False}),
        ("pcqat", trained, {"sparse": False}),
    ):
        path = folder / f"{re.sub(r'[^a-z0-9]+', '_', name)}.tflite"
        print(f"{name}: writing {path.name}", flush=True)
        sentei.export(model, path, **options)
        written[name] = path
    return written


def write(rows: list[dict[str, Any]], setting: str) -> None:
    """The table, as JSON and Markdown."""
    found = {"setting": setting, "rows": rows}
    dense = rows[0]["accuracy"]
    lines = [
        "# MNIST: 12 MB and less",
        "",
        f"Made by `benchmarks/mnist_12mb.py`, {setting}; accuracy of the file on "
        f"{rows[0]['images']:,} test images. Published for this network: 12 MB → 2 MB pruned → "
        "0.5 MB pruned and quantized, as gzip sees them.",
        "",
        "| file | bytes | gzip -9 | packed | accuracy | target: gzip at most | met |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        target = met = "-"
        if row["row"] in TARGETS:
            most, points = TARGETS[row["row"]]
            good = row["gzip_bytes"] <= most and 100 * (dense - row["accuracy"]) <= points + 1e-9
            target, met = f"{most:,.0f}, {points} points", "yes" if good else "no"
        lines.append(
            f"| {row['row']} | {row['bytes']:,} | {row['gzip_bytes']:,} | {row['packed_bytes']:,} "
            f"| {row['accuracy']:.2%} | {target} | {met} |"
        )
    data.keep(RESULTS / "mnist_12mb.json", found, "\n".join(lines) + "\n")
    print("\n".join(lines))


def main() -> int:
    """Trains, writes files, measures them, writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--full", action="store_true", help="8 epochs a stage")
    parser.add_argument("--steps", type=int, help="optimizer steps a stage")
    parser.add_argument("--images", type=int, default=10_000, help="test images a file is run on")
    parser.add_argument("--fresh", action="store_true", help="forget earlier runs")
    options = parser.parse_args()
    split = data.mnist()
    epoch = len(split.x_train) // BATCH
    steps = options.steps or (8 if options.full else 2) * epoch
    folder = data.CACHE / "mnist_12mb" / str(steps)
    if options.fresh:
        shutil.rmtree(folder, ignore_errors=True)
    written = files(Stages(folder, split, steps), split)
    rows = [measure(name, path, split, options.images) for name, path in written.items()]
    write(rows, f"{steps} steps of {BATCH} images a stage ({steps / epoch:.1f} epochs)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
