"""Reading and writing the small numbers of the format; what is read is checked first."""

from __future__ import annotations

from sentei.core.errors import CorruptFile

_LONGEST_VARINT = 9


def varint(value: int) -> bytes:
    """A number from 0 in groups of seven bits, lowest first, the top bit set on all but the last.

    Args:
        value: The number, below 2**63.

    Returns:
        Its bytes.
    """
    result = bytearray()
    while value > 127:
        result.append(value & 127 | 128)
        value >>= 7
    result.append(value)
    return bytes(result)


class Cursor:
    """A place in some bytes that moves on as they are read, and refuses to leave them.

    Attributes:
        data: The bytes.
        position: Where the next read begins.
    """

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = memoryview(data)
        self.position = 0

    @property
    def left(self) -> int:
        """Bytes that are not yet read."""
        return len(self.data) - self.position

    def take(self, count: int) -> memoryview:
        """The next bytes.

        Args:
            count: How many.

        Raises:
            CorruptFile: There are fewer.
        """
        if not 0 <= count <= self.left:
            raise CorruptFile(f"it ends {count - self.left} bytes too early")
        self.position += count
        return self.data[self.position - count : self.position]

    def byte(self) -> int:
        """The next byte.

        Raises:
            CorruptFile: There is none.
        """
        return self.take(1)[0]

    def fixed(self, size: int) -> int:
        """The next bytes as one number, lowest byte first.

        Args:
            size: How many bytes.

        Raises:
            CorruptFile: There are fewer.
        """
        return int.from_bytes(self.take(size), "little")

    def varint(self, limit: int = 2**63 - 1) -> int:
        """The next number written by `varint`.

        Args:
            limit: The largest that makes sense here.

        Raises:
            CorruptFile: It does not end, or is larger.
        """
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self.byte()
            value |= (byte & 127) << 7 * place
            if byte < 128:
                if value > limit:
                    raise CorruptFile(f"a number is {value}, above its limit {limit}")
                return value
        raise CorruptFile("a number does not end")

    def finish(self) -> None:
        """Expects nothing more but zeros, which a writer may add to keep the expansion bounded.

        Raises:
            CorruptFile: There is something else.
        """
        if any(self.data[self.position :]):
            raise CorruptFile("bytes are left over")
