"""What int8 costs a pretrained MobileNetV2, by who rounds it: top-1 of each written file.

    float                        torchvision's weights
    litert-quantizer             its static int8 recipe, on the float file
    min-max                      `sentei.quantize` with the plain smallest and largest value
    default                      `sentei.quantize`
    bias correction, AdaRound    the default, then `correct_bias` or `adaround`
    percentile, AdaRound         ranges without the outermost 0.01 %, then `adaround`
    one scale a kernel           the default, without a scale for each channel
    one scale, equalized         the same after `equalize(model, widen_relu6=True)`

All are calibrated with the same 100 images. ImageNet itself may not be shipped, so images are
random crops of 20 of its photos, mirrored half of the time, with the photos' labels; those for
calibration and for the test are drawn apart. Twenty photos say little about top-1: a photo that is
on the edge takes all its crops along. How often the float file's class is found, and how far the
logits are from its logits, in decibels, say more.

    python benchmarks/mobilenet_int8.py            # 1,000 test images: about 30 minutes on 2 cores
    python benchmarks/mobilenet_int8.py --quick    # 200 test images, without AdaRound

Rows that are done are kept in benchmarks/results/mobilenet_int8.json and not measured again for
the same number of images; `--fresh` begins anew. The table is beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import data
import numpy as np
import pretrained

import sentei
from sentei.litert.runtime import Runner
from sentei.quantization import Custom, adaround, correct_bias, equalize

RESULTS = data.HERE / "results" / "mobilenet_int8.json"
CALIBRATION, IMAGES, QUICK, STEPS = 100, 1000, 200, 500
SMALLEST, SIDE = 160, 224


def crops(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Random crops of the photos.

    Args:
        count: How many.
        seed: Which.

    Returns:
        uint8 images `(count, 224, 224, 3)` and their labels.
    """
    from PIL import Image

    photos, names = data.photos()
    draw = np.random.default_rng(seed)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    for i in range(count):
        side = draw.integers(SMALLEST, SIDE + 1)
        top, left = draw.integers(0, SIDE - side + 1, 2)
        crop = photos[i % len(photos)][top : top + side, left : left + side]
        image = np.asarray(Image.fromarray(crop).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
        images[i] = image[:, ::-1] if draw.random() < 0.5 else image
    return images, names[np.arange(count) % len(names)]


def logits_of(path: Path, images: np.ndarray) -> np.ndarray:
    """What a file gives, image by image."""
    runner = Runner(path, threads=os.cpu_count() or 1)
    found = []
    for i in range(len(images)):
        (logits,) = runner(pretrained.normalized(images[i : i + 1])).values()
        found.append(logits[0])
    return np.stack(found)


def ways(model: Any, samples: np.ndarray) -> dict[str, Callable[[Path], Any]]:
    """How each file is written, in an order in which none disturbs the next."""
    weights = model.get_weights()

    def integers(scheme: Any, after: Callable[[Any], Any] | None = None) -> Callable[[Path], Any]:
        def write(path: Path) -> Any:
            model.set_weights(weights)
            qmodel = sentei.quantize(model, scheme, calibration=samples)
            if after is not None:
                after(qmodel)
            return sentei.export(qmodel, path, verify=samples[:2])

        return write

    def other(path: Path) -> Any:
        dense = path.with_name("dense.tflite")
        sentei.export(model, dense)
        return sentei.quantize_file(dense, path, "int8", calibration=samples)

    def equalized(path: Path) -> Any:
        fresh = pretrained.mobilenet_v2()
        equalize(fresh, widen_relu6=True)
        qmodel = sentei.quantize(fresh, Custom(per_channel=False), calibration=samples)
        return sentei.export(qmodel, path, verify=samples[:2])

    return {
        "float": lambda path: sentei.export(model, path),
        "int8, litert-quantizer": other,
        "int8, min-max": integers(Custom(observer="minmax")),
        "int8, default": integers("int8"),
        "int8, bias correction": integers("int8", lambda q: correct_bias(q, samples)),
        "int8, AdaRound": integers("int8", lambda q: adaround(q, samples, steps=STEPS)),
        "int8, percentile, AdaRound": integers(
            Custom(observer="percentile"), lambda q: adaround(q, samples, steps=STEPS)
        ),
        "int8, one scale a kernel": integers(Custom(per_channel=False)),
        "int8, one scale a kernel, equalized": equalized,
    }


def table(results: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = ["| file | top-1 | as float | logits, dB | bytes |", "|---|---:|---:|---:|---:|"]
    for row in results["rows"]:
        like = "" if row["row"] == "float" else f"{row['agreement']:.1%} | {row['decibels']:.1f}"
        cells = f"{row['row']} | {row['accuracy']:.1%} | {like or ' | '}"
        lines.append(f"| {cells} | {row['bytes']:,} |")
    return "\n".join(lines) + (
        f"\n\n{results['images']:,} test images and {results['calibration']} for calibration: "
        "random crops of 20 photos of ImageNet.\n"
    )


def main() -> None:
    """Writes the files, measures them and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK} images, no AdaRound")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    model = pretrained.mobilenet_v2()
    samples = pretrained.normalized(crops(CALIBRATION, seed=1)[0])
    images, labels = crops(QUICK if arguments.quick else IMAGES, seed=2)
    head = {"images": len(images), "calibration": CALIBRATION}
    results: dict[str, Any] = {**head, "rows": []}
    if RESULTS.exists() and not arguments.fresh:
        kept = json.loads(RESULTS.read_text())
        results = kept if {name: kept[name] for name in head} == head else results
    done = {row["row"] for row in results["rows"]}
    known: np.ndarray | None = None  # the float file's logits
    for name, write in ways(model, samples).items():
        if (arguments.quick and name.endswith("AdaRound")) or (name in done and name != "float"):
            continue
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "m.tflite"
            write(path)
            logits = logits_of(path, images)
            size = path.stat().st_size
        known = logits if known is None else known
        noise = float(np.sum((logits - known) ** 2))
        row = {
            "row": name,
            "accuracy": float(np.mean(logits.argmax(-1) == labels)),
            "agreement": float(np.mean(logits.argmax(-1) == known.argmax(-1))),
            "decibels": 10 * np.log10(float(np.sum(known**2)) / noise) if noise else None,
            "bytes": size,
        }
        if name not in done:
            results["rows"].append(row)
        data.keep(RESULTS, results, table(results))
        spent = time.perf_counter() - start
        print(f"{name}: {row['accuracy']:.1%} ({spent:.0f} s)", file=sys.stderr, flush=True)
    print(table(results))


if __name__ == "__main__":
    main()
