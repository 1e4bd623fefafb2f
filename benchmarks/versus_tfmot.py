"""The same program on the old toolkit and on sentei's drop-in for it: accuracy, bytes, step time.

A network of three convolutions on MNIST, and from its trained weights, in both by the same lines of
code but for the imports:

    pruned 80 %             prune_low_magnitude, UpdatePruningStep, strip_pruning
    clustered 16            cluster_weights, strip_clustering
    QAT                     quantize_model
    PQAT 80 %               the pruned one, quantize_apply with the prune-preserving scheme

The old toolkit (tensorflow_model_optimization 0.8.1 on tf-keras) has an environment of its own,
benchmarks/.data/tfmot, made when it is not there. sentei runs on JAX, and on TensorFlow where
`make test-tensorflow` has made `.venv-tensorflow`. The dense weights are trained once, on JAX.
Files are written as each side's guides say, and all are run by the same runtime. Step times are
medians over the epochs after the first, each side in a process of its own, one after the other.

    python benchmarks/versus_tfmot.py            # 4 epochs of 150 steps a stage: about 10 minutes
    python benchmarks/versus_tfmot.py --quick    # 20 steps an epoch: does it run?
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import data
import numpy as np

RESULTS = data.HERE / "results" / "versus_tfmot.json"
OLD = data.CACHE / "tfmot"
OLD_PACKAGES = ("tensorflow-cpu==2.21.0", "tf-keras", "tensorflow-model-optimization==0.8.1")
EPOCHS, STEPS, QUICK, BATCH = 4, 150, 20, 128
STAGES = ("dense", "pruned 80 %", "clustered 16", "QAT", "PQAT 80 %")
PLAIN = {"tfmot": "tfmot", "tensorflow": "sentei, TensorFlow", "jax": "sentei, JAX"}


def pixels(images: np.ndarray) -> np.ndarray:
    """Images as the network takes them."""
    return images.astype("float32") / 255.0


# -- one side, in its own process ------------------------------------------------------------------


class Side:
    """The programs of one side.

    Args:
        name: `"tfmot"`, `"jax"` or `"tensorflow"`.
        folder: where weights are read from and files are written to.
        steps: optimizer steps an epoch.
    """

    def __init__(self, name: str, folder: Path, steps: int) -> None:
        self.old, self.folder, self.steps = name == "tfmot", folder, steps
        if self.old:
            import tensorflow as tf
            import tensorflow_model_optimization as tfmot

            self.keras: Any = tf.keras
        else:
            import keras

            from sentei import tfmot

            self.keras = keras
        self.tfmot: Any = tfmot
        split = data.mnist()
        count = steps * BATCH
        self.x, self.y = pixels(split.x_train[:count]), split.y_train[:count]
        self.step_ms: list[float] = []

    def network(self) -> Any:
        """The network, with the dense weights if there are any."""
        layers = self.keras.layers
        model = self.keras.Sequential(
            [
                layers.InputLayer((28, 28, 1)) if self.old else self.keras.Input((28, 28, 1)),
                layers.Conv2D(16, 3, strides=2, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(32, 3, strides=2, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Conv2D(64, 3, use_bias=False),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(10),
            ]
        )
        kept = self.folder / "dense.npz"
        if kept.exists():
            with np.load(kept) as arrays:
                model.set_weights([arrays[f"arr_{i}"] for i in range(len(arrays.files))])
        return model

    def train(self, model: Any, rate: float, callbacks: tuple[Any, ...] = ()) -> Any:
        """Compiles and trains, and takes the time of a step."""
        self.keras.utils.set_random_seed(0)
        loss = self.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(self.keras.optimizers.Adam(rate), loss, metrics=["accuracy"])
        begins: list[float] = []
        clock = self.keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: begins.append(time.perf_counter()),
            on_epoch_end=lambda epoch, logs: begins.append(time.perf_counter()),
        )
        model.fit(self.x, self.y, BATCH, EPOCHS, callbacks=[*callbacks, clock], verbose=2)
        spent = np.diff(begins)[::2]
        self.step_ms.append(1000 * float(np.median(spent[1:])) / self.steps)
        return model

    def dense(self) -> Any:
        """Trained where there are no weights yet, else trained on, for its step time."""
        return self.train(self.network(), 1e-3)

    def pruned(self) -> Any:
        """Half of the stage rises to 80 %, half trains on."""
        sparsity = self.tfmot.sparsity.keras
        schedule = sparsity.PolynomialDecay(0.3, 0.8, 0, EPOCHS * self.steps // 2, frequency=10)
        model = sparsity.prune_low_magnitude(self.network(), pruning_schedule=schedule)
        self.train(model, 1e-3, (sparsity.UpdatePruningStep(),))
        return sparsity.strip_pruning(model)

    def clustered(self) -> Any:
        """16 values a kernel."""
        clustering = self.tfmot.clustering.keras
        start = clustering.CentroidInitialization.KMEANS_PLUS_PLUS
        model = clustering.cluster_weights(self.network(), 16, start)
        return clustering.strip_clustering(self.train(model, 1e-4))

    def qat(self) -> Any:
        """Trained on as integers."""
        return self.train(self.tfmot.quantization.keras.quantize_model(self.network()), 1e-4)

    def pqat(self, pruned: Any) -> Any:
        """The pruned one, trained on as integers, its zeros kept."""
        quantization = self.tfmot.quantization.keras
        combine = self.tfmot.experimental.combine
        annotated = quantization.quantize_annotate_model(pruned)
        scheme = combine.Default8BitPrunePreserveQuantizeScheme()
        return self.train(quantization.quantize_apply(annotated, scheme), 1e-4)

    def write(self, model: Any, name: str) -> None:
        """The file, as the guides of each side say."""
        path = self.folder / f"{name}.tflite"
        if not self.old:
            import sentei

            sentei.export(model, path, sparse=False)
            return
        import tensorflow as tf

        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if "QAT" in name:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        path.write_bytes(converter.convert())

    def run(self) -> None:
        """All stages; leaves their files and `times.json`."""
        pruned = None
        makers = (self.dense, self.pruned, self.clustered, self.qat, lambda: self.pqat(pruned))
        for name, make in zip(STAGES, makers, strict=True):
            print(f"-- {name}", flush=True)
            model = make()
            if name == "dense" and not (self.folder / "dense.npz").exists():
                data.keep_arrays(self.folder / "dense.npz", *model.get_weights())
            pruned = model if name.startswith("pruned") else pruned
            self.write(model, name)
        times = dict(zip(STAGES, self.step_ms, strict=True))
        (self.folder / "times.json").write_text(json.dumps(times))


# -- the comparison --------------------------------------------------------------------------------


def python_of(name: str) -> Path | None:
    """The interpreter of a side; the old toolkit's environment is made when it is not there."""
    if name == "jax":
        return Path(sys.executable)
    if name == "tensorflow":
        found = data.HERE.parent / ".venv-tensorflow" / "bin" / "python"
        return found if found.exists() else None
    python = OLD / "bin" / "python"
    if not python.exists():
        print(f"making the old toolkit's environment in {OLD}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", OLD], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *OLD_PACKAGES], check=True)
    return python


def rows_of(name: str, folder: Path) -> list[dict[str, Any]]:
    """What a side's files are and do."""
    from sentei.litert import flatbuffer
    from sentei.litert.runtime import Runner

    split = data.mnist()
    times = json.loads((folder / "times.json").read_text())
    rows = []
    for stage in STAGES:
        path = folder / f"{stage}.tflite"
        runner = Runner(path)
        right = sum(
            int(next(iter(runner(pixels(image[None])).values())).argmax() == label)
            for image, label in zip(split.x_test, split.y_test, strict=True)
        )
        raw = path.read_bytes()
        kernels = [
            tensor.data()
            for tensor in flatbuffer.load(path).tensors()
            if tensor.data() is not None
            and tensor.dtype in ("int8", "float32")
            and np.prod(tensor.shape) >= 100
        ]
        rows.append(
            {
                "stage": stage,
                "side": name,
                "accuracy": right / len(split.x_test),
                "bytes": len(raw),
                "gzip_bytes": len(gzip.compress(raw, 9, mtime=0)),
                "zeros": sum(int(np.sum(k == 0)) for k in kernels) / sum(k.size for k in kernels),
                "step_ratio": times[stage] / times["dense"],
                "step_ms": times[stage],
            }
        )
        print(f"{name}: {stage}: {rows[-1]['accuracy']:.2%}", flush=True)
    return rows


def table(found: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "# The old toolkit and its drop-in",
        "",
        f"The same program, {found['steps']} steps of {BATCH} images a stage, from the same dense "
        "weights; accuracy of the file on 10,000 test images. A step's time is that of the side's "
        "own dense network, times so much; in the last column, it is compared with the old "
        "toolkit's. Made by `benchmarks/versus_tfmot.py`.",
        "",
        "| stage | side | accuracy | bytes | gzip -9 | zeros | step / dense | step / tfmot's |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    old = {row["stage"]: row for row in found["rows"] if row["side"] == "tfmot"}
    order = {name: i for i, name in enumerate(PLAIN)}
    for stage in STAGES:
        rows = [row for row in found["rows"] if row["stage"] == stage]
        for row in sorted(rows, key=lambda row: order[row["side"]]):
            lines.append(
                f"| {stage} | {PLAIN[row['side']]} | {row['accuracy']:.2%} | {row['bytes']:,} | "
                f"{row['gzip_bytes']:,} | {row['zeros']:.1%} | {row['step_ratio']:.2f}x | "
                f"{row['step_ms'] / old[stage]['step_ms']:.2f}x |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs every side, measures the files, writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="20 steps an epoch: does it run?")
    parser.add_argument("--side", choices=PLAIN, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    steps = QUICK if arguments.quick else STEPS
    root = data.CACHE / "versus_tfmot" / str(steps)
    if arguments.side:
        Side(arguments.side, root / arguments.side, steps).run()
        return
    rows = []
    weights = None
    for name in ("jax", "tfmot", "tensorflow"):
        python = python_of(name)
        if python is None:
            print(f"{name}: left out, there is no .venv-tensorflow (make test-tensorflow)")
            continue
        folder = root / name
        folder.mkdir(parents=True, exist_ok=True)
        if weights is not None:
            (folder / "dense.npz").write_bytes(weights)
        print(f"-- {PLAIN[name]}", flush=True)
        environment = {
            **os.environ,
            "TF_USE_LEGACY_KERAS": "1" if name == "tfmot" else "0",
            "KERAS_BACKEND": "tensorflow" if name == "tfmot" else name,
            "TF_CPP_MIN_LOG_LEVEL": "3",
        }
        words = [python, __file__, "--side", name, *(["--quick"] if arguments.quick else [])]
        subprocess.run(words, check=True, env=environment)
        weights = (folder / "dense.npz").read_bytes()
        rows += rows_of(name, folder)
    found = {"steps": EPOCHS * steps, "rows": rows}
    data.keep(RESULTS, found, table(found))
    print(table(found))


if __name__ == "__main__":
    main()
