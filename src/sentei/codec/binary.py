"""An adaptive binary arithmetic coder, for side information and as the base of `effort="max"`.

Carry-less range coding of one bit at a time (Mahoney 2005, "Adaptive weighing of context models for
lossless data compression", section 3.1), with 16-bit probabilities. All arithmetic is on integers,
so every platform reads the same bits.
"""

from __future__ import annotations

import numpy as np

# 65536 / (1 + exp(-x)) for x = -8, -7.5 ... 8: the only constants of the format, to be copied.
KNOTS = (
    22,
    36,
    60,
    98,
    162,
    267,
    439,
    720,
    1179,
    1921,
    3108,
    4971,
    7812,
    11955,
    17625,
    24743,
    32768,
    40793,
    47911,
    53581,
    57724,
    60565,
    62428,
    63615,
    64357,
    64816,
    65097,
    65269,
    65374,
    65438,
    65476,
    65500,
    65514,
)
_SLOWEST = 5  # the smallest step of an adaptive probability is 2**-5 of the way


def _squash() -> np.ndarray:
    place = np.arange(4096)
    left, weight = place >> 7, place & 127
    knots = np.array(KNOTS)
    return (knots[left] * (128 - weight) + knots[left + 1] * weight + 64) >> 7


# SQUASH[d + 2048] is the 16-bit probability whose log-odds are d / 256.
SQUASH = _squash()
# STRETCH[p >> 4] + 2048 is the first index whose probability is no smaller.
STRETCH = np.minimum(np.searchsorted(SQUASH, np.arange(4096) * 16 + 8), 4095) - 2048


class BinaryEncoder:
    """Writes bits, each with the probability that both sides expect it with."""

    def __init__(self) -> None:
        self._low, self._high, self._bytes = 0, 0xFFFFFFFF, bytearray()

    def encode(self, bit: int, one: int) -> None:
        """Writes a bit.

        Args:
            bit: 0 or 1.
            one: 65536 times the probability of 1; from 1 to 65535.
        """
        middle = self._low + ((self._high - self._low) * one >> 16)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while (self._low ^ self._high) >> 24 == 0:
            self._bytes.append(self._high >> 24)
            self._low = self._low << 8 & 0xFFFFFFFF
            self._high = self._high << 8 & 0xFFFFFFFF | 255

    def finish(self) -> bytes:
        """All bytes, the last number as short as it can be: a reader goes on with zeros."""
        for size in range(5):
            unit = 1 << 32 - 8 * size
            value = -(-self._low // unit) * unit
            if value <= self._high:
                self._bytes += value.to_bytes(4, "big")[:size]
                break
        return bytes(self._bytes)


class BinaryDecoder:
    """Reads the bits that a `BinaryEncoder` wrote."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._low, self._high, self._data, self._place = 0, 0xFFFFFFFF, bytes(data), 4
        self._value = int.from_bytes(self._data[:4].ljust(4, b"\0"), "big")

    def decode(self, one: int) -> int:
        """Reads a bit.

        Args:
            one: 65536 times the probability of 1.

        Returns:
            0 or 1; anything at all from damaged bytes, but it never fails.
        """
        middle = self._low + ((self._high - self._low) * one >> 16)
        bit = int(self._value <= middle)
        if bit:
            self._high = middle
        else:
            self._low = middle + 1
        while (self._low ^ self._high) >> 24 == 0:
            self._low = self._low << 8 & 0xFFFFFFFF
            self._high = self._high << 8 & 0xFFFFFFFF | 255
            byte = self._data[self._place] if self._place < len(self._data) else 0
            self._value = self._value << 8 & 0xFFFFFFFF | byte
            self._place += 1
        return bit


class _Trees:
    """Adaptive probabilities of the bits of numbers, one tree for each kind of number."""

    def __init__(self) -> None:
        self._models: dict[tuple[int, int, int], tuple[int, int]] = {}

    def probability(self, key: tuple[int, int, int]) -> int:
        return self._models.get(key, (32768, 1))[0]

    def learn(self, key: tuple[int, int, int], bit: int) -> None:
        one, shift = self._models.get(key, (32768, 1))
        one += (65536 - one >> shift) if bit else -(one >> shift)
        self._models[key] = (min(max(one, 32), 65504), min(shift + 1, _SLOWEST))


class NumberEncoder:
    """Writes numbers of a few bits that tend to repeat."""

    def __init__(self) -> None:
        self._coder, self._trees = BinaryEncoder(), _Trees()

    def write(self, value: int, bits: int, kind: int, context: int = 0) -> None:
        """Writes a number, highest bit first, each bit expected from those before it.

        Args:
            value: The number, below `2**bits`.
            bits: Its size.
            kind: Which tree it is expected from.
            context: Which of that kind's trees.
        """
        node = 1
        for place in reversed(range(bits)):
            bit, key = value >> place & 1, (kind, context, node)
            self._coder.encode(bit, self._trees.probability(key))
            self._trees.learn(key, bit)
            node = 2 * node + bit

    def finish(self) -> bytes:
        """All bytes."""
        return self._coder.finish()


class NumberDecoder:
    """Reads the numbers that a `NumberEncoder` wrote."""

    def __init__(self, data: bytes | memoryview) -> None:
        self._coder, self._trees = BinaryDecoder(data), _Trees()

    def read(self, bits: int, kind: int, context: int = 0) -> int:
        """Reads a number.

        Args:
            bits: Its size.
            kind: Which tree it is expected from.
            context: Which of that kind's trees.

        Returns:
            The number, below `2**bits`.
        """
        node = 1
        for _ in range(bits):
            key = (kind, context, node)
            bit = self._coder.decode(self._trees.probability(key))
            self._trees.learn(key, bit)
            node = 2 * node + bit
        return node - (1 << bits)
