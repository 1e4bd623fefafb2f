"""The inner loops of `effort="max"`, written for numba, and for plain Python where numba is absent.

Two coders: the mixed one, and the deep one, which also looks at the values of neighbours.
Only numbers and indexing: numba compiles it, and without numba it runs on lists, some hundred times
slower. Import this module only where it is needed: numba takes a second to load.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

try:
    from numba import njit as _njit

    COMPILED = True
except ImportError:  # the extra `sentei[fast]` is not installed
    COMPILED = False

INPUTS, NODES, DENSITIES = 8, 16, 12
DEEP_INPUTS, DEEP_NODES, EXPECTED, STEPS = 12, 24, 32, 33
# Weights have 14 bits behind the point, and begin at about an eighth.
WEIGHT, MOST_WEIGHT = 1966, 98304
_ODDS, _RATE, _DEEP_RATE, _ROUND, _SHIFT = 2047, 30, 18, 1 << 17, 18
MOST_COUNT = 250
LOW, HIGH, VALUE, PLACE = range(4)


def _jit(function: Callable[..., Any]) -> Callable[..., Any]:
    return _njit(cache=True)(function) if COMPILED else function


@_jit
def code(bit, one, decoding, coder, data):
    """Writes or reads a bit with the probability `one` / 65536 of 1, as `binary` does."""
    middle = coder[LOW] + ((coder[HIGH] - coder[LOW]) * one >> 16)
    if decoding:
        bit = 1 if coder[VALUE] <= middle else 0
    if bit:
        coder[HIGH] = middle
    else:
        coder[LOW] = middle + 1
    while (coder[LOW] ^ coder[HIGH]) >> 24 == 0:
        if decoding:
            byte = data[coder[PLACE]] if coder[PLACE] < len(data) else 0
            coder[VALUE] = (coder[VALUE] << 8 | byte) & 0xFFFFFFFF
        else:
            data[coder[PLACE]] = coder[HIGH] >> 24
        coder[PLACE] += 1
        coder[LOW] = coder[LOW] << 8 & 0xFFFFFFFF
        coder[HIGH] = coder[HIGH] << 8 & 0xFFFFFFFF | 255
    return bit


@_jit
def learn(bit, place, ones, counts, rates):
    """Moves a probability towards a bit, by 1 / (n + 2) the n-th time (Laplace's rule)."""
    one = ones[place]
    one += ((65535 * bit - one) * rates[counts[place]] + 16384) >> 15
    ones[place] = min(max(one, 16), 65519)
    if counts[place] < MOST_COUNT:
        counts[place] += 1


@_jit
def mixed(
    bit, node, density, deep, decoding, coder, data, bases, ones, counts, weights, odds, refined,
    tables,
):  # fmt: skip
    """One bit, predicted by mixing contexts in the logistic domain: twice, or three times."""
    squash, stretch, rates = tables
    inputs, nodes = (DEEP_INPUTS, DEEP_NODES) if deep else (INPUTS, NODES)
    first, second = node * inputs, (nodes + node * DENSITIES + density) * inputs
    place = (nodes * (1 + DENSITIES) + node * EXPECTED + bases[inputs]) * inputs
    third = place if deep else first
    start = ones[bases[0] + node]
    sum_first = sum_second = sum_third = 0
    for index in range(inputs):
        place = bases[index] + node
        if counts[place] == 0:  # a context never seen begins with what all know
            ones[place] = start
        odd = stretch[ones[place] >> 4]
        odds[index] = odd
        sum_first += weights[first + index] * odd
        sum_second += weights[second + index] * odd
        if deep:
            sum_third += weights[third + index] * odd
    sum_first = min(max(sum_first >> 14, -_ODDS), _ODDS)
    sum_second = min(max(sum_second >> 14, -_ODDS), _ODDS)
    cell = 0
    if deep:
        sum_third = min(max(sum_third >> 14, -_ODDS), _ODDS)
        mix = (sum_first + sum_second + sum_third) // 3 + 2048
        cell, part = (node * EXPECTED + bases[inputs]) * STEPS + (mix >> 7), mix & 127
        known = (refined[cell] * (128 - part) + refined[cell + 1] * part) >> 7
        one = (squash[mix] + known) >> 1
        cell += part >> 6  # the nearer of the two learns
    else:
        one = squash[((sum_first + sum_second) >> 1) + 2048]
    bit = code(bit, min(max(one, 32), 65504), decoding, coder, data)
    rate = _DEEP_RATE if deep else _RATE
    error_first = ((bit << 12) - (squash[sum_first + 2048] >> 4)) * rate
    error_second = ((bit << 12) - (squash[sum_second + 2048] >> 4)) * rate
    error_third = ((bit << 12) - (squash[sum_third + 2048] >> 4)) * rate
    if deep:
        refined[cell] += (65535 * bit - refined[cell]) >> 7
    for index in range(inputs):
        weight = weights[first + index] + ((odds[index] * error_first + _ROUND) >> _SHIFT)
        weights[first + index] = min(max(weight, -MOST_WEIGHT), MOST_WEIGHT)
        weight = weights[second + index] + ((odds[index] * error_second + _ROUND) >> _SHIFT)
        weights[second + index] = min(max(weight, -MOST_WEIGHT), MOST_WEIGHT)
        if deep:
            weight = weights[third + index] + ((odds[index] * error_third + _ROUND) >> _SHIFT)
            weights[third + index] = min(max(weight, -MOST_WEIGHT), MOST_WEIGHT)
        learn(bit, bases[index] + node, ones, counts, rates)
    return bit


@_jit
def look(place, shape, deep, kinds, sizes, values, shifts, starts, bases):
    """Sets the contexts of a position; returns how many neighbours are not the centre."""
    nodes = DEEP_NODES if deep else NODES
    _, middle, inner = shape
    none = len(kinds) - 1
    c = place % inner
    b = place // inner % middle
    a = place // (inner * middle)
    rows, planes = inner, inner * middle
    # One, two and three back along each axis, and the diagonals; `none` outside.
    in1 = place - 1 if c > 0 else none
    in2 = place - 2 if c > 1 else none
    in3 = place - 3 if c > 2 else none
    mid1 = place - rows if b > 0 else none
    mid2 = place - 2 * rows if b > 1 else none
    mid3 = place - 3 * rows if b > 2 else none
    out1 = place - planes if a > 0 else none
    out2 = place - 2 * planes if a > 1 else none
    mid_in = place - rows - 1 if b > 0 and c > 0 else none
    out_in = place - planes - 1 if a > 0 and c > 0 else none
    out_mid = place - planes - rows if a > 0 and b > 0 else none
    near = sizes[in1] + sizes[mid1] + sizes[out1]
    far = sizes[in2] + sizes[mid2] + sizes[out2] + sizes[mid_in] + sizes[out_in] + sizes[out_mid]
    turned = kinds[in1] * 9 + kinds[mid1] * 3 + kinds[out1]
    large = min(sizes[in1], 4) * 25 + min(sizes[mid1], 4) * 5 + min(sizes[out1], 4)
    bases[0] = 0
    bases[1] = starts[1] + nodes * turned
    bases[2] = starts[2] + nodes * large
    bases[3] = starts[3] + nodes * (a >> shifts[0])
    bases[4] = starts[4] + nodes * (b >> shifts[1])
    bases[5] = starts[5] + nodes * (c >> shifts[2])
    bases[6] = starts[6] + nodes * min(near + (far >> 1), 27)
    bases[7] = starts[7] + nodes * ((b >> shifts[1]) * 9 + kinds[in1] * 3 + kinds[out1])
    bases[INPUTS] = 0
    if deep:
        out_up = place - planes + rows if a > 0 and b + 1 < middle else none
        total = count = 0
        for other in (mid1, out1, out_mid, out_up):
            if kinds[other] != 0:
                total += values[other]
                count += 1
        expected = (2 * total + count) // (2 * count) if count else 0
        expected = min(max(expected, -15), 15)
        above, before = min(max(values[mid1], -8), 8) + 8, min(max(values[out1], -8), 8) + 8
        bases[8] = starts[8] + nodes * (31 * min(count, 3) + expected + 15)
        bases[9] = starts[9] + nodes * (17 * above + before)
        bases[10] = starts[10] + nodes * (8 * (c >> shifts[2]) + min(a >> 2, 7))
        bases[11] = starts[11] + nodes * (8 * (c >> shifts[2]) + min(b >> 2, 7))
        bases[DEEP_INPUTS] = min(max(expected, -7), 7) + 7 + (16 if count > 1 else 0)
    density = 0
    for other in (in1, mid1, out1, in2, mid2, out2, in3, mid3, mid_in, out_in, out_mid):
        if kinds[other] != 0:
            density += 1
    return density


@_jit
def walk(
    symbols, decoding, deep, data, coder, alphabet, shape, shifts, starts, ones, counts, weights,
    trees, seen, bases, odds, refined, kinds, sizes, values, tables,
):  # fmt: skip
    """Codes all symbols in their order, as zero or not, sign, octave, and the bits below it."""
    size, centre = alphabet
    below, above = centre, size - 1 - centre
    rates = tables[2]
    for place in range(len(symbols)):
        density = look(place, shape, deep, kinds, sizes, values, shifts, starts, bases)
        distance = symbols[place] - centre
        magnitude = abs(distance)
        octave = 0
        while magnitude >> octave:
            octave += 1
        bit = mixed(1 if magnitude else 0, 0, density, deep, decoding, coder, data,
                    bases, ones, counts, weights, odds, refined, tables)  # fmt: skip
        if bit == 0:
            symbols[place] = centre
            kinds[place] = sizes[place] = 0
            continue
        negative = 1 if above == 0 else 0
        if below and above:
            negative = mixed(1 if distance < 0 else 0, 1, density, deep, decoding, coder, data,
                             bases, ones, counts, weights, odds, refined, tables)  # fmt: skip
        found = 1
        while found < 8 and 1 << found <= max(below, above):
            bit = mixed(1 if octave > found else 0, found + 1, density, deep, decoding, coder, data,
                        bases, ones, counts, weights, odds, refined, tables)  # fmt: skip
            if bit == 0:
                break
            found += 1
        node = 1
        for level in range(found - 2, -1, -1):
            bit = magnitude >> level & 1
            if deep and found <= 4:
                bit = mixed(bit, 7 + node + (1 << found - 1), density, deep, decoding, coder, data,
                            bases, ones, counts, weights, odds, refined, tables)  # fmt: skip
            else:
                tree = found * 128 + node
                bit = code(bit, trees[tree], decoding, coder, data)
                learn(bit, tree, trees, seen, rates)
            node = 2 * node + bit
        if decoding:
            symbols[place] = centre - node if negative else centre + node
        kinds[place] = 1 if negative else 2
        sizes[place] = found
        values[place] = -node if negative else node
