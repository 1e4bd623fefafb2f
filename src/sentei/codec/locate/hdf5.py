"""Tensors of an HDF5 file that lie in one stretch, which is how Keras writes them.

HDF5's library was seen to loop for ever on damaged files, so a child process reads them, with its
patience measured; what does not answer has no tensors.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys

from sentei.codec.locate.tensor import Tensor

_MARK = b"\x89HDF\r\n\x1a\n"
# -P: nothing is imported from the folder that the program happens to be in.
_COMMAND = ("-P", "-m", "sentei.codec.locate.hdf5")
_PATIENCE, _SLOWEST_READ = 10.0, 20e6


def begins(content: memoryview) -> bool:
    """Whether bytes begin like such a file."""
    return bytes(content[: len(_MARK)]) == _MARK


def find(content: memoryview) -> list[Tensor]:
    """The contiguous datasets.

    Args:
        content: The bytes of the file.
    """
    seconds = _PATIENCE + len(content) / _SLOWEST_READ
    try:
        child = subprocess.run(
            [sys.executable, *_COMMAND],
            input=content,
            capture_output=True,
            timeout=seconds,
            check=True,
        )
        return [
            Tensor(name, dtype, tuple(shape), offset, size)
            for name, dtype, shape, offset, size in json.loads(child.stdout)
        ]
    except (subprocess.SubprocessError, OSError, ValueError, TypeError):
        return []


def _datasets(content: bytes) -> list[tuple[str, str, list[int], int, int]]:
    import h5py

    found = []

    def visit(name: str, item: object) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        offset = item.id.get_offset()  # None unless it is in one stretch
        if offset is None or item.dtype.byteorder == ">":
            return
        dtype = "bfloat16" if item.attrs.get("dtype") == "bfloat16" else item.dtype.name
        shape = [int(size) for size in item.shape]
        found.append((name, dtype, shape, int(offset), int(item.nbytes)))

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(_datasets(sys.stdin.buffer.read())))
