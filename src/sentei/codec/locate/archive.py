"""Tensors of a `.keras` archive: a zip file whose members Keras stores without compression."""

from __future__ import annotations

import io
import struct
import zipfile
from dataclasses import replace

from sentei.codec.locate import hdf5
from sentei.codec.locate.tensor import Tensor

_MARK = b"PK\x03\x04"
_LOCAL_HEADER = 30


def begins(content: memoryview) -> bool:
    """Whether bytes begin like such a file."""
    return bytes(content[: len(_MARK)]) == _MARK


def find(content: memoryview) -> list[Tensor]:
    """The tensors of the weights files in it that are stored as they are.

    Args:
        content: The bytes of the file.
    """
    result: list[Tensor] = []
    try:
        with zipfile.ZipFile(_Reader(content)) as archive:
            members = archive.infolist()
        for member in members:
            if member.compress_type == zipfile.ZIP_STORED and member.filename.endswith(".h5"):
                begin = _begin(content, member.header_offset)
                inner = content[begin : begin + member.file_size]
                found = hdf5.find(inner) if hdf5.begins(inner) else []
                result += [replace(item, offset=item.offset + begin) for item in found]
    except Exception:  # Python's zip reader lets a dozen kinds through on damaged input.
        return []
    return result


def _begin(content: memoryview, header: int) -> int:
    name, extra = struct.unpack_from("<HH", content, header + 26)
    return int(header + _LOCAL_HEADER + name + extra)


class _Reader(io.RawIOBase):
    """Bytes as a file, without a copy."""

    def __init__(self, content: memoryview) -> None:
        self._content, self._place = content, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._place = max(0, offset + (0, self._place, len(self._content))[whence])
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        end = None if size is None or size < 0 else self._place + size
        found = bytes(self._content[self._place : end])
        self._place += len(found)
        return found
