"""The smallest ResNet-20 and ResNet-56 on CIFAR-10 within half a point of the float network.

The pretrained network is trained on with a price on bits, towards what it said itself before
(`teaching`); `--post`
uses `sentei.compress` instead, which trains nothing. Counted is the packed, runnable `.tflite`,
graph included, against the float `.tflite`; the accuracy is that of the unpacked file in the
runtime, on all test images, after the last step.

    .venv-bench/bin/python benchmarks/tiny_resnet.py            # within an hour on 2 cores
    ... --depth 20                              # one of the two
    ... --quick                                 # the first 2,000 test images, 100 steps
    ... --depth 20 --steps 4200 --price 0.007   # the table's best: an hour of one core
    ... --depth 56 --steps 4200 --price 0.0039  # two hours
    ... --full                                  # ten times as many steps as by default

On PyTorch it computes in bfloat16, which is faster where the processor has it (`--float32`).

A run that was stopped goes on after the last tenth of its steps that is done (they are kept in
benchmarks/.data/tiny_resnet); rows that are done are kept in benchmarks/results/tiny_resnet.json,
and `--fresh` begins these anew.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine  # isort: skip  # before Keras

import cifar
import data
import keras
import models
import numpy as np
import pretrained
from teaching import Teacher, distance

import sentei
from sentei.quantization import Custom, RateLog, quantizers, rate_report, round_batch_norm

RESULTS = data.HERE / "results"
EPOCHS, LEARNING_RATE = 10, 5e-4
STEPS = {20: 1500, 56: 1800}
TARGETS = {20: 20, 56: 30}  # how many times smaller than the float file
PRICES = {20: 0.008, 56: 0.0045}  # of a kilobyte
# Bytes at the first step, of the target's.
START = {20: 0.95, 56: 0.915}
# Training images: for the statistics of batch normalization, and for `--post`.
STATISTICS, CALIBRATION = 32, 4000


class Taught(cifar.Batches):
    """Images, and what a network says of them.

    Args:
        split: the data.
        steps: how many batches an epoch.
        teacher: its file.
    """

    def __init__(self, split: data.Split, steps: int, teacher: Path) -> None:
        super().__init__(split, steps)
        self.teacher = Teacher(teacher)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        images, _ = super().__getitem__(index)
        return images, self.teacher(images)


def begin_with(tiny: Any, size: float) -> None:
    """Makes all steps wider by the same factor, so that the estimate is so many bytes."""
    steps = [(q, float(q.grid().scale[0])) for _, q in quantizers(tiny)]
    low, high = 0.5, 8.0
    for _ in range(12):
        factor = (low * high) ** 0.5
        for quantizer, step in steps:
            quantizer.set_step(factor * step)
        low, high = (factor, high) if rate_report(tiny).bits / 8 > size else (low, factor)


def with_price(depth: int, price: float) -> Any:
    """The pretrained network with a price on its bits."""
    return sentei.quantize(pretrained.resnet(depth), Custom(activation_bits=None, rate=price))


def trained(
    depth: int, steps: int, price: float, teacher: Path, split: data.Split, short: bool
) -> Any:
    """The network trained on with a price on its bits; computed in bfloat16 if `short`.

    Args:
        depth: which.
        steps: how many.
        price: of a kilobyte.
        teacher: the float file.
        split: the data.
        short: whether to compute in bfloat16.
    """
    with models.precision(short):
        tiny = with_price(depth, price)
    begin_with(tiny, START[depth] * teacher.stat().st_size / TARGETS[depth])
    decay = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, steps)
    tiny.compile(keras.optimizers.Adam(decay), distance)
    batches = Taught(split, steps // EPOCHS, teacher)
    kept = data.CACHE / "tiny_resnet" / f"{depth}_{steps}_{price:g}"
    kept.mkdir(parents=True, exist_ok=True)
    callbacks = [
        keras.callbacks.BackupAndRestore(str(kept), double_checkpoint=True),
        keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, _: batches.move_to(epoch)),
        RateLog(),
    ]
    tiny.fit(batches, epochs=EPOCHS, verbose=2, callbacks=callbacks)
    if short:
        weights, tiny = tiny.get_weights(), with_price(depth, price)
        tiny.set_weights(weights)
    sentei.update_batch_norm(tiny, np.concatenate([batches[i][0] for i in range(STATISTICS)]))
    round_batch_norm(tiny)
    print(rate_report(tiny))
    return tiny


def run(
    depth: int, split: data.Split, steps: int, price: float | None, images: int, short: bool
) -> dict[str, Any]:
    """One network, by training; without a price by `sentei.compress` instead."""
    started = time.time()
    keras.utils.set_random_seed(0)
    with tempfile.TemporaryDirectory() as name:
        names = ("float.tflite", "m.tflite", "m.stz", "back.tflite")
        dense, file, packed, back = (Path(name) / each for each in names)
        model = pretrained.resnet(depth)
        sentei.export(model, dense)
        if price is None:
            chosen = split.x_train[:CALIBRATION], split.y_train[:CALIBRATION]
            given = (pretrained.normalized(chosen[0]), chosen[1])
            found = sentei.compress(model, given, max_drop=0.005, effort="max", progress=print)
            found.save(packed)
        else:
            tiny = trained(depth, steps, price, dense, split, short)
            sentei.export(tiny, file, slim=True, sparse=False)
            sentei.pack(file, packed, effort="max")
        sentei.unpack(packed, back)
        size, whole = packed.stat().st_size, dense.stat().st_size
        return {
            "network": f"ResNet-{depth}", "how": "compress" if price is None else f"{steps} steps",
            "bytes": size, "float bytes": whole, "ratio": whole / size,
            "accuracy": 100 * cifar.accuracy(back, split, images),
            "float accuracy": 100 * cifar.accuracy(dense, split, images), "test images": images,
            "minutes": round((time.time() - started) / 60, 1),
            "backend": keras.backend.backend(), "price": price,
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
    parser.add_argument("--quick", action="store_true", help="2,000 test images, 100 steps")
    parser.add_argument("--steps", type=int, help="how many, instead of the default")
    parser.add_argument("--price", type=float, help="of a kilobyte, instead of the default")
    parser.add_argument("--full", action="store_true", help="ten times as many steps")
    parser.add_argument("--float32", action="store_true", help="not in mixed precision")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    arguments = parser.parse_args()
    if not (arguments.quick or arguments.post):
        machine.refuse_hours()
    short = keras.backend.backend() == "torch" and not arguments.float32
    kept = RESULTS / "tiny_resnet.json"
    rows = json.loads(kept.read_text()) if kept.exists() and not arguments.fresh else []
    images = 2000 if arguments.quick else 10_000
    split = data.cifar10()
    for depth in [arguments.depth] if arguments.depth else list(TARGETS):
        steps = 100 if arguments.quick else STEPS[depth] * (10 if arguments.full else 1)
        steps = arguments.steps or steps
        price = None if arguments.post else arguments.price or PRICES[depth]
        how = "compress" if price is None else f"{steps} steps"
        key = (f"ResNet-{depth}", how, images)
        if key in [(row["network"], row["how"], row["test images"]) for row in rows]:
            continue
        rows.append(run(depth, split, steps, price, images, short))
        print(rows[-1], flush=True)
        data.keep(kept, rows, table(rows))
    print(table(rows))


if __name__ == "__main__":
    sys.exit(main())
