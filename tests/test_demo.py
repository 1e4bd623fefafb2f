"""The demo: its images, its figures against independent ones, its manners in the output folder."""

import gzip
import json
import math
import os
import signal
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from sentei import demo
from sentei.core.errors import CorruptFile, SenteiError
from sentei.demo import images, picture
from sentei.demo.interrupts import between_steps
from sentei.demo.results import COLUMNS, Epoch, Results, Row, cells, disturbance, summary

SHIPPED = Path(str(files("sentei.demo"))) / "fashion_mnist.npz"
WRITTEN = {f"{name}.{end}" for name in ("dense", "pruned") for end in ("keras", "tflite")} | {
    "dense.tflite.stz",
    "pruned.tflite.stz",
    "int8.keras",
    "int8.tflite",
    "int8.tflite.stz",
    "clustered.keras",
    "clustered.tflite",
    "clustered.tflite.stz",
    "results.json",
    "tradeoff.png",
}


def row(name="dense", **changes) -> Row:
    values = {
        "name": name,
        "file": f"{name}.tflite",
        "bytes": 517_188,
        "gzip_bytes": 400_000,
        "packed_bytes": 350_000,
        "sparsity": 0.0,
        "accuracy": 0.9,
        "images": 2000,
        "latency_ms": 0.0712,
        "latency_quartiles_ms": (0.07, 0.08),
        "ratio": 1.0,
        "ratio_quartiles": (1.0, 1.0),
        "difference": 1e-7,
    }
    return Row(**{**values, **changes})


# -- images ---------------------------------------------------------------------------------------


def test_images_are_balanced_and_in_range():
    for part, each in zip(images.load(), (1000, 200), strict=True):
        assert part.pixels.shape == (10 * each, 28, 28, 1) and part.pixels.dtype == np.float32
        assert (part.pixels.min(), part.pixels.max()) == (0.0, 1.0)
        assert part.labels.dtype == np.int32
        assert np.bincount(part.labels).tolist() == [each] * len(images.CLASSES)


def test_images_are_those_of_the_publication():
    train, test = images.load()
    # The labels as anyone who opens the original files sees them first.
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]
    assert test.labels[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    # Row 14 of the first training image, an ankle boot, starts and ends on background.
    boot = np.rint(train.pixels[0, :, :, 0] * 255).astype(int)
    assert boot[3, 12:16].tolist() == [1, 0, 0, 13]
    assert len(train.first(7)) == 7


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[:-1], lambda data: data[:999] + b"\0" + data[1000:]],
    ids=["empty", "truncated", "one byte"],
)
def test_damaged_images_are_refused(tmp_path, damage):
    path = tmp_path / "fashion_mnist.npz"
    path.write_bytes(damage(SHIPPED.read_bytes()))
    with pytest.raises(CorruptFile, match=r"fashion_mnist.npz are damaged.*Install sentei again"):
        images.load(path)


def test_missing_images_are_named(tmp_path):
    with pytest.raises(CorruptFile, match=r"nothing.npz cannot be read: No such file"):
        images.load(tmp_path / "nothing.npz")


# -- results --------------------------------------------------------------------------------------


def test_cells_and_summary():
    measured = {"bytes": 129_297, "gzip_bytes": 100_000, "packed_bytes": 64_648}
    pruned = row("pruned", **measured, sparsity=0.797, accuracy=0.8825, ratio=0.98)
    texts = dict(zip(COLUMNS, cells(pruned), strict=True))
    assert texts == {
        "file": "pruned",
        "bytes": "129,297",
        "gzip -9": "100,000",
        "packed": "64,648",
        "sparsity": "79.7%",
        "accuracy": "88.25%",
        "ms": "0.071",
        "ratio": "0.98x",
    }
    said = summary([row(), pruned])
    assert "pruned.tflite is 4.0x smaller than dense.tflite, packed 8.0x smaller" in said
    assert "-1.75 points" in said


def test_times_taken_on_a_busy_machine_are_said_to_be():
    quiet = row("pruned", ratio_quartiles=(0.98, 1.03))
    assert disturbance([row(), quiet]) is None
    busy = row("pruned", ratio_quartiles=(0.5, 2.0))
    assert "pruned.tflite a ratio from 0.50x to 2.00x" in disturbance([row(), busy, quiet])


def test_accuracy_error_is_that_of_a_share():
    # 1,000 of 2,000 right: variance of a share p of n is p (1 - p) / n.
    assert row(accuracy=0.5).accuracy_error == pytest.approx(math.sqrt(0.25 / 2000))


def test_picture_of_any_number_of_rows(tmp_path):
    rows = tuple(row(name, packed_bytes=90_000 * n) for n, name in enumerate("abc", start=1))
    history = tuple(Epoch(name, n, 0.8, 0.1 * n) for name in "abc" for n in (1, 2, 3))
    path = tmp_path / "picture.png"
    picture.draw(Results(rows, history, 1, 2, 3, False, 4.0), path)
    assert path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 10_000


# -- the command ----------------------------------------------------------------------------------


def test_file_in_place_of_the_folder_is_refused_and_kept(tmp_path):
    path = tmp_path / "taken"
    path.write_text("mine")
    with pytest.raises(SenteiError, match=r"taken is a file\. Give a folder"):
        demo.run(path)
    with pytest.raises(SenteiError, match=r"Nothing can be written to the folder .*below"):
        demo.run(path / "below")
    assert path.read_text() == "mine"


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_no_generator_takes_are_refused(tmp_path, seed):
    with pytest.raises(SenteiError, match=rf"`seed` must be from 0 to 4294967295.*{seed}"):
        demo.run(tmp_path / "out", seed=seed)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def interruptible():
    """The usual handler: a process started in the background of a shell ignores the signal."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_interrupts_wait_for_the_end_of_a_step(interruptible):
    done = []
    with pytest.raises(KeyboardInterrupt), between_steps() as pause:
        for step in range(5):
            if step == 2:
                signal.raise_signal(signal.SIGINT)
            done.append(step)
            pause()
    assert done == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_second_interrupt_does_not_wait(interruptible):
    with pytest.raises(KeyboardInterrupt), between_steps():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("the second signal was held back")


def test_interrupt_in_the_last_step_is_not_lost(interruptible):
    with pytest.raises(KeyboardInterrupt), between_steps():
        signal.raise_signal(signal.SIGINT)


def sentei_demo(*arguments: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "KERAS_BACKEND": "jax"}
    environment.pop("PYTHONWARNINGS", None)
    return subprocess.run(
        [sys.executable, "-m", "sentei", "demo", "--quick", *arguments],
        capture_output=True,
        text=True,
        env=environment,
        timeout=600,
    )


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """A quick demo in a folder where something of the user's lies already."""
    folder = tmp_path_factory.mktemp("demo") / "new" / "out"
    folder.mkdir(parents=True)
    (folder / "mine.txt").write_text("mine")
    (folder / "dense.tflite").write_text("from an earlier run")
    return folder, sentei_demo("--json", "--out", str(folder))


def scores(path: Path, pixels: np.ndarray) -> np.ndarray:
    """The file's outputs, one image after another, by the bare interpreter."""
    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    (source,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    found = []
    for image in pixels:
        interpreter.set_tensor(source["index"], image[np.newaxis])
        interpreter.invoke()
        found.append(interpreter.get_tensor(result["index"])[0])
    return np.stack(found)


@pytest.mark.slow
@pytest.mark.xdist_group("demo")  # one run of it for all
class TestQuick:
    def test_ends_well_and_prints_json_alone(self, quick):
        folder, done = quick
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == json.loads((folder / "results.json").read_text())

    def test_says_nothing_but_its_stages(self, quick):
        _, done = quick
        beginnings = (
            "Fashion-MNIST: ",
            "training: ",
            "pruning ",
            "clustering ",
            "exporting ",
            "running ",
            "packing ",
        )
        lines = done.stderr.splitlines()
        assert lines and not [line for line in lines if not line.startswith(beginnings)]

    def test_writes_its_files_and_touches_no_other(self, quick):
        folder, _ = quick
        assert {path.name for path in folder.iterdir()} == {*WRITTEN, "mine.txt"}
        assert (folder / "mine.txt").read_text() == "mine"

    @pytest.mark.parametrize("name", ["dense", "pruned", "clustered", "int8"])
    def test_figures_are_those_of_the_file(self, quick, name):
        folder, done = quick
        found = {item["name"]: item for item in json.loads(done.stdout)["rows"]}[name]
        path = folder / found["file"]
        assert found["bytes"] == path.stat().st_size
        assert found["packed_bytes"] == (folder / f"{path.name}.stz").stat().st_size
        assert found["gzip_bytes"] == pytest.approx(
            len(gzip.compress(path.read_bytes(), 9)), abs=20
        )
        _, test = images.load()
        right = (scores(path, test.pixels).argmax(-1) == test.labels).mean()
        assert found["accuracy"] == pytest.approx(right, abs=1e-9)
        assert found["images"] == len(test)
        assert right > 0.5  # of ten classes
        assert found["difference"] < 1e-4
        assert (found["bytes"] < 130_000) == (name != "dense")

    def test_file_is_as_sparse_as_the_model_and_the_table(self, quick):
        import keras

        folder, done = quick
        dense, pruned, clustered, int8 = json.loads(done.stdout)["rows"]
        assert dense["sparsity"] < 0.01
        assert 0.78 < pruned["sparsity"] <= 0.8  # biases are not pruned
        model = keras.models.load_model(folder / "pruned.keras")
        for layer in ("stem", "conv_1", "conv_2", "mix", "scores"):
            kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
            assert np.count_nonzero(kernel) == round(kernel.size * (1 - 0.8))
        assert "sentei" not in model.optimizer.__module__
        # Clustering keeps the zeros, and sixteen values a kernel.
        assert clustered["sparsity"] == pytest.approx(pruned["sparsity"], abs=0.005)
        model = keras.models.load_model(folder / "clustered.keras")
        for layer in ("conv_1", "conv_2", "mix", "scores"):
            kernel = keras.ops.convert_to_numpy(model.get_layer(layer).kernel)
            assert np.count_nonzero(kernel) <= round(kernel.size * (1 - 0.8))
            assert len(np.unique(kernel)) <= 16
        # Each of them becomes an integer of its own: zeros stay zeros.
        assert int8["sparsity"] > 0.75 and int8["bytes"] < dense["bytes"] / 3

    def test_same_seed_gives_the_same_networks(self, quick, tmp_path):
        folder, _ = quick
        again = sentei_demo("--out", str(tmp_path / "again"))
        assert again.returncode == 0, again.stderr
        for name in ("dense.tflite", "pruned.tflite"):
            assert (folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
        header = again.stdout.splitlines()
        assert all(column in "".join(header[:4]) for column in COLUMNS)
        assert f"Written to {tmp_path / 'again'}{os.sep}: " in again.stdout
        assert all(name in again.stdout for name in WRITTEN)
