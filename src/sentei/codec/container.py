"""The container: a mark, a header with a checksum of its own, then the skeleton and the pieces.

The original file is cut into *pieces* (tensors, or parts of large ones) and what lies between them;
all that lies between is one *skeleton*, coded first, so that a reader can give the file out in its
order while it arrives. `docs/format.md` is the specification.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sentei.codec.cursor import Cursor, varint
from sentei.core.errors import CorruptFile, SenteiError

# As PNG's: the first byte is no text, then what a transfer in text mode would change.
MAGIC = b"\x93STZ\r\n\x1a\n"
VERSION = 1
FEATURES = 1  # all that this reader knows: bit 0, the deep coder
_LARGEST_HEADER = 1 << 28
DIGEST = 32
CHECK = 4
# A coded part stands for at most so many times its bytes, and some: no small file asks for much.
_EXPANSION, _FREE = 4096, 1 << 16


@dataclass(frozen=True)
class Piece:
    """A part of the original file that is coded by itself.

    Attributes:
        offset: Where it begins in the original file.
        size: Its bytes there.
        coded_offset: Where its payload begins in the packed file.
        coded_size: Bytes of the payload.
        check: CRC-32 of the payload.
    """

    offset: int
    size: int
    coded_offset: int
    coded_size: int
    check: int


@dataclass(frozen=True)
class Header:
    """What the header of a packed file says.

    Attributes:
        version: Of the format.
        size: Bytes of the original file.
        digest: SHA-256 of the original file.
        skeleton: The bytes between the pieces, as a piece at offset 0.
        pieces: The pieces, in the order of the file.
        end: Bytes of the packed file.
    """

    version: int
    size: int
    digest: bytes
    skeleton: Piece
    pieces: tuple[Piece, ...]
    end: int

    def gaps(self) -> Iterator[tuple[int, int]]:
        """Begin and end of each stretch between pieces, in the original file."""
        place = 0
        for piece in self.pieces:
            yield place, piece.offset
            place = piece.offset + piece.size
        yield place, self.size


def padded(payload: bytes, size: int) -> bytes:
    """A payload, with zeros behind it where it would expand too much.

    Args:
        payload: The coded bytes.
        size: How many bytes they stand for.
    """
    return payload.ljust(-(-max(size - _FREE, 0) // _EXPANSION), b"\0")


def check(payload: bytes | memoryview) -> int:
    """The checksum of a payload, CRC-32."""
    return zlib.crc32(payload)


def write_header(
    size: int,
    digest: bytes,
    skeleton: bytes,
    pieces: Sequence[tuple[int, int, bytes]],
    features: int = 0,
) -> bytes:
    """Mark and header.

    Args:
        size: Bytes of the original file.
        digest: Its SHA-256.
        skeleton: The coded skeleton.
        pieces: Offset, size and payload of each piece, in order.
        features: Bits that say what a reader must know.
    """
    body = varint(size) + digest
    body += varint(len(skeleton)) + check(skeleton).to_bytes(CHECK, "little")
    body += varint(len(pieces))
    place = 0
    for offset, length, payload in pieces:
        body += varint(offset - place) + varint(length) + varint(len(payload))
        body += check(payload).to_bytes(CHECK, "little")
        place = offset + length
    head = MAGIC + varint(VERSION) + varint(features) + varint(len(body)) + body
    return head + check(head).to_bytes(CHECK, "little")


def header_size(begin: bytes | memoryview) -> int | None:
    """How many bytes mark and header take.

    Args:
        begin: The first bytes of a packed file, however few.

    Returns:
        Their number, or None if that needs more bytes.

    Raises:
        CorruptFile: It is no packed file.
        SenteiError: It needs a newer reader.
    """
    known = bytes(begin[: len(MAGIC)])
    if known != MAGIC[: len(known)]:
        raise CorruptFile(_strange(known))
    if len(known) < len(MAGIC):
        return None
    cursor = Cursor(begin)
    cursor.take(len(MAGIC))
    try:
        version, features = cursor.varint(), cursor.varint()
        length = cursor.varint()
    except CorruptFile:
        if cursor.left == 0:
            return None
        raise
    if version != VERSION or features & ~FEATURES:
        # Only a sound header may send its reader for another version of sentei.
        raise _Newer(version, features)
    if length > _LARGEST_HEADER:
        raise CorruptFile(f"its header claims {length} bytes")
    return cursor.position + length + CHECK


class _Newer(CorruptFile):
    """The file may be of a later version of the format, or damaged."""

    def __init__(self, version: int, features: int) -> None:
        what = f"version {version}" if version != VERSION else f"features {features:#x}"
        super().__init__(
            f"it says that it is of {what} of the format, which this sentei cannot read "
            f"(it reads version {VERSION}); if it is not damaged, a later sentei can"
        )


def _strange(begin: bytes) -> str:
    if begin[:4] == MAGIC[:4]:
        return "its mark was changed as by a transfer in text mode; transfer it in binary mode"
    return "it does not begin with the mark of a packed file"


def read_header(begin: bytes | memoryview, end: int | None = None) -> Header:
    """Parses mark and header.

    Args:
        begin: At least `header_size` first bytes.
        end: Bytes of the whole packed file, if known: the header must agree.

    Raises:
        CorruptFile: It is damaged or no packed file.
    """
    length = header_size(begin)
    if length is None or length > len(begin):
        raise CorruptFile("it ends within its header")
    head = bytes(begin[:length])
    if check(head[:-CHECK]).to_bytes(CHECK, "little") != head[-CHECK:]:
        raise CorruptFile("its header does not match its checksum")
    cursor = Cursor(head[:-CHECK])
    cursor.take(len(MAGIC))
    version, _, _ = cursor.varint(), cursor.varint(), cursor.varint()
    size = cursor.varint()
    digest = bytes(cursor.take(DIGEST))
    skeleton_size, skeleton_check = cursor.varint(), cursor.fixed(CHECK)
    # Each piece takes at least 7 bytes here, so the count cannot ask for more than was sent.
    count = cursor.varint(cursor.left // (3 + CHECK))
    place, coded, found = 0, length + skeleton_size, []
    for _ in range(count):
        offset = place + cursor.varint()
        piece = Piece(offset, cursor.varint(), coded, cursor.varint(), cursor.fixed(CHECK))
        place, coded = offset + piece.size, coded + piece.coded_size
        found.append(piece)
    if cursor.left or place > size:
        raise CorruptFile("its header does not add up")
    between = size - sum(piece.size for piece in found)
    skeleton = Piece(0, between, length, skeleton_size, skeleton_check)
    for piece in (skeleton, *found):
        if piece.size > piece.coded_size * _EXPANSION + _FREE:
            raise CorruptFile(f"its header claims {piece.size} bytes for {piece.coded_size}")
    if end is not None and end != coded:
        raise CorruptFile(f"it has {end} bytes where its header tells of {coded}")
    return Header(version, size, digest, skeleton, tuple(found), coded)


def sound(payload: bytes | memoryview, piece: Piece) -> bytes | memoryview:
    """A payload that matches its checksum.

    Args:
        payload: The coded bytes.
        piece: What the header says of them.

    Raises:
        CorruptFile: They do not match.
    """
    if len(payload) != piece.coded_size:
        raise CorruptFile(f"it ends within the part that begins at byte {piece.coded_offset}")
    if check(payload) != piece.check:
        raise CorruptFile(f"the part at byte {piece.coded_offset} does not match its checksum")
    return payload


def named(error: CorruptFile, name: str) -> SenteiError:
    """The error with the name of the file, and what to do."""
    return CorruptFile(f"{name} is not a sound packed file: {error}. Fetch or pack the file again.")
