"""What `sentei demo` does, from the first image to the last file."""

import contextlib
import json as json_format
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
from rich.console import Console

from sentei.core.errors import SenteiError
from sentei.core.files import replaced
from sentei.core.install import strip
from sentei.demo import images, measure, picture
from sentei.demo.images import Images
from sentei.demo.interrupts import between_steps
from sentei.demo.progress import Stages, TrainingProgress, stages
from sentei.demo.results import Epoch, Results, disturbance, summary
from sentei.demo.variants import BATCH_SIZE, VARIANTS, Variant
from sentei.litert.export import export
from sentei.sparsity import Log

_LARGEST_SEED = 2**32 - 1  # NumPy's generators take no larger one
_RESULTS, _PICTURE = "results.json", "tradeoff.png"


@dataclass(frozen=True)
class Effort:
    """How much of everything: the full demo, or one that only shows that all of it works.

    Attributes:
        images: Training images.
        most_epochs: A bound on every variant's epochs.
        runs: Timed rounds.
    """

    images: int
    most_epochs: int
    runs: int


_FULL = Effort(images=10_000, most_epochs=1000, runs=400)
_QUICK = Effort(images=2000, most_epochs=4, runs=30)


def run(out: Path, *, quick: bool = False, json: bool = False, seed: int = 0) -> int:
    """Trains, prunes, exports and measures a small network; the command `sentei demo`.

    Args:
        out: The folder for the files, made if need be. Only the demo's own files are replaced.
        quick: A training so short that the figures mean little.
        json: Print the results as JSON instead of a table.
        seed: Seed of the training.

    Returns:
        The exit status, 0.

    Raises:
        SenteiError: `out` cannot be a folder to write to, or `seed` is out of range.
    """
    if not 0 <= seed <= _LARGEST_SEED:
        raise SenteiError(f"`seed` must be from 0 to {_LARGEST_SEED}. Received: {seed}.")
    _prepare(out)
    # What libraries print must not get between the results.
    with contextlib.redirect_stdout(sys.stderr), stages() as shown:
        results = _perform(out, _QUICK if quick else _FULL, quick, seed, shown)
    with replaced(out / _RESULTS) as path:
        path.write_text(json_format.dumps(results.to_dict(), indent=2) + "\n")
    with replaced(out / _PICTURE) as path:
        picture.draw(results, path)
    if json:
        sys.stdout.write(json_format.dumps(results.to_dict(), indent=2) + "\n")
    else:
        _show(results, out)
    sys.stdout.flush()
    return 0


def _perform(out: Path, effort: Effort, quick: bool, seed: int, shown: Stages) -> Results:
    start = time.perf_counter()
    train, test = images.load()
    train = train.first(effort.images)
    shown.console.print(
        f"Fashion-MNIST: {len(train):,} training and {len(test):,} test images, ten classes",
        style="bold",
    )
    history: list[Epoch] = []
    tried = []
    parameters = 0
    with shown.shown():
        for variant in VARIANTS:
            epochs = min(variant.epochs, effort.most_epochs)
            keras.utils.set_random_seed(seed)
            model = _begin(variant, out, epochs * len(train) // BATCH_SIZE, train)
            parameters = parameters or model.count_params()
            if epochs:
                history += _fit(variant, model, epochs, train, test, shown)
                strip(model)
            with replaced(out / f"{variant.name}.keras") as path:
                model.save(path)
            tried.append(_export_and_try(variant, model, out, test, shown))
    rows = measure.rows(tried, test, effort.runs)
    seconds = time.perf_counter() - start
    return Results(rows, tuple(history), parameters, len(train), seed, quick, seconds)


def _begin(variant: Variant, out: Path, steps: int, train: Images) -> Any:
    """The network that a variant trains: a new one, or what an earlier variant has saved."""
    earlier = variant.begins_from
    model = None if earlier is None else keras.models.load_model(out / f"{earlier}.keras")
    return variant.prepare(model, steps, train)


def _fit(
    variant: Variant, model: Any, epochs: int, train: Images, test: Images, shown: Stages
) -> list[Epoch]:
    """Trains; the test images are looked at, but decide nothing."""
    steps = epochs * -(-len(train) // BATCH_SIZE)
    with shown.stage(variant.doing, steps) as stage, between_steps() as pause:
        history = model.fit(
            train.pixels,
            train.labels,
            batch_size=BATCH_SIZE,
            epochs=epochs,
            validation_data=(test.pixels, test.labels),
            validation_batch_size=500,
            callbacks=[Log(), TrainingProgress(stage, pause)],
            verbose=0,
        ).history
    measured = zip(history["val_accuracy"], history["sparsity"], strict=True)
    return [
        Epoch(variant.name, number, float(accuracy), float(sparsity))
        for number, (accuracy, sparsity) in enumerate(measured, start=1)
    ]


def _export_and_try(
    variant: Variant, model: Any, out: Path, test: Images, shown: Stages
) -> measure.Tried:
    path = out / f"{variant.name}.tflite"
    with shown.stage(f"exporting {variant.name}", 1) as stage:
        # Dense, so that gzip alone shows what pruning does to the size.
        report = export(model, path)
        stage.advance()
        stage.tell(f"{report.bytes:,} bytes")
    with shown.stage(f"packing {path.name}", 1) as stage:
        packed = measure.packed(path)
        stage.advance()
        stage.tell(f"{packed:,} bytes")
    difference = report.verification.relative_error if report.verification else 0.0
    with shown.stage(f"running {path.name}", len(test)) as stage:
        accuracy = measure.accuracy(path, test, stage)
        stage.tell(f"accuracy {accuracy:.2%}")
    return measure.Tried(variant.name, path, difference, accuracy, packed)


def _prepare(out: Path) -> None:
    """Makes the folder and tries to write to it: better now than after the training."""
    if out.exists() and not out.is_dir():
        raise SenteiError(f"{out} is a file. Give a folder for the demo's files: --out FOLDER.")
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise SenteiError(
            f"Nothing can be written to the folder {out}: {error.strerror}. Give another one: "
            "--out FOLDER."
        ) from None


def _show(results: Results, out: Path) -> None:
    """Prints the table and where the files are."""
    names = [*(f"{row.name}.keras" for row in results.rows), *(row.file for row in results.rows)]
    names += [f"{row.file}.stz" for row in results.rows]
    console = Console(highlight=False, markup=False)
    # A terminal breaks lines between words; a file or a pipe gets each sentence whole.
    whole = not console.is_terminal
    console.print()
    console.print(results.table())
    sentences = (
        summary(results.rows),
        "Accuracy and time were measured on the files, in the LiteRT runtime: "
        f"{results.rows[0].images:,} test images; the "
        "median of one image at a time on one thread, the files taking turns.",
        disturbance(results.rows),
        f"Written to {out}{os.sep}: {', '.join([*names, _RESULTS, _PICTURE])}",
        f"{results.seconds:.0f} seconds in all.",
    )
    for sentence in filter(None, sentences):
        console.print(sentence, soft_wrap=whole)
