"""`sentei.unpack`, `verify`, and decoding while the bytes arrive."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sentei.codec import container, pieces
from sentei.codec.container import Header, Piece
from sentei.codec.content import mapped
from sentei.codec.packing import Progress
from sentei.core.errors import CorruptFile
from sentei.core.files import replaced

# Bytes of pieces that are decoded in lockstep: numpy wants many lanes at once.
_TOGETHER = 1 << 23


@dataclass(frozen=True)
class Unpacked:
    """What `unpack` or `verify` did; prints as a line.

    Attributes:
        source: The packed file.
        target: The file that was written; None if the packed one was only checked.
        packed_size: Bytes of the packed file.
        size: Bytes of the original.
        sha256: Its digest, in hexadecimal.
        seconds: How long it took.
    """

    source: str
    target: str | None
    packed_size: int
    size: int
    sha256: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """The same as plain data."""
        return asdict(self)

    def __str__(self) -> str:
        what = f"{self.source} is sound" if self.target is None else f"{self.target}"
        return (
            f"{what}: {self.size:,} bytes from {self.packed_size:,}, as they were packed "
            f"(SHA-256 {self.sha256[:16]}…), in {self.seconds:.1f} s"
        )


def unpack(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    progress: Progress | None = None,
) -> Unpacked:
    """Writes the file that was packed, byte by byte the same.

    Args:
        source: The packed file.
        target: The file to write; replaced if it exists, not touched if the source is damaged.
        progress: Called now and then with the bytes done and the bytes in all.

    Returns:
        What was done.

    Raises:
        CorruptFile: The source is missing, damaged, or of a later version of the format.
        SenteiError: The target cannot be written.
    """
    started = time.perf_counter()
    with (
        mapped(source) as packed,
        replaced(Path(target)) as temporary,
        temporary.open("wb") as file,
    ):
        try:
            header = container.read_header(packed, len(packed))
            for chunk in checked(packed, header, progress):
                file.write(chunk)
        except CorruptFile as error:
            raise container.named(error, os.fspath(source)) from None
        size = len(packed)
    return Unpacked(
        os.fspath(source),
        os.fspath(target),
        size,
        header.size,
        header.digest.hex(),
        time.perf_counter() - started,
    )


def verify(source: str | os.PathLike[str], *, progress: Progress | None = None) -> Unpacked:
    """Checks all of a packed file, writing nothing.

    Args:
        source: The packed file.
        progress: Called now and then with the bytes done and the bytes in all.

    Returns:
        What was found; its target is None.

    Raises:
        CorruptFile: The source is missing, damaged, or of a later version of the format.
    """
    started = time.perf_counter()
    with mapped(source) as packed:
        try:
            header = container.read_header(packed, len(packed))
            for _ in checked(packed, header, progress):
                pass
        except CorruptFile as error:
            raise container.named(error, os.fspath(source)) from None
        size = len(packed)
    return Unpacked(
        os.fspath(source),
        None,
        size,
        header.size,
        header.digest.hex(),
        time.perf_counter() - started,
    )


def checked(
    packed: memoryview, header: Header, progress: Progress | None = None
) -> Iterator[bytes]:
    """The original's bytes in order, in chunks.

    Args:
        packed: The whole packed file.
        header: Its header.
        progress: Called after each chunk with the bytes done and the bytes in all.

    Yields:
        Chunks; only when the last one has come it is sure that they are right.

    Raises:
        CorruptFile: Something does not match.
    """
    digest, done = hashlib.sha256(), 0
    for chunk in _chunks(packed, header):
        digest.update(chunk)
        done += len(chunk)
        yield chunk
        if progress is not None:
            progress(done, header.size)
    if digest.digest() != header.digest or done != header.size:
        raise CorruptFile("its contents do not match their SHA-256")


def payload(packed: memoryview, piece: Piece) -> bytes | memoryview:
    """A piece's payload, held against its checksum.

    Args:
        packed: The whole packed file.
        piece: The piece.

    Raises:
        CorruptFile: They do not match.
    """
    begin = piece.coded_offset
    return container.sound(packed[begin : begin + piece.coded_size], piece)


def skeleton(packed: memoryview, header: Header) -> bytes:
    """The bytes between the pieces.

    Args:
        packed: The whole packed file, or its beginning.
        header: Its header.

    Raises:
        CorruptFile: They are damaged.
    """
    coded = payload(packed, header.skeleton)
    if not header.skeleton.size:
        if any(coded):
            raise CorruptFile("bytes are left over")
        return b""
    return pieces.decode([pieces.plan(coded, header.skeleton.size)])[0]


def _chunks(packed: memoryview, header: Header) -> Iterator[bytes]:
    between, used = skeleton(packed, header), 0
    gaps = header.gaps()
    for group in _together(header.pieces):
        plans = [pieces.plan(payload(packed, piece), piece.size) for piece in group]
        for data in pieces.decode(plans):
            begin, end = next(gaps)
            yield between[used : used + end - begin]
            used += end - begin
            yield data
    yield between[used:]


def _together(all_pieces: tuple[Piece, ...]) -> Iterator[list[Piece]]:
    group: list[Piece] = []
    size = 0
    for piece in all_pieces:
        group.append(piece)
        size += piece.size
        if size >= _TOGETHER:
            yield group
            group, size = [], 0
    if group:
        yield group
