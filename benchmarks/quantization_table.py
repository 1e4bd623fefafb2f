"""The classic table of quantization: accuracy, latency and size, before and after.

    float                           the pretrained network
    int8, after training            `sentei.quantize` with 256 training images, nothing else
    int8, training                  the same, trained on for some steps
    int8 weights of 4 bits          the same with `scheme="int4"`

of ResNet-20 and ResNet-56 on CIFAR-10 with the weights of others, and of a small MobileNetV2
trained here. All files are written with `slim=True`. Accuracy is measured on the written file, in
the runtime, on the first test images; latency is interleaved with the float file's, one thread.

    .venv-bench/bin/python benchmarks/quantization_table.py     # 300 steps: about 50 minutes
    ... --quick                                 # 40 steps, ResNet-20 only
    ... --full                                  # 4,000 steps, all 10,000 test images

Rows that are done are kept in benchmarks/results/quantization_table.json and not measured again
with the same setting; `--fresh` begins anew (the trained float MobileNetV2 stays in
benchmarks/.data/quantization_table).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine  # isort: skip  # before Keras

import cifar
import data
import keras
import models
import numpy as np
import pretrained

import sentei
from sentei.quantization import Custom, Int4

RESULTS = data.HERE / "results" / "quantization_table.json"
CALIBRATION, FLOAT_STEPS = 256, 10
SETTINGS = {"quick": (40, 1000), "default": (300, 2000), "full": (4000, 10000)}
SCHEMES: dict[str, tuple[Any, bool]] = {
    "int8, after training": ("int8", False),
    "int8, training": (Custom(ranges="moving"), True),
    "int4 weights, training": (Int4(ranges="moving"), True),
}


def mobilenet(split: data.Split, steps: int) -> keras.Model:
    """A MobileNetV2 for 32 x 32 images, trained from scratch or, if it was before, read."""
    keras.utils.set_random_seed(0)
    model = models.mobilenet_v2_cifar()
    steps *= FLOAT_STEPS
    kept = data.CACHE / f"quantization_table/mobilenet_v2_{steps}.weights.h5"
    if not kept.exists():
        cifar.fit(cifar.compiled(model, steps, 2e-3), split, steps)
        kept.parent.mkdir(parents=True, exist_ok=True)
        model.save_weights(kept)
    model.load_weights(kept)
    return model


NETWORKS: dict[str, Callable[[data.Split, int], keras.Model]] = {
    "ResNet-20": lambda split, steps: pretrained.resnet(20),
    "ResNet-56": lambda split, steps: pretrained.resnet(56),
    "MobileNetV2": mobilenet,
}


def rows_of(
    name: str, split: data.Split, steps: int, images: int, keep: Callable[[dict[str, Any]], None]
) -> None:
    """Measures a network: every row is handed out as soon as it is there."""
    model = NETWORKS[name](split, steps)
    weights = model.get_weights()
    calibration = pretrained.normalized(split.x_train[:CALIBRATION])
    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "float.tflite"
        sentei.export(model, dense, slim=True)
        row = {"network": name, "row": "float", "accuracy": cifar.accuracy(dense, split, images)}
        keep({**row, "bytes": dense.stat().st_size, "latency_ratio": 1.0, "simulated": None})
        for label, (scheme, trained) in SCHEMES.items():
            print(f"{name}: {label}", flush=True)
            model.set_weights(weights)
            keras.utils.set_random_seed(0)
            qmodel = sentei.quantize(model, scheme, calibration=calibration)
            if trained:
                rate = 1e-4 if label.startswith("int8") else 5e-4
                cifar.fit(cifar.compiled(qmodel, steps, rate), split, steps)
            path = Path(folder) / "int.tflite"
            sentei.export(qmodel, path, slim=True, verify=calibration[:32])
            x = pretrained.normalized(split.x_test[:images])
            logits = np.asarray(qmodel.predict(x, batch_size=100, verbose=0))
            measured = sentei.benchmark([dense, path], runs=50)
            keep(
                {
                    "network": name,
                    "row": label,
                    "accuracy": cifar.accuracy(path, split, images),
                    "simulated": float(np.mean(logits.argmax(-1) == split.y_test[:images])),
                    "bytes": path.stat().st_size,
                    "latency_ratio": measured[1].ratio,
                }
            )


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        "| network | | accuracy of the file | of `predict` | size | latency |",
        "|---|---|---:|---:|---:|---:|",
    ]
    floats = {row["network"]: row for row in results["rows"] if row["row"] == "float"}
    for row in results["rows"]:
        simulated = "" if row["simulated"] is None else f"{row['simulated']:.2%}"
        size = f"{row['bytes'] / floats[row['network']]['bytes']:.3f}x"
        lines.append(
            f"| {row['network']} | {row['row']} | {row['accuracy']:.2%} | {simulated} | {size} | "
            f"{row['latency_ratio']:.2f}x |"
        )
    return "\n".join(lines) + (
        f"\n\nSetting `{results['setting']}`: {results['steps']} steps of {cifar.BATCH} images, "
        f"the first {results['images']:,} test images, on {results['backend']}.\n"
    )


def main() -> None:
    """Measures what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="40 steps, ResNet-20 only")
    parser.add_argument("--full", action="store_true", help="4,000 steps, all test images")
    parser.add_argument("--network", choices=NETWORKS, action="append", help="only these")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    if not arguments.quick:
        machine.refuse_hours()
    setting = "quick" if arguments.quick else "full" if arguments.full else "default"
    steps, images = SETTINGS[setting]
    head = {"setting": setting, "steps": steps, "images": images}
    results: dict[str, Any] = {**head, "backend": keras.backend.backend(), "rows": []}
    if RESULTS.exists() and not arguments.fresh:
        kept = json.loads(RESULTS.read_text())
        if {name: kept[name] for name in head} == head:
            results = kept
    names = arguments.network or (["ResNet-20"] if arguments.quick else list(NETWORKS))
    split = data.cifar10()

    def keep(row: dict[str, Any]) -> None:
        same = [r for r in results["rows"] if (r["network"], r["row"]) != key(row)]
        results["rows"] = [*same, row]
        data.keep(RESULTS, results, table(results))

    for name in names:
        if sum(row["network"] == name for row in results["rows"]) == 1 + len(SCHEMES):
            print(f"{name}: done in an earlier run", flush=True)
            continue
        start = time.perf_counter()
        rows_of(name, split, steps, images, keep)
        print(f"{name}: {time.perf_counter() - start:.0f} s", flush=True)
    print(table(results))


def key(row: dict[str, Any]) -> tuple[str, str]:
    """What tells a row from the others."""
    return row["network"], row["row"]


if __name__ == "__main__":
    main()
