"""The smallest ResNet-20 and ResNet-56 on CIFAR-10 within half a point of the float network.

The pretrained network is trained on with a price on bits for a few hundred steps; `--post` uses
`sentei.compress` instead, which trains nothing. Counted is the packed, runnable `.tflite`, graph
included, against the float `.tflite`; the accuracy is that of the unpacked file in the runtime.

    python benchmarks/tiny_resnet.py                # both networks, 300 steps: an hour on 2 cores
    python benchmarks/tiny_resnet.py --depth 20     # PyTorch trains these fastest
    python benchmarks/tiny_resnet.py --quick        # the first 2,000 test images, 150 steps
    python benchmarks/tiny_resnet.py --full         # 3,000 steps

Rows that are done are kept in benchmarks/results/tiny_resnet.json; `--fresh` begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import cifar
import data
import keras
import pretrained

import sentei
from sentei.quantization import Custom, RateLog, rate_report

RESULTS = data.HERE / "results"
EPOCHS, LEARNING_RATE = 5, 2e-3
TARGETS = {20: 20, 56: 30}  # how many times smaller than the float file
PRICES = {20: 0.008, 56: 0.004}  # of a kilobyte
# Of the training images, for `--post`.
CALIBRATION = 4000


def trained(model: Any, split: data.Split, price: float, steps: int) -> Any:
    """The network with a price on its bits, trained on."""
    tiny = sentei.quantize(model, Custom(activation_bits=None, rate=price))
    cifar.compiled(tiny, steps, LEARNING_RATE)
    batches = cifar.Batches(split, steps // EPOCHS)
    tiny.fit(batches, epochs=EPOCHS, verbose=2, callbacks=[RateLog()])
    print(rate_report(tiny))
    return tiny


def run(depth: int, split: data.Split, steps: int, images: int, post: bool) -> dict[str, Any]:
    """One network, by training or without."""
    started = time.time()
    keras.utils.set_random_seed(0)
    model = pretrained.resnet(depth)
    with tempfile.TemporaryDirectory() as name:
        names = ("float.tflite", "m.tflite", "m.stz", "back.tflite")
        dense, file, packed, back = (Path(name) / each for each in names)
        sentei.export(model, dense)
        if post:
            chosen = split.x_train[:CALIBRATION], split.y_train[:CALIBRATION]
            given = (pretrained.normalized(chosen[0]), chosen[1])
            found = sentei.compress(model, given, max_drop=0.005, effort="max", progress=print)
            found.save(packed)
        else:
            tiny = trained(model, split, PRICES[depth], steps)
            sentei.export(tiny, file, slim=True, sparse=False)
            sentei.pack(file, packed, effort="max")
        sentei.unpack(packed, back)
        size, whole = packed.stat().st_size, dense.stat().st_size
        return {
            "network": f"ResNet-{depth}", "how": "compress" if post else f"{steps} steps",
            "bytes": size, "float bytes": whole, "ratio": whole / size,
            "accuracy": 100 * cifar.accuracy(back, split, images),
            "float accuracy": 100 * cifar.accuracy(dense, split, images), "test images": images,
            "minutes": round((time.time() - started) / 60, 1),
            "backend": keras.backend.backend(), "price": None if post else PRICES[depth],
        }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """The results in Markdown."""
    text = [
        "# The smallest ResNets on CIFAR-10\n",
        "Packed runnable `.tflite`, graph included, against the float `.tflite`; accuracy of the",
        "files in the runtime (`python benchmarks/tiny_resnet.py`). Targets: within 0.5 points, "
        + ", ".join(f"1/{ratio} for ResNet-{depth}" for depth, ratio in TARGETS.items())
        + ".\n",
        "| network | how | bytes | of the float file | accuracy | float | test images |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        text.append(
            f"| {row['network']} | {row['how']} | {row['bytes']:,} | 1/{row['ratio']:.1f} "
            f"| {row['accuracy']:.2f} % | {row['float accuracy']:.2f} % | {row['test images']:,} |"
        )
    return "\n".join([*text, ""])


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--depth", type=int, choices=TARGETS)
    parser.add_argument("--post", action="store_true", help="sentei.compress, no training")
    parser.add_argument("--quick", action="store_true", help="2,000 test images, 150 steps")
    parser.add_argument("--full", action="store_true", help="3,000 steps")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    arguments = parser.parse_args()
    kept = RESULTS / "tiny_resnet.json"
    rows = json.loads(kept.read_text()) if kept.exists() and not arguments.fresh else []
    steps = 3000 if arguments.full else 150 if arguments.quick else 300
    images = 2000 if arguments.quick else 10_000
    split = data.cifar10()
    for depth in [arguments.depth] if arguments.depth else list(TARGETS):
        how = "compress" if arguments.post else f"{steps} steps"
        key = (f"ResNet-{depth}", how, images)
        if key in [(row["network"], row["how"], row["test images"]) for row in rows]:
            continue
        rows.append(run(depth, split, steps, images, arguments.post))
        print(rows[-1], flush=True)
        data.keep(kept, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
