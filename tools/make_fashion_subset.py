"""Makes src/sentei/demo/fashion_mnist.npz: the images that the demo ships with.

The first 1,000 training and the first 200 test images of each of the ten classes, in the order of
the original files; nothing is drawn at random, so anyone with the originals gets the same arrays.

    python tools/make_fashion_subset.py /usr/share/datasets/fashion-mnist

The argument is the folder of the four original files (Debian: package dataset-fashion-mnist).
"""

import argparse
import gzip
import hashlib
import os
from pathlib import Path

import numpy as np

TARGET = Path(__file__).resolve().parent.parent / "src" / "sentei" / "demo" / "fashion_mnist.npz"
# part → prefix of its files, images kept of each class
PARTS = {"train": ("train", 1000), "test": ("t10k", 200)}
CLASSES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder of the original .gz files")
    parser.add_argument("--out", type=Path, default=TARGET)
    options = parser.parse_args()
    arrays = {}
    for part, (prefix, kept) in PARTS.items():
        images = read(options.folder / f"{prefix}-images-idx3-ubyte.gz")
        labels = read(options.folder / f"{prefix}-labels-idx1-ubyte.gz")
        chosen = first_of_each(labels, kept)
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = images[chosen], labels[chosen]
    temporary = options.out.with_suffix(".tmp.npz")
    np.savez_compressed(temporary, **arrays)
    os.replace(temporary, options.out)
    content = options.out.read_bytes()
    print(f"{options.out}: {len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")


def read(path: Path) -> np.ndarray:
    """Reads an IDX file of bytes: two zeros, type 8, the rank, the big-endian sizes, the bytes."""
    content = gzip.decompress(path.read_bytes())
    if content[:3] != b"\0\0\x08":
        raise SystemExit(f"{path} is no IDX file of bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">u4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)


def first_of_each(labels: np.ndarray, kept: int) -> np.ndarray:
    """Positions of the first `kept` labels of each class, ascending."""
    return np.sort(np.concatenate([np.flatnonzero(labels == c)[:kept] for c in range(CLASSES)]))


if __name__ == "__main__":
    main()
