"""Range asymmetric numeral systems, many lanes and many streams in lockstep.

Duda 2013, "Asymmetric numeral systems", arXiv:1311.2540, section 3.1, in Giesen's interleaved form
(2014, arXiv:1402.3392): 32-bit states, renormalised 16 bits at a time. A stream of `n` symbols is
cut into `lanes` pieces of `ceil(n / lanes)`, the last one padded with the centre. Step t codes
symbol t of every lane; the lanes that run empty then read a word each, in their order.

numpy costs microseconds a call, so the lanes of many tensors walk together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from sentei.codec.model import Model
from sentei.core.errors import CorruptFile

LOWEST = 1 << 16


@dataclass
class Stream:
    """One stream of symbols.

    Attributes:
        model: Its model.
        count: How many symbols it has.
        lanes: How many lanes they lie in.
        states: The states a reader begins with; uint32, one for each lane.
        words: The words it reads; uint16.
    """

    model: Model
    count: int
    lanes: int
    states: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint32))
    words: np.ndarray = field(default_factory=lambda: np.zeros(0, np.uint16))

    @property
    def steps(self) -> int:
        """Symbols of a lane."""
        return -(-self.count // self.lanes)


def table_numbers(stream: Stream) -> np.ndarray:
    """The first table of every position's group; int32 of shape (lanes, steps)."""
    model, size = stream.model, stream.lanes * stream.steps
    if model.groups is None:
        return np.zeros((stream.lanes, stream.steps), np.int32)
    numbers = model.groups.of(size).astype(np.int32) * model.contexts
    return numbers.reshape(stream.lanes, stream.steps)


def encode(streams: Sequence[tuple[Stream, np.ndarray]]) -> None:
    """Codes streams, setting their states and words.

    Args:
        streams: Each with its symbols, uint8.
    """
    order = sorted(range(len(streams)), key=lambda index: -streams[index][0].steps)
    if not order:
        return
    first = streams[order[0]][0].steps
    lanes = [streams[index][0].lanes for index in order]
    steps = np.repeat([streams[index][0].steps for index in order], lanes)
    precision = np.repeat([streams[index][0].model.precision for index in order], lanes)
    precision = precision.astype(np.uint64)
    coded = [_coded(*streams[index]) for index in order]
    starts = np.concatenate([[0], np.cumsum(lanes)])
    offsets = np.concatenate([[0], np.cumsum(steps)])[:-1]
    table = np.concatenate([item.ravel() for item in coded])
    state = np.full(starts[-1], LOWEST, np.uint64)
    active = np.searchsorted(-steps, -np.arange(first), "left")
    taken: list[tuple[np.ndarray, np.ndarray]] = []
    shift, half = np.uint64(32) - precision, np.uint64(16)
    for step in range(first - 1, -1, -1):
        count = active[step]
        x, entry = state[:count], table[offsets[:count] + step]
        frequency, below = entry >> np.uint64(32), entry & np.uint64(0xFFFFFFFF)
        full = np.flatnonzero(x >= frequency << shift[:count])
        if full.size:
            emptied = x[full]
            taken.append((full, emptied.astype(np.uint16)))
            x[full] = emptied >> half
        whole, part = np.divmod(x, frequency)
        state[:count] = (whole << precision[:count]) + part + below
    owners = np.concatenate([lane for lane, _ in taken[::-1]] or [np.zeros(0, np.int64)])
    words = np.concatenate([word for _, word in taken[::-1]] or [np.zeros(0, np.uint16)])
    owners = np.repeat(np.arange(len(order)), lanes)[owners]
    words = words[np.argsort(owners, kind="stable")]
    ends = np.cumsum(np.bincount(owners, minlength=len(order)))
    for place, index in enumerate(order):
        stream = streams[index][0]
        stream.states = state[starts[place] : starts[place + 1]].astype(np.uint32)
        stream.words = words[ends[place - 1] if place else 0 : ends[place]]


def table_choice(stream: Stream, symbols: np.ndarray) -> np.ndarray:
    """The table that codes each symbol; int32 of shape (lanes, steps).

    Args:
        stream: The stream.
        symbols: Its symbols, padded; the same shape.
    """
    numbers = table_numbers(stream)
    classes = stream.model.alphabet.classes()[symbols].astype(np.int32)
    unit = 1
    for distance in reversed(stream.model.distances):
        if distance:
            numbers[:, distance:] += unit * classes[:, : max(stream.steps - distance, 0)]
            unit *= 3
    return numbers


def padded(stream: Stream, symbols: np.ndarray) -> np.ndarray:
    """Symbols in lanes; shape (lanes, steps)."""
    result = np.full(stream.lanes * stream.steps, stream.model.alphabet.centre, np.uint8)
    result[: stream.count] = symbols
    return result.reshape(stream.lanes, stream.steps)


def _coded(stream: Stream, symbols: np.ndarray) -> np.ndarray:
    """Frequency (high) and start (low) of every symbol, packed; shape (lanes, steps)."""
    laid = padded(stream, symbols)
    tables = stream.model.tables()
    starts = np.cumsum(tables, 1) - tables
    packed = (tables << 32 | starts).astype(np.uint64).ravel()
    return packed[table_choice(stream, laid) * stream.model.alphabet.size + laid]


@dataclass
class _Walk:
    """The lanes of some streams side by side, longest first."""

    streams: list[Stream]
    steps: np.ndarray
    owner: np.ndarray
    near: np.ndarray
    far: np.ndarray
    unit: np.ndarray
    places: np.ndarray  # where each lane's history begins
    size: int


def decode(streams: Sequence[Stream]) -> list[np.ndarray]:
    """Reads streams.

    Args:
        streams: The streams, their states and words set.

    Returns:
        The symbols of each, uint8.

    Raises:
        CorruptFile: A stream does not end as it must.
    """
    results: list[np.ndarray] = [np.zeros(0, np.uint8)] * len(streams)
    for precision in {stream.model.precision for stream in streams}:
        chosen = [i for i, item in enumerate(streams) if item.model.precision == precision]
        chosen.sort(key=lambda index: -streams[index].steps)
        found = _decode([streams[index] for index in chosen], precision)
        for index, symbols in zip(chosen, found, strict=True):
            results[index] = symbols
    return results


def _lay(streams: list[Stream]) -> _Walk:
    lanes = [item.lanes for item in streams]

    def each(values: list[int]) -> np.ndarray:
        return np.repeat(np.array(values, np.int64), lanes)

    steps = each([item.steps for item in streams])
    near = each([item.model.distances[1] for item in streams])
    far = each([item.model.distances[0] for item in streams])
    near, far = np.minimum(near, steps), np.minimum(far, steps)
    before = np.maximum(near, far)
    ends = np.cumsum(steps + before)
    unit = each([3 if item.model.distances[1] else 1 for item in streams])
    owner = each(list(range(len(streams))))
    return _Walk(streams, steps, owner, near, far, unit, ends - steps, int(ends[-1]))


def lookup(model: Model) -> np.ndarray:
    """For each table and slot, int64: frequency, slot - start, class, symbol (40, 16, 8, 0)."""
    tables, total = model.tables(), 1 << model.precision
    starts = np.cumsum(tables, 1) - tables
    symbols = np.arange(model.alphabet.size)
    low = model.alphabet.classes().astype(np.int64) << 8 | symbols
    entries = tables << 40 | low
    flat = np.repeat(entries.ravel(), tables.ravel()).reshape(-1, total)
    begin = np.repeat(starts.ravel(), tables.ravel()).reshape(-1, total)
    return flat | (np.arange(total) - begin) << 16


def _decode(streams: list[Stream], precision: int) -> list[np.ndarray]:
    walk = _lay(streams)
    table = np.concatenate([lookup(item.model) for item in streams]).ravel()
    firsts = _table_starts(streams)
    numbers = np.zeros(walk.size, np.int32)
    history = np.zeros(walk.size, np.uint16)
    lane = 0
    for stream, first in zip(streams, firsts, strict=True):
        for row in table_numbers(stream) + first:
            numbers[walk.places[lane] : walk.places[lane] + stream.steps] = row
            lane += 1
    state = np.concatenate([item.states for item in streams]).astype(np.int64)
    words = np.concatenate([item.words for item in streams] + [np.zeros(1, np.uint16)])
    limits = np.cumsum([len(item.words) for item in streams])
    heads = limits - [len(item.words) for item in streams]
    begins = np.concatenate([[0], np.cumsum([item.lanes for item in streams])])
    active = np.searchsorted(-walk.steps, -np.arange(walk.steps[0]), "left").tolist()
    sees, several = bool(walk.near.any() or walk.far.any()), len(streams) > 1
    low, last = (1 << precision) - 1, len(words) - 1
    for step, count in enumerate(active):
        x, place = state[:count], walk.places[:count] + step
        number = numbers[place]
        if sees:
            number = number + (history[place - walk.near[:count]] >> 8)
            number += walk.unit[:count] * (history[place - walk.far[:count]] >> 8)
        entry = table[(number.astype(np.int64) << precision) | (x & low)]
        history[place] = entry.astype(np.uint16)
        x = (entry >> 40) * (x >> precision) + (entry >> 16 & 0xFFFFFF)
        empty = np.flatnonzero(x < LOWEST)
        if empty.size:
            if several:
                owner = walk.owner[empty]
                rank = np.arange(empty.size) - np.searchsorted(empty, begins[owner])
                where = heads[owner] + rank
                heads += np.bincount(owner, minlength=len(heads))
            else:
                where = np.arange(heads[0], heads[0] + empty.size)
                heads[0] += empty.size
            x[empty] = x[empty] << 16 | words[np.minimum(where, last)]
        state[:count] = x
    if (heads != limits).any() or (state != LOWEST).any():
        raise CorruptFile("a stream of symbols does not end where it must")
    return _unlay(walk, history)


def _table_starts(streams: list[Stream]) -> list[int]:
    counts = [len(item.model.shapes) * item.model.contexts for item in streams]
    return [sum(counts[:index]) for index in range(len(counts))]


def _unlay(walk: _Walk, history: np.ndarray) -> list[np.ndarray]:
    result, lane = [], 0
    for stream in walk.streams:
        before = int(
            walk.places[lane] - (walk.places[lane - 1] + walk.steps[lane - 1] if lane else 0)
        )
        begin = int(walk.places[lane]) - before
        length = before + stream.steps
        block = history[begin : begin + stream.lanes * length].reshape(stream.lanes, length)
        result.append(block[:, before:].astype(np.uint8).ravel()[: stream.count])
        lane += stream.lanes
    return result
