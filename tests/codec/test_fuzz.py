"""Mutations of packed files, with checksums that agree and without: refused or right, always."""

import resource
import time
from pathlib import Path

import numpy as np
import pytest

from sentei import codec
from sentei.codec import container
from sentei.core.errors import CorruptFile

GOLDEN = sorted((Path(__file__).parent / "golden" / "v1").glob("*.stz"))
MOST_SECONDS, MOST_GROWTH = 5.0, 500_000  # for a mutation; kilobytes of memory
# Mutations of a file: fewer of those with many tables, which take ten times as long to read.
FEW = {"deep": 200, "groups": 150, "lanes": 200, "signs": 250}
FEW |= {"mixed": 350, "zeros": 350, "sparse": 500}
COUNTS = {path.stem: FEW.get(path.stem, 825) for path in GOLDEN}


def mutated(random, data):
    """Bytes changed, cut, repeated or replaced somewhere."""
    data = bytearray(data)
    if not data:
        return bytes(random.bytes(3))
    for _ in range(random.integers(1, 4)):
        begin = int(random.integers(0, len(data) + 1))
        end = min(len(data), begin + int(random.integers(0, 9)))
        kind = random.integers(0, 5)
        if kind == 0 and begin < len(data):
            data[begin] ^= int(random.integers(1, 256))
        elif kind == 1:
            data[begin:end] = random.bytes(end - begin)
        elif kind == 2:
            del data[begin:end]
        elif kind == 3:
            data[begin:begin] = data[begin:end]
        else:
            data[begin:end] = b"\xff" * (end - begin)
    return bytes(data)


def forged(random, data):
    """A mutated payload or length under checksums that agree, to get at what is behind them."""
    header = container.read_header(data)
    parts = [
        data[piece.coded_offset : piece.coded_offset + piece.coded_size]
        for piece in (header.skeleton, *header.pieces)
    ]
    chosen = int(random.integers(0, len(parts)))
    parts[chosen] = mutated(random, parts[chosen])
    rows = [
        (piece.offset, piece.size, part)
        for piece, part in zip(header.pieces, parts[1:], strict=True)
    ]
    size = header.size + int(random.choice([0, 0, 0, 1, 1000, 10**12]))
    return b"".join([container.write_header(size, header.digest, parts[0], rows), *parts])


@pytest.mark.slow
@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_mutations(tmp_path, path):
    random, data, right = np.random.default_rng(0), path.read_bytes(), 0
    count = COUNTS[path.stem]
    codec.unpack(path, tmp_path / "right")
    original = (tmp_path / "right").read_bytes()
    target, source = tmp_path / "target", tmp_path / "source"
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(count):
        source.write_bytes((mutated, forged)[number % 2](random, data))
        started = time.perf_counter()
        try:
            codec.unpack(source, target)
        except CorruptFile:
            assert not target.exists()
        else:
            assert target.read_bytes() == original
            target.unlink()
            right += 1
        assert time.perf_counter() - started < MOST_SECONDS
    assert right < count / 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < MOST_GROWTH


def test_there_are_ten_thousand():
    assert sum(COUNTS.values()) >= 10_000
