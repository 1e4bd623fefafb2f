"""The images that come with sentei: a class-balanced subset of Fashion-MNIST."""

import hashlib
import io
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import numpy as np

from sentei.core.errors import CorruptFile

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_FILE = "fashion_mnist.npz"  # written by tools/make_fashion_subset.py
_SHA256 = "efefbe05b9d7eaf04f28ae39025070e3f555b25bf705ff9319bf8a7a4784fc6b"


@dataclass(frozen=True)
class Images:
    """Pictures and what they show.

    Invariants:
        `pixels` is float32 of shape `(images, 28, 28, 1)`, 0 (black) to 1 (white);
        `labels` is int32 of shape `(images,)`, positions in `CLASSES`, every class as often.
    """

    pixels: np.ndarray
    labels: np.ndarray

    def first(self, count: int) -> "Images":
        """The first `count` of them (then the classes need not be alike any more)."""
        return Images(self.pixels[:count], self.labels[:count])

    def __len__(self) -> int:
        return len(self.labels)


def load(source: Any = None) -> tuple[Images, Images]:
    """Reads the shipped images: the first 1,000 and the first 200 of each class of the originals.

    Xiao, Rasul, Vollgraf 2017, "Fashion-MNIST" (arXiv:1708.07747), MIT licence: the text is in
    `fashion_mnist.LICENSE` beside the data.

    Args:
        source: A path-like with `read_bytes`, in place of the file in the package.

    Returns:
        10,000 training images and 2,000 test images.

    Raises:
        CorruptFile: The file is missing or is not, byte for byte, the one that was published.
    """
    path = files("sentei.demo").joinpath(_FILE) if source is None else source
    remedy = "Install sentei again: pip install --force-reinstall sentei."
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CorruptFile(
            f"The demo's images {path} cannot be read: {error.strerror}. {remedy}"
        ) from None
    checksum = hashlib.sha256(content).hexdigest()
    if checksum != _SHA256:
        raise CorruptFile(
            f"The demo's images {path} are damaged: expected the SHA-256 {_SHA256[:16]}…, the file "
            f"({len(content):,} bytes) has {checksum[:16]}…. {remedy}"
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        return _images(stored, "train"), _images(stored, "test")


def _images(stored: Any, part: str) -> Images:
    pixels = stored[f"{part}_images"][..., np.newaxis].astype("float32") / 255
    return Images(pixels, stored[f"{part}_labels"].astype("int32"))
