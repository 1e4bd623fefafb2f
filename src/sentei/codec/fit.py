"""Choosing the static model that codes symbols in the fewest bits, its own description counted.

Nothing here is part of the format: a reader never asks why.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from sentei.codec import model as models
from sentei.codec.binary import SQUASH
from sentei.codec.groupings import entropy, groupings, id_bits
from sentei.codec.model import Alphabet, Groups, Model
from sentei.codec.stream import affordable

_SAMPLE = 1 << 14
# What a code in the side information costs about, in bits, after its adaptive coding.
_COST_SHARE, _COST_LISTED, _COST_ABSENT, _COST_CURVE = 6.5, 5.5, 0.5, 14.0
_FARTHEST = 255
_SYMBOLS_IN_LANE = 8192
_FINE, _MOST_FINE_TABLES = 1 << 10, 64
# Orders that are tried to the end, for a tensor of at most so many symbols.
_LIKELY, _SMALL = 2, 1 << 17
# Over how large a share of their distance from the centre rare symbols are taken as alike.
_WIDTHS, _COARSE = (0.0, 0.08, 0.15, 0.3), (2, 4, 8)


@dataclass(frozen=True)
class Scan:
    """An order in which the axes of a tensor are walked, and the neighbours that are looked at.

    Attributes:
        axes: The permutation.
        distances: Of the neighbours, in that order.
    """

    axes: tuple[int, ...]
    distances: tuple[int, int]


def lanes(count: int) -> int:
    """Lanes for some symbols: each costs two bytes, and the more there are the faster it goes."""
    return max(1, round(count / _SYMBOLS_IN_LANE))


def scans(classes: np.ndarray) -> Iterator[Scan]:
    """Orders worth trying.

    Args:
        classes: Whether each symbol is centre, negative or positive, in the tensor's shape, of
            axes longer than 1.

    Yields:
        Orders, the file's own without neighbours first.
    """
    rank = classes.ndim
    own = tuple(range(rank))
    yield Scan(own, (0, 0))
    if rank == 1:
        yield from (Scan(own, (0, 1)), Scan(own, (2, 1)))
        return
    told = sorted(own, key=lambda axis: -_information(classes, axis))[:3]
    for near in told[:2]:
        axes = (*(axis for axis in own if axis != near), near)
        yield Scan(axes, (0, 1))
    for near, far in itertools.permutations(told, 2):
        axes = (*(axis for axis in own if axis not in (near, far)), far, near)
        yield Scan(axes, (classes.shape[near], 1))


def _information(classes: np.ndarray, axis: int) -> float:
    """Bits that a symbol's neighbour along an axis tells about its class, per symbol."""
    length = classes.shape[axis]
    here = np.take(classes, range(1, length), axis).ravel()
    there = np.take(classes, range(length - 1), axis).ravel()
    pairs = np.bincount(here.astype(np.int64) + 3 * there, minlength=9).reshape(3, 3)
    # Pairs that leave an axis of 3 are fewer than those of a long one: counted in full.
    return entropy(pairs.sum(0)[None]) - entropy(pairs)


def neighbours(classes: np.ndarray, distances: tuple[int, int]) -> np.ndarray:
    """The context of every symbol, as if there were a single lane; int64."""
    result, unit = np.zeros(classes.size, np.int64), 1
    for distance in reversed(distances):
        if distance:
            result[distance:] += unit * classes[: max(classes.size - distance, 0)]
            unit *= 3
    return result


def choose(
    symbols: np.ndarray, alphabet: Alphabet
) -> tuple[tuple[int, ...], Model, np.ndarray, float]:
    """The best model for a tensor.

    Args:
        symbols: Its symbols, uint8, in the tensor's shape, of axes longer than 1.
        alphabet: What they are.

    Returns:
        The order of the axes, the model, the symbols in that order, and bits it takes in all.
    """
    kinds, sample = alphabet.classes(), symbols
    if symbols.size > _SAMPLE and symbols.ndim:
        each = symbols.size // len(symbols)
        step = max(1, len(symbols) // max(1, _SAMPLE // each))
        sample = symbols[::step]
    sampled = kinds[sample]
    tried: list[tuple[float, int, Scan]] = []
    for scan in scans(sampled):
        turned = np.ascontiguousarray(sample.transpose(scan.axes)).ravel()
        seen = neighbours(kinds[turned], scan.distances)
        cost = _cost(_histogram(turned, seen, alphabet, models.contexts(scan.distances)), alphabet)
        cost *= symbols.size / max(sample.size, 1)
        cost += _COST_SHARE * models.contexts(scan.distances)
        tried.append((cost, len(tried), scan))
    # What groups add is only known when they are made, which takes its time for large tensors.
    likely = sorted(tried)[: _LIKELY if symbols.size <= _SMALL else 1]
    made = []
    for _, rank, scan in likely:
        turned = np.ascontiguousarray(symbols.transpose(scan.axes))
        made.append((rank, scan.axes, *_finish(turned, alphabet, scan.distances)))
    _, axes, found, flat, bits = min(made, key=lambda item: (item[-1], item[0]))
    return axes, found, flat, bits


def _histogram(
    symbols: np.ndarray, seen: np.ndarray, alphabet: Alphabet, contexts: int
) -> np.ndarray:
    flat = seen * alphabet.size + symbols
    return np.bincount(flat, minlength=contexts * alphabet.size).reshape(contexts, -1)


def _split(counts: np.ndarray, alphabet: Alphabet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How often the centre, a negative and a positive symbol occur."""
    centre = alphabet.centre
    return counts[..., centre], counts[..., :centre].sum(-1), counts[..., centre + 1 :].sum(-1)


def _cost(counts: np.ndarray, alphabet: Alphabet) -> float:
    """Bits of symbols with shares per context and magnitudes shared by all."""
    zero, below, above = _split(counts, alphabet)
    total = counts.sum(0)
    bits = entropy(np.stack([zero, below + above], -1)) + entropy(np.stack([below, above], -1))
    centre = alphabet.centre
    return bits + entropy(total[None, :centre]) + entropy(total[None, centre + 1 :])


def _finish(
    symbols: np.ndarray, alphabet: Alphabet, distances: tuple[int, int]
) -> tuple[Model, np.ndarray, float]:
    flat = symbols.ravel()
    seen = neighbours(alphabet.classes()[flat], distances)
    contexts = models.contexts(distances)
    tried: list[tuple[float, Model, np.ndarray]] = []
    for groups in (None, *groupings(symbols, alphabet)):
        count = 1 if groups is None else groups.count
        if not affordable(count * contexts, 12, flat.size):
            continue
        where = seen if groups is None else groups.of(flat.size) * np.int64(contexts) + seen
        counts = _histogram(flat, where, alphabet, count * contexts)
        shaped = counts.reshape(count, contexts, -1)
        for curved in (False, True):
            found = _model(shaped, alphabet, distances, groups, curved)
            tried.append((_side_bits(found) + _bits(found, counts), found, shaped.sum(1)))
    _, found, by_group = min(tried, key=lambda item: item[0])
    where = seen if found.groups is None else found.groups.of(flat.size) * np.int64(contexts) + seen
    tables = contexts * (1 if found.groups is None else found.groups.count)
    counts = _histogram(flat, where, alphabet, tables)
    found = _finest(_smoother(_refined(found, by_group), by_group, counts), counts)
    return (
        found,
        flat,
        8 * len(models.write_side(found)) + _bits(found, counts) + 32 * lanes(flat.size),
    )


def _smoother(model: Model, by_group: np.ndarray, counts: np.ndarray) -> Model:
    """The same with listed weights that say less of rare symbols, where that is shorter.

    What chance made of how often each rare symbol occurs costs more to tell than it is worth.
    """
    if model.curved:
        return model
    best, least = model, 8 * len(models.write_side(model)) + _bits(model, counts)
    for width, coarse in itertools.product(_WIDTHS, _COARSE):
        codes = _listed_codes(_smoothed(by_group, model.alphabet, width), model.alphabet)
        rounded = (codes + coarse // 2) // coarse * coarse
        # A symbol that occurs must have a weight.
        rounded = np.where(codes > 0, np.maximum(rounded, 1), 0).astype(np.uint8)
        tried = replace(model, shapes=rounded)
        bits = 8 * len(models.write_side(tried)) + _bits(tried, counts)
        if bits < least:
            best, least = tried, bits
    return best


def _smoothed(counts: np.ndarray, alphabet: Alphabet, width: float) -> np.ndarray:
    """Means over neighbours within a share of the distance from the centre; (group, symbol)."""
    result = counts.astype(np.float64)
    centre = alphabet.centre
    for begin, end in ((0, centre), (centre + 1, alphabet.size)):
        places = np.arange(begin, end)
        reach = (np.abs(places - centre) * width).astype(int)
        sums = np.concatenate([np.zeros((len(counts), 1)), np.cumsum(counts[:, begin:end], 1)], 1)
        first = np.maximum(places - reach, begin) - begin
        last = np.minimum(places + reach + 1, end) - begin
        result[:, begin:end] = (sums[:, last] - sums[:, first]) / (last - first)
    return result


def _finest(model: Model, counts: np.ndarray) -> Model:
    """The same with the precision that codes the counted symbols in the fewest bits."""
    tables, size = len(counts), int(counts.sum())
    tried = [
        replace(model, precision=precision)
        for precision in (model.precision, 13, 14)
        if tables <= _MOST_FINE_TABLES and affordable(tables, precision, size)
    ]
    return min([model, *tried], key=lambda found: _bits(found, counts))


def _side_bits(model: Model) -> float:
    """Bits of the side information, nearly."""
    groups = model.groups
    stored = {
        models.EVEN: 0,
        models.OF_GROUP: len(model.signs),
        models.OF_CONTEXT: model.signs.size,
    }
    bits = _COST_SHARE * (model.zeros.size + stored[model.sign_mode])
    if model.curved:
        bits += len(model.shapes) * _COST_CURVE
    else:
        listed = int(np.count_nonzero(model.shapes))
        bits += listed * _COST_LISTED + (model.shapes.size - listed) * _COST_ABSENT
    return bits if groups is None else bits + id_bits(groups.ids, groups.count)


def _bits(model: Model, counts: np.ndarray) -> float:
    tables = model.tables()
    price = model.precision - np.log2(np.maximum(tables, 1))
    return float((counts * price).sum())


def _model(
    counts: np.ndarray,
    alphabet: Alphabet,
    distances: tuple[int, int],
    groups: Groups | None,
    curved: bool,
) -> Model:
    """The model whose codes come nearest to what was counted; counts: (group, context, symbol)."""
    zero, below, above = _split(counts, alphabet)
    zeros = _codes(zero, below + above)
    each, whole = _codes(below, above), _codes(below.sum(1), above.sum(1))
    shared = np.repeat(whole[:, None], counts.shape[1], 1)
    even = np.full_like(each, 128)
    costs = []
    for mode, codes in ((0, even), (1, shared), (2, each)):
        share = SQUASH[codes.astype(np.int64) * 16] / 65536
        stored = {0: 0, 1: len(codes), 2: codes.size}[mode]
        bits = -(below * np.log2(share) + above * np.log2(1 - share)).sum()
        costs.append((bits + stored * _COST_SHARE, mode, codes))
    _, mode, signs = min(costs, key=lambda item: item[:2])
    by_group = counts.sum(1)
    shapes = _curve_codes(by_group, alphabet) if curved else _listed_codes(by_group, alphabet)
    tables, size = counts.shape[0] * counts.shape[1], int(counts.sum())
    fine = size > _FINE and tables <= _MOST_FINE_TABLES and affordable(tables, 14, size)
    return Model(
        alphabet, 14 if fine else 12, distances, groups, shapes, curved, zeros, signs, mode
    )


def _codes(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Codes of the shares of the first, a little smoothed; those of nothing repeat one half."""
    odds = np.log((some + 0.1) / (others + 0.1)) * 256
    return np.clip(np.round((odds + 2048) / 16), 0, 255).astype(np.uint8)


def _listed_codes(counts: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Codes of the weights of all symbols but the centre; counts: (group, symbol)."""
    others = np.delete(counts, alphabet.centre, 1).astype(np.float64)
    if not others.size:
        return np.zeros(others.shape, np.uint8)
    scaled = others / np.maximum(others.max(1, keepdims=True), 1) * (15 << 11)
    weights = models.listed(np.arange(models.MOST_LISTED + 1)).astype(np.float64)
    middle = np.sqrt(weights[1:-1] * weights[2:])
    codes = np.searchsorted(middle, scaled) + 1
    return np.where(others > 0, codes, 0).astype(np.uint8)


def _curve_codes(counts: np.ndarray, alphabet: Alphabet) -> np.ndarray:
    """Codes of the most likely curves; counts: (group, symbol)."""
    centre, far = alphabet.centre, max(alphabet.centre, alphabet.size - 1 - alphabet.centre)
    if far == 0:
        return np.zeros((len(counts), 2), np.uint8)
    sides = [counts[:, :centre][:, ::-1], counts[:, centre + 1 :]]
    codes, log, sums = _grid(_FARTHEST)
    return codes[_curve_price(sides, log, sums).argmin(1)]


def _refined(model: Model, counts: np.ndarray) -> Model:
    """The same with curves from a finer grid around those it has; counts: (group, symbol)."""
    alphabet = model.alphabet
    centre, far = alphabet.centre, max(alphabet.centre, alphabet.size - 1 - alphabet.centre)
    if not model.curved or far == 0:
        return model
    around = np.array(list(itertools.product((-3, -1, 0, 1, 3), repeat=2)))
    near = np.clip(model.shapes[:, None].astype(int) + around, 0, 255).astype(np.uint8)
    log, sums = (
        item.reshape(*near.shape[:2], far) for item in _logarithms(near.reshape(-1, 2), far)
    )
    shapes = model.shapes.copy()
    for group, row in enumerate(counts[:, None]):
        sides = [row[:, :centre][:, ::-1], row[:, centre + 1 :]]
        shapes[group] = near[group, _curve_price(sides, log[group], sums[group]).argmin()]
    return replace(model, shapes=shapes)


@lru_cache(maxsize=1)
def _grid(far: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    codes = np.array(list(itertools.product(range(4, 256, 8), range(0, 256, 8))), np.uint8)
    return codes, *_logarithms(codes, far)


def _logarithms(codes: np.ndarray, far: int) -> tuple[np.ndarray, np.ndarray]:
    """Of the weights of curves, and of the sums of the first 1, 2, 3... of them."""
    weights = models.curves(Alphabet(far + 1, 0), codes)[:, 1:].astype(np.float64)
    return np.log2(weights), np.log2(np.cumsum(weights, 1))


def _curve_price(sides: list[np.ndarray], log: np.ndarray, sums: np.ndarray) -> np.ndarray:
    """Bits of the magnitudes on each side under each curve; shape (group, curve)."""
    price = np.zeros((len(sides[0]), len(log)))
    for counts in sides:
        length = counts.shape[1]
        if length:
            counts = counts.astype(np.float64)  # products of integers bypass the fast routines
            price += np.outer(counts.sum(1), sums[:, length - 1]) - counts @ log[:, :length].T
    return price
