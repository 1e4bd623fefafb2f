"""A stream of symbols as bytes."""

from __future__ import annotations

import numpy as np

from sentei.codec import model as models
from sentei.codec.cursor import Cursor, varint
from sentei.codec.model import Alphabet, Fields, Model
from sentei.codec.rans import LOWEST, Stream
from sentei.core.errors import CorruptFile

# Flags of the first byte: precision - 12, then these.
_CURVED, _SIGN_SHIFT, _GROUPED = 4, 3, 32
_PRECISIONS = (12, 13, 14)


def affordable(tables: int, precision: int, count: int) -> bool:
    """Whether the tables are small enough beside the symbols that they code.

    A rule of the format, so that a small damaged file cannot ask for much work.

    Args:
        tables: How many there are.
        precision: Binary logarithm of the slots of each.
        count: How many symbols they code.
    """
    return tables << precision <= 64 * count + (1 << 16)


def write(stream: Stream) -> bytes:
    """The bytes of a coded stream.

    Args:
        stream: The stream, its states and words set.
    """
    model = stream.model
    first = model.precision - 12 | _CURVED * model.curved | model.sign_mode << _SIGN_SHIFT
    result = bytes([first | _GROUPED * (model.groups is not None)])
    result += varint(model.distances[0]) + varint(model.distances[1]) + varint(stream.lanes)
    if model.groups is not None:
        result += varint(model.groups.count) + varint(model.groups.stride)
        result += varint(len(model.groups.ids))
    side = models.write_side(model)
    result += varint(len(side)) + side + varint(len(stream.words))
    return result + stream.states.astype("<u4").tobytes() + stream.words.astype("<u2").tobytes()


def read(cursor: Cursor, count: int, alphabet: Alphabet) -> Stream:
    """The stream that `write` wrote, not yet decoded.

    Args:
        cursor: Where it begins; moved behind it.
        count: How many symbols it has, at least 1.
        alphabet: What they are.

    Raises:
        CorruptFile: A field makes no sense.
    """
    first = cursor.byte()
    precision, sign_mode = 12 + (first & 3), first >> _SIGN_SHIFT & 3
    if precision not in _PRECISIONS or sign_mode > models.OF_CONTEXT or first >= 2 * _GROUPED:
        raise CorruptFile(f"a stream has the unknown flags {first}")
    distances = cursor.varint(models.MOST_DISTANCE), cursor.varint(models.MOST_DISTANCE)
    lanes = cursor.varint(count)
    if lanes == 0:
        raise CorruptFile("a stream has no lanes")
    groups, axis = 1, (1, 1)
    if first & _GROUPED:
        groups = cursor.varint(models.MOST_GROUPS)
        axis = cursor.varint(count), cursor.varint(count)
        if groups < 2 or 0 in axis:
            raise CorruptFile("a stream has groups of nothing")
    if not affordable(groups * models.contexts(distances), precision, count):
        raise CorruptFile("the tables of a stream outweigh its symbols")
    side = cursor.take(cursor.varint())
    fields = Fields(alphabet, precision, distances, groups, axis, bool(first & _CURVED), sign_mode)
    model: Model = models.read_side(side, fields)
    word_count = cursor.varint()
    states = np.frombuffer(cursor.take(4 * lanes), "<u4")
    words = np.frombuffer(cursor.take(2 * word_count), "<u2")
    if (states < LOWEST).any():
        raise CorruptFile("a stream begins in an impossible state")
    return Stream(model, count, lanes, states, words)
