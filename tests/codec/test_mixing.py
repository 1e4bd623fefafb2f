"""The coder of `effort="max"`."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from codec_samples import KINDS, safetensors, weights
from hypothesis import given
from hypothesis import strategies as st

from sentei import codec
from sentei.codec import groupings, mixing
from sentei.codec.model import Alphabet

GOLDEN = Path(__file__).parent / "golden"


@given(
    shape=st.lists(st.integers(1, 6), min_size=1, max_size=5),
    size=st.integers(2, 256),
    centre=st.floats(0, 1),
    seed=st.integers(0, 99),
    deep=st.booleans(),
)
def test_symbols_come_back(shape, size, centre, seed, deep):
    symbols = np.random.default_rng(seed).integers(0, size, shape).astype(np.uint8)
    alphabet = Alphabet(size, int(centre * (size - 1)))
    data = mixing.encode(symbols, alphabet, deep)
    assert (mixing.decode(data, symbols.size, alphabet, shape, deep) == symbols.ravel()).all()


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((9,), (1, 1, 9)), ((4, 5), (4, 1, 5)), ((64, 3, 3, 32), (64, 9, 32)), ((), (1, 1, 1))],
)
def test_three_axes(shape, axes):
    assert mixing.three_axes(shape) == axes


def test_weights_of_images_are_seen_as_images(tmp_path):
    """Rows of a matrix that belong to pixels: what is above a pixel is one image row away."""
    random = np.random.default_rng(0)
    above = np.repeat(random.random((7, 1, 28, 24)) < 0.2, 4, 1).reshape(784, 24)
    values = np.where(above, random.integers(1, 5, above.shape), 0).astype(np.int8)
    (tmp_path / "source").write_bytes(safetensors({"a": values}))
    packed = codec.pack(tmp_path / "source", tmp_path / "packed", effort="max").packed_size
    plain = mixing.encode(values.astype(np.uint8), Alphabet(5, 0))
    assert packed < 0.8 * len(plain)
    codec.unpack(tmp_path / "packed", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == (tmp_path / "source").read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_files_come_back_and_are_no_larger(tmp_path, kind):
    content = safetensors({"a": weights(kind, (20, 3, 3, 12)), "b": weights(kind, (99,))})
    (tmp_path / "source").write_bytes(content)
    fast = codec.pack(tmp_path / "source", tmp_path / "fast")
    best = codec.pack(tmp_path / "source", tmp_path / "max", effort="max")
    codec.unpack(tmp_path / "max", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == content
    assert best.packed_size <= fast.packed_size + 8


def test_it_learns_what_a_static_model_does_not(tmp_path):
    """Density that changes from row to row and from column to column."""
    random = np.random.default_rng(0)
    dense = np.outer(random.random(150), random.random(200)) ** 2
    values = np.where(random.random(dense.shape) < dense, random.integers(1, 8, dense.shape), 0)
    symbols = values.astype(np.uint8)
    data = mixing.encode(symbols, Alphabet(8, 0))
    assert 8 * len(data) < 0.9 * groupings.entropy(np.bincount(symbols.ravel())[None])


@pytest.mark.parametrize("name", ["mixed.stz", "deep.stz"])
def test_plain_python_reads_the_same(name):
    """Where numba is not installed the same functions run as they stand."""
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "from sentei import codec\n"
        f"codec.verify({str(GOLDEN / 'v1' / name)!r})\n"
        "from sentei.codec import kernel\n"
        "assert not kernel.COMPILED"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_numbers_almost_without_order_keep_the_fast_coder(tmp_path):
    """A hair's breadth is not worth ten times the time to unpack."""
    density = 0.4 + 0.03 * np.linspace(-1, 1, 200)[:, None]
    values = np.random.default_rng(2).geometric(density, (200, 60)).astype(np.int8)
    (tmp_path / "source").write_bytes(safetensors({"a": values}))
    codec.pack(tmp_path / "source", tmp_path / "fast")
    codec.pack(tmp_path / "source", tmp_path / "max", effort="max")
    assert (tmp_path / "max").read_bytes() == (tmp_path / "fast").read_bytes()
