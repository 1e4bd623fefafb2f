"""What a static model of a tensor's symbols consists of, and the frequency tables it stands for.

A symbol is a place in a short list of values; one of them, the *centre*, stands for zero, those
before it are negative, those behind it positive. The table of a context is built from few bytes:

- how the magnitudes are distributed is shared by a group of channels: listed (one byte each) or a
  curve of two bytes, `w[k+1] = w[k] r[k], r[k+1] = r[k] q`, which contains the discretised Laplace
  (q = 1) and Gaussian (q < 1) distributions;
- how often the centre occurs is one byte for each context, and so is the share of negatives.

All arithmetic is on integers below 2**53, so that any language builds the same tables.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sentei.codec.binary import SQUASH, NumberDecoder, NumberEncoder
from sentei.core.errors import CorruptFile

CENTRE, NEGATIVE, POSITIVE = 0, 1, 2
LISTED_BITS, CURVE_BITS, SHARE_BITS = 7, 8, 8
MOST_GROUPS = 16
MOST_DISTANCE = 1 << 24
# Signs: even everywhere, one share for a group, one for each context.
EVEN, OF_GROUP, OF_CONTEXT = 0, 1, 2
_IDS, _LISTED, _RATIO, _BEND, _ZEROS, _SIGNS = range(6)
_HALF = 128


@dataclass(frozen=True)
class Alphabet:
    """Which symbols there are.

    Attributes:
        size: How many, from 1 to 256.
        centre: Which of them stands for zero.
    """

    size: int
    centre: int

    def classes(self) -> np.ndarray:
        """For each symbol whether it is centre, negative or positive; uint8."""
        place = np.arange(self.size)
        return np.where(
            place == self.centre, CENTRE, np.where(place < self.centre, NEGATIVE, POSITIVE)
        ).astype(np.uint8)


@dataclass(frozen=True)
class Groups:
    """Which group a position belongs to: `ids[position // stride % len(ids)]`.

    Attributes:
        stride: Positions from one index of the axis to the next.
        ids: A group for each index of the axis; uint8.
    """

    stride: int
    ids: np.ndarray

    @property
    def count(self) -> int:
        """How many groups there are."""
        return int(self.ids.max()) + 1

    def of(self, count: int) -> np.ndarray:
        """The groups of the first positions.

        Args:
            count: How many positions.
        """
        return self.ids[np.arange(count) // self.stride % len(self.ids)]


@dataclass(frozen=True)
class Model:
    """All that a reader must know before the first symbol.

    Attributes:
        alphabet: The symbols.
        precision: Binary logarithm of the sum of a table, 12 to 14.
        distances: How far back the two neighbours are, 0 for none.
        groups: The groups, or None for a single one.
        shapes: For each group the codes of its distribution of magnitudes: of every symbol but the
            centre, or ratio and bend of the curve.
        curved: Whether these are curves.
        zeros: Codes of the share of the centre; shape (groups, contexts).
        signs: Codes of the share of negatives among the others; the same shape.
        sign_mode: How the signs are stored.
    """

    alphabet: Alphabet
    precision: int
    distances: tuple[int, int]
    groups: Groups | None
    shapes: np.ndarray
    curved: bool
    zeros: np.ndarray
    signs: np.ndarray
    sign_mode: int

    @property
    def contexts(self) -> int:
        """How many contexts a group has."""
        return contexts(self.distances)

    def tables(self) -> np.ndarray:
        """The frequencies: int64 of shape (groups * contexts, symbols), each row's sum a power."""
        bases = curves(self.alphabet, self.shapes) if self.curved else self._listed()
        return tables(self.alphabet, bases, self.zeros, self.signs, self.precision)

    def _listed(self) -> np.ndarray:
        bases = np.zeros((len(self.shapes), self.alphabet.size), np.int64)
        bases[:, np.arange(self.alphabet.size) != self.alphabet.centre] = listed(self.shapes)
        return bases


def contexts(distances: tuple[int, int]) -> int:
    """How many contexts two distances make: three classes for each that is not 0."""
    return 3 ** sum(distance > 0 for distance in distances)


def listed(codes: np.ndarray) -> np.ndarray:
    """Weights of codes: 0 for 0, else eight steps to each doubling, from 8 up."""
    step = np.maximum(codes.astype(np.int64) - 1, 0)
    return np.where(codes == 0, 0, (8 + step % 8) << step // 8)


def curves(alphabet: Alphabet, codes: np.ndarray) -> np.ndarray:
    """Weights of the curves of some groups.

    Args:
        alphabet: The symbols.
        codes: Ratio and bend of each; shape (groups, 2).

    Returns:
        int64 of shape (groups, symbols), 0 at the centre.
    """
    far = max(alphabet.centre, alphabet.size - 1 - alphabet.centre)
    ratio = SQUASH[codes[:, 0].astype(np.int64) * 16].astype(np.int64)
    bent = codes[:, 1].astype(np.int64) - _HALF
    bend = 65536 + bent * np.abs(bent) * 2
    weight = np.full(len(codes), 1 << 30, np.int64)
    by_magnitude = np.zeros((len(codes), far + 1), np.int64)
    for magnitude in range(1, far + 1):
        by_magnitude[:, magnitude] = np.maximum(weight >> 15, 1)
        weight = np.minimum(weight * ratio >> 16, 1 << 30)
        ratio = np.minimum(ratio * bend >> 16, 1 << 17)
    return by_magnitude[:, np.abs(np.arange(alphabet.size) - alphabet.centre)]


def tables(
    alphabet: Alphabet, bases: np.ndarray, zeros: np.ndarray, signs: np.ndarray, precision: int
) -> np.ndarray:
    """Frequency tables from shared weights and the shares of each context.

    Args:
        alphabet: The symbols.
        bases: Weights of the symbols, 0 at the centre; shape (groups, symbols).
        zeros: Codes of the share of the centre; shape (groups, contexts).
        signs: Codes of the share of negatives; the same shape.
        precision: Binary logarithm of the sum of a table.

    Returns:
        int64 of shape (groups * contexts, symbols).
    """
    zero = SQUASH[zeros.astype(np.int64) * 16].astype(np.int64)
    negative = SQUASH[signs.astype(np.int64) * 16].astype(np.int64)
    below, above = bases[:, : alphabet.centre], bases[:, alphabet.centre + 1 :]
    total_below, total_above = below.sum(1)[:, None], above.sum(1)[:, None]
    negative = np.where(total_above == 0, 65536, negative)
    negative = np.where(total_below == 0, 0, negative)
    # 15-bit weights times 32-bit shares stay below 2**47.
    rest = 65536 - zero
    share_below = (rest * negative)[:, :, None] * below[:, None] // _positive(total_below)
    share_above = (rest * (65536 - negative))[:, :, None] * above[:, None] // _positive(total_above)
    centre = (zero * 65536)[:, :, None]
    weights = np.concatenate([share_below, centre, share_above], 2)
    # What has a weight keeps one, however small its share.
    present = np.concatenate([below > 0, np.ones((len(bases), 1), bool), above > 0], 1)[:, None]
    weights = np.where(present, np.maximum(weights, 1), 0).reshape(-1, alphabet.size)
    return normalised(weights, precision)


def _positive(total: np.ndarray) -> np.ndarray:
    return np.maximum(total, 1)[:, :, None]


def normalised(weights: np.ndarray, precision: int) -> np.ndarray:
    """Frequencies that sum to a power of two, at least 1 where there is a weight.

    Args:
        weights: Rows of weights below 2**40, each with one that is not 0.
        precision: Binary logarithm of the sum.
    """
    present = weights > 0
    spare = (1 << precision) - present.sum(1, keepdims=True)
    result = np.where(present, 1 + weights * spare // weights.sum(1, keepdims=True), 0)
    result[np.arange(len(result)), weights.argmax(1)] += (1 << precision) - result.sum(1)
    return result


def write_side(model: Model) -> bytes:
    """The bytes of everything that is not in the stream's fixed fields."""
    numbers = NumberEncoder()
    if model.groups is not None:
        bits, last = (model.groups.count - 1).bit_length(), 0
        for group in model.groups.ids.tolist():
            numbers.write(group, bits, _IDS, last)
            last = group
    for shape, zeros, signs in zip(model.shapes, model.zeros, model.signs, strict=True):
        if model.curved:
            numbers.write(int(shape[0]), CURVE_BITS, _RATIO)
            numbers.write(int(shape[1]), CURVE_BITS, _BEND)
        else:
            last = 0
            for code in shape.tolist():
                numbers.write(code, LISTED_BITS, _LISTED, last >> 3)
                last = code
        for zero in zeros.tolist():
            numbers.write(zero, SHARE_BITS, _ZEROS)
        kept = {EVEN: 0, OF_GROUP: 1, OF_CONTEXT: len(signs)}[model.sign_mode]
        for sign in signs[:kept].tolist():
            numbers.write(sign, SHARE_BITS, _SIGNS)
    return numbers.finish()


@dataclass(frozen=True)
class Fields:
    """The fixed fields of a stream, which say what its side information consists of."""

    alphabet: Alphabet
    precision: int
    distances: tuple[int, int]
    group_count: int
    axis: tuple[int, int]  # stride and size
    curved: bool
    sign_mode: int


def read_side(data: bytes | memoryview, fields: Fields) -> Model:
    """The model that `write_side` wrote.

    Args:
        data: Its bytes.
        fields: What the fixed fields say.

    Raises:
        CorruptFile: It has a group that does not exist.
    """
    numbers, count = NumberDecoder(data), fields.group_count
    groups = None
    if count > 1:
        groups = Groups(fields.axis[0], _read_ids(numbers, count, fields.axis[1]))
    each, contexts_ = fields.alphabet.size - 1, contexts(fields.distances)
    shapes = np.zeros((count, 2 if fields.curved else each), np.uint8)
    zeros = np.zeros((count, contexts_), np.uint8)
    signs = np.full((count, contexts_), _HALF, np.uint8)
    for group in range(count):
        if fields.curved:
            shapes[group] = numbers.read(CURVE_BITS, _RATIO), numbers.read(CURVE_BITS, _BEND)
        else:
            last = 0
            for symbol in range(each):
                last = shapes[group, symbol] = min(
                    numbers.read(LISTED_BITS, _LISTED, int(last) >> 3), MOST_LISTED
                )
        zeros[group] = [numbers.read(SHARE_BITS, _ZEROS) for _ in range(contexts_)]
        if fields.sign_mode == OF_GROUP:
            signs[group] = numbers.read(SHARE_BITS, _SIGNS)
        elif fields.sign_mode == OF_CONTEXT:
            signs[group] = [numbers.read(SHARE_BITS, _SIGNS) for _ in range(contexts_)]
    return Model(
        fields.alphabet,
        fields.precision,
        fields.distances,
        groups,
        shapes,
        fields.curved,
        zeros,
        signs,
        fields.sign_mode,
    )


# Twelve doublings of eight steps: the largest weight is 15 * 2**11, below 2**15.
MOST_LISTED = 96


def _read_ids(numbers: NumberDecoder, count: int, size: int) -> np.ndarray:
    bits, last = (count - 1).bit_length(), 0
    ids = np.zeros(size, np.uint8)
    for index in range(size):
        last = numbers.read(bits, _IDS, last)
        if last >= count:
            raise CorruptFile(f"a group is {last} of {count}")
        ids[index] = last
    return ids
