"""Activations of 8 or 16 bits in a recurrent network: word accuracy on spoken digits.

A GRU (Cho et al. 2014) carries its state over 20 steps, and so carries on what rounding does to it.
Written out step by step as layers and operations, all of it can be computed in integers:

    float                      trained here
    int8                       8-bit weights and activations, calibrated
    int16x8                    8-bit weights, 16-bit activations
    int8, trained              the first, trained on
    keras.layers.GRU, int8     the recurrence stays float, on 8-bit weights

for states of several sizes. The data is the Free Spoken Digit Dataset (2,000 words, 4 speakers; 200
are for the test), as 24 logarithmic mel bands of 20 frames. Accuracy is measured on the files.

    python benchmarks/activation_bits.py            # 3 seeds: about 20 minutes on 2 cores
    python benchmarks/activation_bits.py --quick    # 1 seed, 20 epochs

Writes benchmarks/results/activation_bits.json and .md. What is done is kept there and not measured
again with the same setting; `--fresh` begins anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "jax")

import data
import keras
import numpy as np
from keras import layers

import sentei
from sentei.litert.quantized import take_census
from sentei.litert.runtime import Runner
from sentei.quantization import Custom

RESULTS = data.HERE / "results" / "activation_bits.json"
STEPS, BANDS, STATES, BATCH, CALIBRATION = 20, 24, (16, 48), 64, 200
SETTINGS = {"quick": (1, 20, 3), "default": (3, 60, 10)}  # seeds, epochs, epochs of QAT


def written_out(states: int) -> keras.Model:
    """A GRU as layers and operations, one after another."""
    inputs = x = keras.Input((STEPS, BANDS), name="sound")
    given = layers.Dense(3 * states, name="given")(x)
    own = layers.Dense(2 * states, use_bias=False, name="gates")
    own_candidate = layers.Dense(states, use_bias=False, name="candidate")
    h: Any = None
    for step in range(STEPS):
        now = given[:, step]
        gates, candidate = now[:, : 2 * states], now[:, 2 * states :]
        if h is None:
            update = keras.ops.sigmoid(gates[:, :states])
            candidate = keras.ops.tanh(candidate)
            h = candidate - update * candidate
            continue
        both = keras.ops.sigmoid(gates + own(h))
        update, reset = both[:, :states], both[:, states:]
        candidate = keras.ops.tanh(candidate + own_candidate(reset * h))
        h = candidate + update * (h - candidate)
    return keras.Model(inputs, layers.Dense(10, name="digit")(h))


def layer(states: int) -> keras.Model:
    """The same size as one layer of Keras."""
    inputs = keras.Input((STEPS, BANDS), name="sound")
    return keras.Model(inputs, layers.Dense(10, name="digit")(layers.GRU(states)(inputs)))


def train(model: Any, split: data.Split, epochs: int, rate: float) -> None:
    """Trains with Adam, the learning rate falling to zero along a cosine."""
    steps = epochs * (len(split.x_train) // BATCH)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    decay = keras.optimizers.schedules.CosineDecay(rate, steps)
    model.compile(keras.optimizers.Adam(decay), loss)
    noisy = split.x_train + np.random.default_rng(0).normal(0, 0.1, split.x_train.shape)
    model.fit(noisy.astype("float32"), split.y_train, BATCH, epochs, verbose=0)


def measured(model: Any, split: data.Split) -> dict[str, Any]:
    """A model's file: how many words it understands, and what computes with real numbers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.tflite"
        sentei.export(model, path, verify=split.x_train[:8])
        runner = Runner(path)
        outputs = [next(iter(runner(one[None]).values()))[0] for one in split.x_test]
        predicted = np.asarray(model.predict(split.x_test, verbose=0))
        return {
            "accuracy": float(np.mean(np.argmax(outputs, -1) == split.y_test)),
            "simulated": float(np.mean(predicted.argmax(-1) == split.y_test)),
            "bytes": path.stat().st_size,
            "float_operators": sum(take_census(runner.model).floating.values()),
        }


def rows_of(states: int, seed: int, split: data.Split, epochs: int, more: int) -> dict[str, Any]:
    """All rows of one size and seed."""
    samples = split.x_train[:CALIBRATION]

    def quantized(model: Any, scheme: Any) -> Any:
        return sentei.quantize(model, scheme, calibration=samples)

    keras.utils.set_random_seed(seed)
    model = written_out(states)
    train(model, split, epochs, 5e-3)
    found = {"float": measured(model, split)}
    found["int8"] = measured(quantized(model, "int8"), split)
    found["int16x8"] = measured(quantized(model, "int16x8"), split)
    qmodel = quantized(model, Custom(ranges="moving"))
    train(qmodel, split, more, 1e-3)
    found["int8, trained"] = measured(qmodel, split)
    keras.utils.set_random_seed(seed)
    whole = layer(states)
    train(whole, split, epochs, 5e-3)
    found["keras.layers.GRU, float"] = measured(whole, split)
    found["keras.layers.GRU, int8"] = measured(quantized(whole, "int8"), split)
    return found


def table(results: dict[str, Any]) -> str:
    """The means over the seeds as Markdown."""
    lines = ["| states | | words understood by the file | by `predict` | bytes | float operators |"]
    lines.append("|---:|---|---:|---:|---:|---:|")

    def mean(runs: list[dict[str, Any]], key: str, pattern: Callable[[float], str]) -> str:
        return pattern(float(np.mean([run[key] for run in runs])))

    for states, runs in results["states"].items():
        for name in runs[0]:
            own = [run[name] for run in runs]
            cells = [
                mean(own, "accuracy", "{:.1%}".format),
                mean(own, "simulated", "{:.1%}".format),
                mean(own, "bytes", "{:,.0f}".format),
                mean(own, "float_operators", "{:.0f}".format),
            ]
            lines.append(f"| {states} | {name} | {' | '.join(cells)} |")
    seeds = min(len(runs) for runs in results["states"].values())
    return "\n".join(lines) + (
        f"\n\nSetting `{results['setting']}`: {seeds} of {results['seeds']} seeds, "
        f"{results['epochs']} epochs, "
        f"{results['words']} words of the Free Spoken Digit Dataset, on {results['backend']}.\n"
    )


def main() -> None:
    """Trains, quantizes, measures and writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="1 seed, 20 epochs")
    parser.add_argument("--fresh", action="store_true", help="measure everything anew")
    arguments = parser.parse_args()
    setting = "quick" if arguments.quick else "default"
    seeds, epochs, more = SETTINGS[setting]
    split = data.spoken_digits(STEPS, BANDS)
    head = {"setting": setting, "seeds": seeds, "epochs": epochs, "words": len(split.x_test)}
    head["backend"] = keras.backend.backend()
    results: dict[str, Any] = {**head, "states": {}}
    if RESULTS.exists() and not arguments.fresh:
        kept = json.loads(RESULTS.read_text())
        results = kept if {name: kept[name] for name in head} == head else results
    for states in STATES:
        runs = results["states"].setdefault(str(states), [])
        for seed in range(len(runs), seeds):
            runs.append(rows_of(states, seed, split, epochs, more))
            said = ", ".join(f"{name} {row['accuracy']:.1%}" for name, row in runs[-1].items())
            print(f"{states} states, seed {seed}: {said}", file=sys.stderr, flush=True)
            data.keep(RESULTS, results, table(results))
    print(table(results))


if __name__ == "__main__":
    main()
