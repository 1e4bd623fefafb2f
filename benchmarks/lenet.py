"""The classic records of small files on MNIST: LeNet-300-100 and LeNet-5 (Caffe).

Counted is every byte that a device needs: the packed, runnable `.tflite`, graph included. A trained
float network is trained on with a price on bits (`sentei.quantization.Custom(rate=...)`), exported
and packed at `effort="max"`. The error is that of the unpacked file in the runtime, on all 10,000
test images, after the last step: nothing is chosen by it.

    .venv-bench/bin/python benchmarks/lenet.py  # one price, three seeds: 40 core-minutes
    ... --curve                                 # the other prices as well: 80
    ... --quick                                 # one seed, one price, LeNet-5 for 4 of 20 epochs
    ... --full                                  # all prices, three times as long
    ... --only lenet_5                          # one of them

Runs that are done are kept in benchmarks/results/lenet.json, and a script that was stopped goes on
with the next; `--fresh` begins anew. The float networks are kept in benchmarks/.data/lenet.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine  # isort: skip  # before Keras

import data
import keras
import numpy as np
from keras import layers

import sentei
from sentei.litert.runtime import Runner
from sentei.quantization import Custom, RateLog, rate_report

HERE = Path(__file__).resolve().parent
RESULTS, CACHE = HERE / "results", HERE / ".data" / "lenet"
FLOAT = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


@dataclass(frozen=True)
class Case:
    """A network and how it is trained.

    Attributes:
        shape: Of an image.
        float_bytes: Of its weights in float32.
        target: The ratio to reach, and at most what error in percent.
        published: What others reached.
        prices: Of a kilobyte, in units of the loss; the first is the one of `--quick`.
        float_epochs: Of the float network.
        epochs: With a price.
        batch: Images a step.
        rate: The learning rate with a price, which falls as half a cosine.
        quick_epochs: With a price, of `--quick`.
        shift: By how many pixels training images are moved, at most, in both directions.
    """

    shape: tuple[int, ...]
    float_bytes: int
    target: tuple[float, float]
    published: str
    prices: tuple[float, ...]
    float_epochs: int
    epochs: int
    batch: int
    rate: float
    quick_epochs: int
    shift: int


CASES = {
    "lenet_300_100": Case(
        (784,), 1_066_440, (130, 1.8), "40x (Deep Compression), 124x at 1.9 %",
        (0.01, 0.02, 0.04), 8, 20, 250, 3e-3, 20, 0,
    ),
    "lenet_5": Case(
        (28, 28, 1), 1_724_320, (400, 0.9), "39x (Deep Compression), 555x at 0.69 %, 606x at 1.0 %",
        (0.02, 0.01), 8, 20, 500, 4e-3, 4, 2,
    ),
}  # fmt: skip


def network(name: str) -> keras.Model:
    """LeNet-300-100 (266,610 weights) or Caffe's LeNet-5 (431,080)."""
    inputs = keras.Input(CASES[name].shape, name="image")
    if name == "lenet_300_100":
        x = layers.Dense(300, activation="relu")(inputs)
        x = layers.Dense(100, activation="relu")(x)
    else:
        x = layers.MaxPooling2D(2)(layers.Conv2D(20, 5)(inputs))
        x = layers.MaxPooling2D(2)(layers.Conv2D(50, 5)(x))
        x = layers.Dense(500, activation="relu")(layers.Flatten()(x))
    return keras.Model(inputs, layers.Dense(10)(x), name=name)


def mnist(folder: Path, shape: tuple[int, ...]) -> tuple[np.ndarray, ...]:
    """Images between 0 and 1 and labels, to train and to test."""
    with np.load(folder / "mnist.npz") as stored:
        images = [stored[k].reshape(-1, *shape) / np.float32(255) for k in ("x_train", "x_test")]
        return images[0], stored["y_train"].astype("int64"), images[1], stored["y_test"]


class Shifted(keras.utils.PyDataset):
    """Batches of images in a random order, each moved by a few pixels.

    Args:
        data: Images and labels.
        batch: How many a batch.
        shift: By how many pixels at most.
    """

    def __init__(self, data: Any, batch: int, shift: int) -> None:
        super().__init__()
        self.x, self.y = data[:2]
        self.batch, self.shift = batch, shift
        self.random = np.random.default_rng(0)
        self.on_epoch_end()

    def on_epoch_end(self) -> None:
        """Takes another order."""
        self.order = self.random.permutation(len(self.x))

    def __len__(self) -> int:
        return len(self.x) // self.batch

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        chosen = self.order[index * self.batch : (index + 1) * self.batch]
        images = self.x[chosen]
        for image, by in zip(images, self._moves(len(images)), strict=True):
            image[:] = np.roll(image, by, (0, 1))  # what leaves is background, as what enters
        return images, self.y[chosen]

    def _moves(self, count: int) -> np.ndarray:
        return self.random.integers(-self.shift, self.shift + 1, (count, 2))


def train(model: Any, data: Any, rate: float, case: Case, epochs: int, *callbacks: Any) -> None:
    """Adam, at a learning rate that falls to nothing."""
    x, y = data[:2]
    schedule = keras.optimizers.schedules.CosineDecay(rate, epochs * len(x) // case.batch)
    model.compile(keras.optimizers.Adam(schedule), FLOAT, metrics=["accuracy"])
    how = {"epochs": epochs, "verbose": 2, "callbacks": list(callbacks)}
    if case.shift:
        model.fit(Shifted(data, case.batch, case.shift), **how)
    else:
        model.fit(x, y, batch_size=case.batch, **how)


def float_network(name: str, seed: int, data: Any, scale: int) -> keras.Model:
    """The trained float network of a seed, from an earlier run if there is one."""
    case = CASES[name]
    epochs = scale * case.float_epochs
    kept = CACHE / f"{name}_{seed}_{epochs}.weights.h5"
    keras.utils.set_random_seed(seed)
    model = network(name)
    if not kept.exists():
        train(model, data, 1e-3, case, epochs)
        CACHE.mkdir(parents=True, exist_ok=True)
        model.save_weights(kept)
    model.load_weights(kept)
    return model


def test_error(path: Path, data: Any) -> float:
    """Percent of the test images that a file gets wrong."""
    runner = Runner(path)
    scores = next(iter(runner({"image": data[2]}).values()))
    return 100 * float(np.mean(scores.argmax(-1) != data[3]))


def measure(model: Any, data: Any, folder: Path) -> dict[str, Any]:
    """The bytes of a quantized model, packed, and the error of what comes out of the package."""
    file, packed, back = (folder / name for name in ("m.tflite", "m.stz", "back.tflite"))
    sentei.export(model, file, slim=True, sparse=False)
    sentei.pack(file, packed, effort="max")
    sentei.unpack(packed, back)
    return {
        "bytes": packed.stat().st_size,
        "tflite bytes": file.stat().st_size,
        "error": test_error(back, data),
    }


def run(name: str, seed: int, price: float, epochs: int, data: Any, scale: int) -> dict[str, Any]:
    """Trains with a price, and measures."""
    case, started = CASES[name], time.time()
    model = float_network(name, seed, data, scale)
    with tempfile.TemporaryDirectory() as folder:
        sentei.export(model, Path(folder) / "float.tflite")
        float_error = test_error(Path(folder) / "float.tflite", data)
        tiny = sentei.quantize(model, Custom(activation_bits=None, rate=price))
        keras.utils.set_random_seed(seed)
        train(tiny, data, case.rate, case, epochs, RateLog())
        rates = rate_report(tiny)
        print(rates)
        found = measure(tiny, data, Path(folder))
    return {
        "network": name, "seed": seed, "price": price, "epochs": epochs,
        "ratio": case.float_bytes / found["bytes"], **found, "float error": float_error,
        "estimated bytes": round(rates.bits / 8), "nonzeros": sum(r.nonzeros for r in rates.rows),
        "backend": keras.backend.backend(), "minutes": round((time.time() - started) / 60, 1),
    }  # fmt: skip


def table(rows: list[dict[str, Any]]) -> str:
    """What was reached, in Markdown: the means over the seeds, and every run."""
    text = ["# The smallest LeNets\n"]
    text.append("Packed runnable `.tflite`, graph included; error of that file on the 10,000 test")
    text.append(
        "images of MNIST (`python benchmarks/lenet.py`). Ratios are to the float32 weights.\n"
    )
    for name in dict.fromkeys(row["network"] for row in rows):
        case, mine = CASES[name], [row for row in rows if row["network"] == name]
        ratio, error = case.target
        text.append(f"## {name}\n\nTarget: {ratio:g}x at no more than {error:g} % error.")
        text.append(f"Published: {case.published}.\n")
        text.append(
            "| price of a kB | epochs | seed | bytes | ratio | error | float error | not 0 |"
        )
        text.append("|---:|---:|---:|---:|---:|---:|---:|---:|")
        for row in sorted(mine, key=lambda row: (row["epochs"], row["price"], row["seed"])):
            text.append(
                f"| {row['price']:g} | {row['epochs']} | {row['seed']} | {row['bytes']:,} "
                f"| {row['ratio']:.0f}x | {row['error']:.2f} % | {row['float error']:.2f} % "
                f"| {row['nonzeros']:,} |"
            )
        text.append("")
    return "\n".join(text)


def load() -> list[dict[str, Any]]:
    """The runs that are done."""
    kept = RESULTS / "lenet.json"
    return json.loads(kept.read_text()) if kept.exists() else []


def save(rows: list[dict[str, Any]]) -> None:
    """Writes the results."""
    data.keep(RESULTS / "lenet.json", rows, table(rows))


def main() -> None:
    """Runs what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=data.GIVEN)
    parser.add_argument("--only", choices=CASES)
    parser.add_argument("--quick", action="store_true", help="one seed, one price")
    parser.add_argument("--curve", action="store_true", help="all prices")
    parser.add_argument("--full", action="store_true", help="three times as many epochs")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    arguments = parser.parse_args()
    if not arguments.quick:
        machine.refuse_hours()
    scale = 3 if arguments.full else 1
    if arguments.fresh:
        save([])
    names = [name for name in CASES if arguments.only in (None, name)]
    plan = [
        (
            name,
            seed,
            price,
            CASES[name].quick_epochs if arguments.quick else scale * CASES[name].epochs,
        )
        for rank in range(9 if arguments.curve or arguments.full else 1)  # first prices come first
        for name in names
        for price in CASES[name].prices[rank : rank + 1]
        for seed in range(1 if arguments.quick else 3)
    ]
    for key in plan:
        if key not in [(r["network"], r["seed"], r["price"], r["epochs"]) for r in load()]:
            row = run(*key, mnist(arguments.data, CASES[key[0]].shape), scale)
            print(row, flush=True)
            save([*load(), row])
    print(table(load()))


if __name__ == "__main__":
    sys.exit(main())
