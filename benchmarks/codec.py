"""Bits per weight of packed tensors beside general compressors and NNCodec, and speed.

`python benchmarks/codec.py [--data FOLDER] [--nncodec PYTHON]`: weights of pretrained CIFAR-10
ResNets (pruned by magnitude, layer by layer, not trained again) and of LeNet-300-100 pruned with
sentei while it learns MNIST. All coders get the same integers; the general ones as one file of a
byte for each weight. For sentei the names of the tensors are left out, their headers counted.
NNCodec wants an older numpy: give the Python of an environment that holds it (`nncodec`).
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import importlib.util
import json
import lzma
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import numpy as np
from data import GIVEN, keep, keep_arrays

from sentei import codec
from sentei.codec import container

RESULTS = Path(__file__).parent / "results"
Tensors = dict[str, np.ndarray]

_NNCODEC = """
import sys, numpy as np
from nncodec import nnc
arrays = np.load(sys.argv[1])
tensors = {name: arrays[name].astype(np.int32) for name in arrays.files}
coded = nnc.compress(tensors, bitstream_path=sys.argv[2], use_dq=False, param_opt=True,
                     row_skipping=True, return_bitstream=True)
print(len(coded))
"""
_JAVASCRIPT = """
const codec = require(process.argv[1]), fs = require("fs");
const bytes = new Uint8Array(fs.readFileSync(process.argv[2]));
let best = Infinity;
for (let i = 0; i < 5; i++) {
  const start = performance.now();
  codec.unpack(bytes);
  best = Math.min(best, performance.now() - start);
}
console.log(best / 1000);
"""


def pruned(weights: np.ndarray, sparsity: float) -> np.ndarray:
    """The weights with the smallest share of them zero."""
    return np.where(np.abs(weights) > np.quantile(np.abs(weights), sparsity), weights, 0)


def int8(weights: np.ndarray) -> np.ndarray:
    """Symmetric integers of -127 to 127, a scale for each output channel (the first axis)."""
    largest = np.abs(weights).reshape(len(weights), -1).max(1)
    scale = np.where(largest == 0, 1, largest).reshape(-1, *[1] * (weights.ndim - 1)) / 127
    return np.round(weights / scale).astype(np.int8)


def sixteen(weights: np.ndarray) -> np.ndarray:
    """Places among 15 centroids (k-means over all non-zeros, begun evenly) and zero, as int8."""
    values = weights[weights != 0]
    if not values.size:
        return np.zeros(weights.shape, np.int8)
    centroids = np.linspace(values.min(), values.max(), 15)
    for _ in range(30):
        nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, values)
        counts = np.bincount(nearest, minlength=15)
        means = np.bincount(nearest, values, 15) / np.maximum(counts, 1)
        centroids = np.sort(np.where(counts > 0, means, centroids))
    nearest = np.searchsorted((centroids[1:] + centroids[:-1]) / 2, weights)
    below = int(np.searchsorted(centroids, 0))
    places = np.where(nearest >= below, nearest - below + 1, nearest - below)
    return np.where(weights == 0, 0, places).astype(np.int8)


def resnet(data: Path, depth: int, quantize: Callable[[np.ndarray], np.ndarray]) -> Tensors:
    """A network's kernels, 90 % of each zero, in the layout of a `.tflite` (out, y, x, in)."""
    stored = np.load(data / f"resnet{depth}_cifar10.npz")
    found = {}
    for name in stored.files:
        if stored[name].ndim > 1:
            quantized = quantize(pruned(stored[name].astype(np.float64), 0.9))
            found[name] = quantized.transpose(0, 2, 3, 1) if quantized.ndim == 4 else quantized
    return found


def lenet(data: Path, folder: Path) -> Tensors:
    """LeNet-300-100's kernels as Keras lays them out (in, out), 92 % zero, of 16 symbols."""
    kept = folder / "lenet.npz"
    if not kept.exists():
        import keras

        import sentei

        keras.utils.set_random_seed(0)
        stored = np.load(data / "mnist.npz")
        x, y = stored["x_train"].reshape(-1, 784) / np.float32(255), stored["y_train"]
        layers = [keras.layers.Dense(n, activation="relu") for n in (300, 100)]
        model = keras.Sequential([keras.Input((784,)), *layers, keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
        steps = 6 * len(x) // 256
        schedule = sentei.sparsity.PolynomialDecay(0.0, 0.92, steps // 6, steps * 2 // 3)
        sentei.prune(model, schedule)
        model.fit(x, y, batch_size=256, epochs=6, verbose=2)
        test = stored["x_test"].reshape(-1, 784) / np.float32(255)
        print("LeNet-300-100 test:", model.evaluate(test, stored["y_test"], verbose=0))
        kernels = [weight for weight in model.get_weights() if weight.ndim == 2]
        keep_arrays(kept, *kernels)
    stored = np.load(kept)
    return {name: sixteen(stored[name].astype(np.float64)) for name in stored.files}


def large() -> Tensors:
    """Four million made-up int8 weights, 90 % zero, for speed alone."""
    random = np.random.default_rng(0)
    values = np.round(random.laplace(size=(2000, 2000)) * 20).clip(-127, 127)
    return {"large": np.where(random.random(values.shape) < 0.1, values, 0).astype(np.int8)}


def write(tensors: Tensors, path: Path) -> None:
    """Writes int8 tensors as `.safetensors`."""
    header, place = {}, 0
    for name, array in tensors.items():
        shape, end = list(array.shape), place + array.nbytes
        header[name] = {"dtype": "I8", "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    data = b"".join(array.tobytes() for array in tensors.values())
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)


def sizes(tensors: Tensors, folder: Path, nncodec: str | None) -> dict[str, float | None]:
    """Bits per weight by each coder; None where it is not installed."""
    raw = b"".join(array.tobytes() for array in tensors.values())
    count = sum(array.size for array in tensors.values())
    found: dict[str, float | None] = {"gzip -9": len(gzip.compress(raw, 9))}
    found["xz -9"] = len(lzma.compress(raw, preset=9))
    found["zstd -19"] = _command(["zstd", "-19", "-c"], raw)
    found["brotli 11"] = None
    if importlib.util.find_spec("brotli"):
        import brotli

        found["brotli 11"] = len(brotli.compress(raw, quality=11))
    found["NNCodec"] = None
    if nncodec:
        np.savez(folder / "tensors.npz", **tensors)
        command = [nncodec, "-c", _NNCODEC, str(folder / "tensors.npz"), str(folder / "out.nnc")]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found["NNCodec"] = int(told.split()[-1])
    write(tensors, folder / "source")
    for effort in ("fast", "max"):
        codec.pack(folder / "source", folder / effort, effort=effort)
        content = (folder / effort).read_bytes()
        header = container.read_header(content)
        found[f"sentei {effort}"] = len(content) - header.skeleton.coded_size
    return {name: None if size is None else 8 * size / count for name, size in found.items()}


def _command(words: list[str], raw: bytes) -> int | None:
    if shutil.which(words[0]) is None:
        return None
    return len(subprocess.run(words, input=raw, capture_output=True, check=True).stdout)


def speeds(tensors: Tensors, folder: Path) -> dict[str, float | None]:
    """Million weights per second on one thread, the best of three: whole files, checks included."""
    count = sum(array.size for array in tensors.values()) / 1e6
    write(tensors, folder / "source")
    found: dict[str, float | None] = {}
    for effort in ("fast", "max"):
        target = folder / effort
        packed = _best(lambda e=effort, t=target: codec.pack(folder / "source", t, effort=e))
        found[f"pack {effort}"] = count / packed
        found[f"unpack {effort}"] = count / _best(lambda t=target: codec.verify(t))
        found[f"JavaScript {effort}"] = None
        if shutil.which("node"):
            script = Path(codec.__file__).with_name("sentei-codec.js")
            command = ["node", "-e", _JAVASCRIPT, str(script), str(target)]
            told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            found[f"JavaScript {effort}"] = count / float(told)
    return found


def _best(work: Callable[[], object]) -> float:
    times = []
    for _ in range(3):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def table(rows: dict[str, dict[str, float | None]], digits: int) -> str:
    """A table in Markdown."""
    names = list(next(iter(rows.values())))
    lines = ["| | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    for title, row in rows.items():
        cells = ["–" if value is None else f"{value:.{digits}f}" for value in row.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measures and writes the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=GIVEN)
    parser.add_argument("--nncodec", metavar="PYTHON", help="of an environment with NNCodec")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, data = Path(name), arguments.data
        cases = {
            "ResNet-20, 16 symbols, 90 % zero": resnet(data, 20, sixteen),
            "ResNet-56, 16 symbols, 90 % zero": resnet(data, 56, sixteen),
            "ResNet-20, int8 per channel, 90 % zero": resnet(data, 20, int8),
            "ResNet-56, int8 per channel, 90 % zero": resnet(data, 56, int8),
            "LeNet-300-100, 16 symbols, 92 % zero": lenet(data, folder),
        }
        measured: dict[str, Any] = {"bits per weight": {}, "million weights per second": {}}
        for title, tensors in cases.items():
            measured["bits per weight"][title] = sizes(tensors, folder, arguments.nncodec)
            print(title, measured["bits per weight"][title], flush=True)
        quick = {"made up, 4 million": large()}
        quick["ResNet-56, int8"] = cases["ResNet-56, int8 per channel, 90 % zero"]
        for title, tensors in quick.items():
            measured["million weights per second"][title] = speeds(tensors, folder)
            print(title, measured["million weights per second"][title], flush=True)
    load = os.getloadavg()[0]
    measured["machine"] = f"{platform.machine()}, {os.cpu_count()} processors, load {load:.1f}"
    measured["tensors"] = {
        title: hashlib.sha256(b"".join(item.tobytes() for item in tensors.values())).hexdigest()
        for title, tensors in cases.items()
    }
    text = (
        "# Packed tensors\n\nBits per weight, the same integers for all "
        "(`python benchmarks/codec.py`):\n\n"
        + table(measured["bits per weight"], 3)
        + "\n\nMillion weights per second, whole files with their checks, best of three runs, one "
        f"thread ({measured['machine']}):\n\n"
        + table(measured["million weights per second"], 1)
        + "\n"
    )
    keep(RESULTS / "codec.json", measured, text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
