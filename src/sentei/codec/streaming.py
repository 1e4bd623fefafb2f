"""Unpacking while the packed bytes arrive."""

from __future__ import annotations

import hashlib

from sentei.codec import container, pieces
from sentei.codec.container import Header, Piece
from sentei.core.errors import CorruptFile

_NAME = "the download"


class Decoder:
    """Takes a packed file in chunks of any size and gives out the original's bytes in their order.

    Invariants: what was given out so far is a beginning of the original; no more packed bytes are
    held than those of the part that is not complete yet.

    Only `finish` tells that all was right: until then, keep what you got apart.
    """

    def __init__(self) -> None:
        self._waiting = bytearray()
        self._header: Header | None = None
        self._skeleton: bytes | None = None
        self._next, self._used, self._done = 0, 0, 0
        self._digest = hashlib.sha256()

    def feed(self, chunk: bytes) -> bytes:
        """Takes the next packed bytes.

        Args:
            chunk: Some bytes, as they came.

        Returns:
            The bytes of the original that can be told now, perhaps none.

        Raises:
            CorruptFile: The packed bytes are damaged.
        """
        self._waiting += chunk
        try:
            result = b"".join(self._ready())
        except CorruptFile as error:
            raise container.named(error, _NAME) from None
        self._digest.update(result)
        self._done += len(result)
        return result

    def finish(self) -> None:
        """Ends the stream.

        Raises:
            CorruptFile: It is not complete, goes on behind its end, or is not what was packed.
        """
        header = self._header
        if header is None or self._done != header.size or self._skeleton is None:
            error = CorruptFile("it ends too early")
        elif self._waiting:
            error = CorruptFile(f"{len(self._waiting)} bytes come behind its end")
        elif self._digest.digest() != header.digest:
            error = CorruptFile("its contents do not match their SHA-256")
        else:
            return
        raise container.named(error, _NAME)

    def _ready(self) -> list[bytes]:
        result: list[bytes] = []
        if self._header is None:
            length = container.header_size(memoryview(self._waiting))
            if length is None or len(self._waiting) < length:
                return result
            self._header = container.read_header(self._take(length))
        if self._skeleton is None:
            payload = self._part(self._header.skeleton)
            if payload is None:
                return result
            size = self._header.skeleton.size
            self._skeleton = pieces.decode([pieces.plan(payload, size)])[0] if size else b""
            self._place = 0
            self._gap(result)
        while self._next < len(self._header.pieces):
            piece = self._header.pieces[self._next]
            payload = self._part(piece)
            if payload is None:
                break
            result += pieces.decode([pieces.plan(payload, piece.size)])
            self._next, self._place = self._next + 1, piece.offset + piece.size
            self._gap(result)
        return result

    def _gap(self, result: list[bytes]) -> None:
        """Gives out the skeleton's bytes up to the next piece."""
        header, skeleton = self._header, self._skeleton
        if header is None or skeleton is None:
            return
        more = self._next < len(header.pieces)
        end = header.pieces[self._next].offset if more else header.size
        size = end - self._place
        result.append(skeleton[self._used : self._used + size])
        self._used += size

    def _part(self, piece: Piece) -> bytes | None:
        if len(self._waiting) < piece.coded_size:
            return None
        payload = self._take(piece.coded_size)
        container.sound(payload, piece)
        return payload

    def _take(self, count: int) -> bytes:
        result = bytes(self._waiting[:count])
        del self._waiting[:count]
        return result
