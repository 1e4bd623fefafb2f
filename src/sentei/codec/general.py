"""What any bytes can be coded with: as they are, deflate (RFC 1951) or LZMA."""

from __future__ import annotations

import lzma
import zlib
from typing import Any

from sentei.codec.cursor import Cursor
from sentei.core.errors import CorruptFile

STORED, DEFLATE, LZMA = 0, 1, 2
# liblzma takes about eleven times the dictionary to write.
_LEAST_DICTIONARY, _MOST_DICTIONARY = 1 << 12, 1 << 24
# Literal context, literal position and position bits: text and code, then tables of 4-byte numbers.
_SETTINGS = ((3, 0, 2), (0, 2, 2), (1, 2, 2), (0, 0, 0))
_MOST_FOR_ALL = 1 << 20


def _filters(size: int, settings: tuple[int, int, int]) -> list[dict[str, Any]]:
    dictionary = min(max(size, _LEAST_DICTIONARY), _MOST_DICTIONARY)
    context, position, bits = settings
    return [
        {
            "id": lzma.FILTER_LZMA1,
            "dict_size": dictionary,
            "lc": context,
            "lp": position,
            "pb": bits,
            "preset": 9 | lzma.PRESET_EXTREME if size <= _MOST_FOR_ALL else 6,
        }
    ]


def encode(data: bytes | memoryview, thorough: bool = True) -> bytes:
    """The method's byte and the body of the shortest coding.

    Args:
        data: Some bytes.
        thorough: Whether to try LZMA, which codes a megabyte in a second.
    """
    best = bytes([STORED]) + bytes(data)
    deflated = zlib.compressobj(9 if thorough else 6, zlib.DEFLATED, -15)
    body = deflated.compress(data) + deflated.flush()
    if len(body) + 1 < len(best):
        best = bytes([DEFLATE]) + body
    if thorough:
        for settings in _SETTINGS if len(data) <= _MOST_FOR_ALL else _SETTINGS[:1]:
            context, position, bits = settings
            properties = (bits * 5 + position) * 9 + context
            body = lzma.compress(data, lzma.FORMAT_RAW, filters=_filters(len(data), settings))
            if len(body) + 2 < len(best):
                best = bytes([LZMA, properties]) + body
    return best


def decode(method: int, cursor: Cursor, size: int) -> bytes:
    """What `encode` was given.

    Args:
        method: Which coding it is.
        cursor: Its body, which must reach to the end but for zeros.
        size: How many bytes it stands for.

    Raises:
        CorruptFile: The body is damaged.
    """
    if method == STORED:
        data = bytes(cursor.take(size))
        cursor.finish()
        return data
    if method not in (DEFLATE, LZMA):
        raise CorruptFile(f"it is coded with the unknown method {method}")
    # Bounded: one byte more than expected shows that there are too many.
    try:
        if method == DEFLATE:
            inflater = zlib.decompressobj(-15)
            data = inflater.decompress(cursor.take(cursor.left), size + 1)
            ended, rest = inflater.eof, inflater.unused_data
        else:
            reader = lzma.LZMADecompressor(
                lzma.FORMAT_RAW, filters=_filters(size, _settings(cursor.byte()))
            )
            data = reader.decompress(cursor.take(cursor.left), size + 1)
            ended, rest = reader.eof, reader.unused_data
    except (zlib.error, lzma.LZMAError) as error:
        raise CorruptFile(f"its bytes cannot be expanded ({error})") from None
    if len(data) != size or not ended or any(rest):
        raise CorruptFile(f"its bytes do not expand to the {size} they stand for")
    return data


def _settings(properties: int) -> tuple[int, int, int]:
    context, rest = properties % 9, properties // 9
    position, bits = rest % 5, rest // 5
    if context + position > 4 or bits > 4:
        raise CorruptFile(f"LZMA has the impossible properties {properties}")
    return context, position, bits
