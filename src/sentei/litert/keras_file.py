"""Reading what Keras saves, `.keras` archives and `.weights.h5` files, checked before use."""

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import ml_dtypes
import numpy as np

from sentei.core.errors import CorruptFile, UnsupportedModel
from sentei.litert.flatbuffer import read_bytes

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
# How long a weights file may take to read: a start, and bytes per second of a slow disk.
_PATIENCE, _SLOWEST_READ = 10.0, 10e6
_REFUSED = 3
_COMMAND = ("-m", "sentei.litert.keras_file")
_HDF5_MARK = b"\x89HDF\r\n\x1a\n"


@dataclass(frozen=True)
class Weight:
    """What there is to say about one saved array.

    Attributes:
        name: Where it belongs, such as `"body/conv/0"`.
        shape: Its shape.
        dtype: Its type.
        nbytes: Its bytes.
        zeros: Share of its elements that are zero.
        of_optimizer: Whether it is state of the optimizer.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    nbytes: int
    zeros: float
    of_optimizer: bool


def is_archive(content: bytes) -> bool:
    """Whether bytes begin like a zip archive, which a `.keras` file is."""
    return content.startswith(b"PK\x03\x04")


def is_weights(content: bytes) -> bool:
    """Whether bytes begin like an HDF5 file, which a `.weights.h5` file is."""
    return content.startswith(_HDF5_MARK)


def open_archive(content: bytes, name: str) -> tuple[dict[str, Any], bytes]:
    """Takes a `.keras` archive apart.

    Args:
        content: Its bytes.
        name: What to call it in errors.

    Returns:
        The configuration and the bytes of the weights file.

    Raises:
        CorruptFile: The archive is damaged, truncated or not one of Keras.
    """
    if not is_archive(content):
        raise CorruptFile(
            f"{name} is not a .keras archive: it does not begin like a zip file. "
            "Save the model with model.save('model.keras')."
        )
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            missing = {_WEIGHTS, _CONFIG} - set(archive.namelist())
            if missing:
                raise CorruptFile(
                    f"{name} is not a .keras archive: it lacks {', '.join(sorted(missing))}. "
                    "Save the model with model.save('model.keras')."
                )
            config, stored = json.loads(archive.read(_CONFIG)), archive.read(_WEIGHTS)
    except CorruptFile:
        raise
    except Exception as error:  # Python's zip reader lets a dozen kinds through on damaged input.
        raise _damaged(name, error) from None
    if not isinstance(config, dict):
        raise CorruptFile(f"{name} is damaged: its {_CONFIG} describes no model.")
    return config, stored


def weights(content: bytes, name: str) -> list[Weight]:
    """Describes every array of the weights file that `open_archive` gave.

    The archive's checksums vouch for the bytes; for a weights file of its own, see `weights_apart`.

    Args:
        content: The bytes of the HDF5 file.
        name: What to call it in errors.

    Returns:
        The arrays, in the order of the file.

    Raises:
        CorruptFile: The file is not one of Keras 3.
    """
    import h5py

    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            if "layer_names" in file.attrs or "model_weights" in file:
                raise CorruptFile(
                    f"{name} is in the old HDF5 format of Keras 2. Load it with Keras and save it "
                    "again with model.save('model.keras')."
                )
            return list(_walk(file))
    except CorruptFile:
        raise
    except Exception as error:  # HDF5's errors surface as whatever fits Python's protocols.
        raise _damaged(name, error) from None


def weights_apart(path: str | os.PathLike[str]) -> list[Weight]:
    """Describes every array of a `.weights.h5` file, reading it in a child process.

    An HDF5 file has no checksums, and damaged ones were seen to keep the C library busy for ever.

    Args:
        path: The file.

    Returns:
        The arrays, in the order of the file.

    Raises:
        CorruptFile: The file is damaged, truncated or not one of Keras 3.
    """
    name = os.fspath(path)
    seconds = _PATIENCE + os.path.getsize(path) / _SLOWEST_READ
    command = [sys.executable, *_COMMAND, name]
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, check=False
        )
    except subprocess.TimeoutExpired:
        raise _damaged(name, TimeoutError(f"HDF5 read it for {seconds:.0f} s in vain")) from None
    if child.returncode:
        words = (child.stderr.strip().splitlines() or [f"exit status {child.returncode}"])[-1]
        if child.returncode == _REFUSED:
            raise CorruptFile(words)
        raise _damaged(name, RuntimeError(words))
    found = json.loads(child.stdout)
    return [Weight(**{**item, "shape": tuple(item["shape"])}) for item in found]


def layers(config: dict[str, Any]) -> Counter[str]:
    """Counts the layers of a saved configuration by class, nested and wrapped ones too.

    Args:
        config: What `open_archive` gives.

    Returns:
        Layers by class; models that hold layers are not counted themselves.
    """
    found: Counter[str] = Counter()
    open_items: list[Any] = [config]
    while open_items:
        inner = open_items.pop().get("config")
        inner = inner if isinstance(inner, dict) else {}
        listed = inner.get("layers")
        wrapped = [value for key, value in inner.items() if key.endswith("layer")]
        for child in [*(listed if isinstance(listed, list) else []), *wrapped]:
            if isinstance(child, dict) and isinstance(child.get("class_name"), str):
                open_items.append(child)
                details = child.get("config")
                if not (isinstance(details, dict) and "layers" in details):
                    found[child["class_name"]] += 1
    return found


def load_model(path: str | os.PathLike[str]) -> Any:
    """Loads a `.keras` file as a model, for inference: losses, metrics and optimizer stay behind.

    Args:
        path: The file.

    Returns:
        The Keras model.

    Raises:
        CorruptFile: The file is missing, damaged or not a `.keras` archive.
        UnsupportedModel: Keras cannot build the model; the message holds its words.
    """
    name = os.fspath(path)
    config, _ = open_archive(read_bytes(path), name)
    import keras

    try:
        return keras.models.load_model(path, compile=False)
    except Exception as error:  # Keras and custom layers raise whatever they like here.
        words = " ".join(str(error).split()) or type(error).__name__
        raise UnsupportedModel(
            f"Keras cannot load the {config.get('class_name', 'model')} in {name}: {words}"
        ) from error


def _walk(group: Any, names: tuple[str, ...] = (), in_optimizer: bool = False) -> Iterator[Weight]:
    """The arrays below an HDF5 group, under the names that the user gave the layers."""
    import h5py

    for key, item in group.items():
        optimizer = in_optimizer or (not names and key == "optimizer")
        if isinstance(item, h5py.Dataset):
            data = np.asarray(item)
            if item.attrs.get("dtype") == "bfloat16":  # HDF5 has no such type: Keras writes bytes.
                data = data.view(ml_dtypes.bfloat16)
            zeros = (data.size - int(np.count_nonzero(data))) / data.size if data.size else 0.0
            path = "/".join((*names, key))
            yield Weight(path, data.shape, str(data.dtype), data.nbytes, zeros, optimizer)
        elif key in ("layers", "vars"):
            yield from _walk(item, names, optimizer)
        else:
            own = item["vars"].attrs.get("name", key) if "vars" in item else key
            yield from _walk(item, (*names, key if optimizer else str(own)), optimizer)


def _damaged(name: str, error: Exception) -> CorruptFile:
    words = " ".join(str(error).split()) or type(error).__name__
    return CorruptFile(f"{name} is damaged or truncated: {words}. Write or copy the file again.")


if __name__ == "__main__":
    try:
        described = weights(read_bytes(sys.argv[1]), sys.argv[1])
    except CorruptFile as error:
        sys.stderr.write(str(error))
        sys.exit(_REFUSED)
    sys.stdout.write(json.dumps([asdict(item) for item in described]))
