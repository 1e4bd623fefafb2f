"""Sparse tensors: expanded as the runtime's own DENSIFY does, and refused when they lie."""

import math

import flatfiles
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from sentei.core.errors import CorruptFile
from sentei.litert import flatbuffer, sparse
from sentei.litert.runtime import Runner


def encode(dense, order, blocks, compressed):
    """Writes a dense array level by level, the slow and plain way.

    Args:
        dense: The array.
        order: The walk over its dimensions and block dimensions.
        blocks: Block size by dimension.
        compressed: The levels to store as compressed rows.

    Returns:
        The values and one (size) or (segments, indices) per level.
    """
    rank = dense.ndim
    blocked = sorted(blocks)
    sizes = [dense.shape[d] // blocks.get(d, 1) for d in range(rank)]
    sizes += [blocks[d] for d in blocked]
    outer = dense.reshape([n for d in range(rank) for n in (sizes[d], blocks.get(d, 1))])
    axes = [2 * d for d in range(rank)] + [2 * d + 1 for d in blocked]
    walked = outer.transpose(
        [axes[d] for d in order] + [a for a in range(2 * rank) if a not in axes]
    ).reshape([sizes[d] for d in order])
    paths, levels = [()], []
    for depth, size in enumerate(walked.shape):
        if depth not in compressed:
            levels.append(size)
            paths = [(*path, i) for path in paths for i in range(size)]
            continue
        segments, indices, longer = [0], [], []
        for path in paths:
            present = [i for i in range(size) if np.any(walked[(*path, i)])]
            indices += present
            segments.append(len(indices))
            longer += [(*path, i) for i in present]
        paths = longer
        levels.append((segments, indices))
    return np.array([walked[path] for path in paths], dense.dtype), levels


def to_schema(order, blocks, levels, vector):
    """The same as the schema's object, its index vectors of a given integer type."""
    kind = getattr(schema.SparseIndexVector, vector)
    make = getattr(schema, f"{vector}T")
    metadata = [
        schema.DimensionMetadataT(format=schema.DimensionType.DENSE, denseSize=level)
        if isinstance(level, int)
        else schema.DimensionMetadataT(
            format=schema.DimensionType.SPARSE_CSR,
            arraySegmentsType=kind,
            arraySegments=make(values=level[0]),
            arrayIndicesType=kind,
            arrayIndices=make(values=level[1]),
        )
        for level in levels
    ]
    return schema.SparsityParametersT(
        traversalOrder=list(order), blockMap=sorted(blocks), dimMetadata=metadata
    )


CASES = {
    "columns of each row": ((4, 6), (0, 1), {}, {1}),
    "rows and their columns": ((4, 6), (0, 1), {}, {0, 1}),
    "rows of each column": ((4, 6), (1, 0), {}, {1}),
    "1x4 blocks": ((4, 8), (0, 1, 2), {1: 4}, {1}),
    "2x2 blocks": ((4, 6), (0, 1, 2, 3), {0: 2, 1: 2}, {1}),
    "last of four dimensions": ((3, 1, 1, 5), (0, 1, 2, 3), {}, {3}),
    "nothing compressed": ((3, 4), (0, 1), {}, set()),
}


@pytest.mark.parametrize("vector", ["Uint8Vector", "Uint16Vector", "Int32Vector"])
@pytest.mark.parametrize("case", CASES)
def test_expands_as_the_runtime_does(case, vector):
    shape, order, blocks, compressed = CASES[case]
    random = np.random.default_rng(1)
    dense = (random.integers(-9, 9, shape) * (random.random(shape) < 0.3)).astype(np.float32)
    values, levels = encode(dense, order, blocks, compressed)
    writer = flatfiles.Writer()
    layout = to_schema(order, blocks, levels, vector)
    stored = writer.tensor("w", shape, data=values, sparsity=layout)
    x, kernel, y = (writer.tensor(name, shape) for name in ("x", "w_dense", "y"))
    writer.operator("DENSIFY", [stored], [kernel], schema.DensifyOptionsT())
    writer.operator("ADD", [x, kernel], [y], schema.AddOptionsT())
    content = writer.finish([x], [y])
    found = flatbuffer.parse(content).subgraphs[0].tensors[stored]
    np.testing.assert_array_equal(found.data(), dense)
    ran = Runner(content, kernels="reference")(np.zeros(shape, np.float32))
    np.testing.assert_array_equal(found.data(), ran["y"])


@given(
    outer=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    inner=st.data(),
)
def test_expand_undoes_encode(outer, inner):
    rank = len(outer)
    blocks = inner.draw(st.dictionaries(st.integers(0, rank - 1), st.integers(1, 3)))
    shape = tuple(n * blocks.get(d, 1) for d, n in enumerate(outer))
    depth = rank + len(blocks)
    order = inner.draw(st.permutations(range(depth)))
    compressed = {
        level for level in range(depth) if order[level] < rank and inner.draw(st.booleans())
    }
    elements = st.sampled_from([0, 0, 0, 1, -5])
    size = math.prod(shape)
    flat = inner.draw(st.lists(elements, min_size=size, max_size=size))
    dense = np.reshape(np.array(flat, np.int8), shape)
    values, levels = encode(dense, order, blocks, compressed)
    layout = sparse.Sparsity(
        tuple(order),
        tuple(sorted(blocks)),
        tuple(
            sparse.Level(level)
            if isinstance(level, int)
            else sparse.Level(0, np.array(level[0]), np.array(level[1], np.int64))
            for level in levels
        ),
    )
    np.testing.assert_array_equal(sparse.expand(values, shape, layout), dense)


ROWS = (np.array([0, 1, 2]), np.array([1, 0]))


def _layout(order=(0, 1), blocked=(), levels=((2,), (0, *ROWS))):
    return sparse.Sparsity(order, blocked, tuple(sparse.Level(*level) for level in levels))


@pytest.mark.parametrize(
    ("layout", "stored", "message"),
    [
        (_layout(order=(0,)), 2, "2 levels in an order of 1 for 2 dimensions"),
        (_layout(order=(0, 0)), 2, r"impossible \(0, 0\)"),
        (
            _layout(order=(0, 1, 2), blocked=(5,), levels=((2,), (3,), (1,))),
            6,
            r"dimensions \(5,\)",
        ),
        (_layout(levels=((3,), (0, *ROWS))), 2, "a level of 3 for the shape"),
        (_layout(order=(0, 1, 2), blocked=(1,), levels=((2,), (1,), (2,))), 4, "a level of 1 for"),
        (_layout(levels=((2,), (0, np.array([0, 1]), ROWS[1]))), 2, "inconsistent row segments"),
        (_layout(levels=((2,), (0, np.array([0, 2, 1]), ROWS[1]))), 2, "inconsistent row segments"),
        (_layout(levels=((2,), (0, np.array([1, 1, 2]), ROWS[1]))), 2, "inconsistent row segments"),
        (_layout(levels=((2,), (0, np.array([0, 3, 2]), ROWS[1]))), 2, "inconsistent row segments"),
        (_layout(levels=((2,), (0, ROWS[0], np.array([1, 3])))), 2, "outside a dimension of 3"),
        (_layout(levels=((2,), (0, ROWS[0], np.array([1, -1])))), 2, "outside a dimension of 3"),
        (_layout((0, 1, 2), (1,), ((2,), (1,), (2,))), 4, "a level of 1 for the shape"),
        (_layout((1, 0, 2), (1,), ((0, ROWS[0][:2], ROWS[1][:1]), (2,), (2,))), 4, "a level of 0"),
        (_layout(), 3, "describes 2 values, not 3"),
        (_layout((0, 1, 2), (1,), ((2,), (0, *ROWS), (2,))), 4, "a level of 0 for the shape"),
    ],
)
def test_lying_layouts_are_refused(layout, stored, message):
    with pytest.raises(CorruptFile, match=message):
        sparse.expand(np.ones(stored), (2, 3), layout)


def test_a_file_with_a_lying_layout_is_refused_before_the_runtime_follows_it():
    writer = flatfiles.Writer()
    values, layout = flatfiles.row_sparsity(flatfiles.KERNEL)
    layout.dimMetadata[1].arrayIndices.values[0] = 200
    stored = writer.tensor("w", flatfiles.KERNEL.shape, data=values, sparsity=layout)
    dense = writer.tensor("dense", flatfiles.KERNEL.shape)
    writer.operator("DENSIFY", [stored], [dense], schema.DensifyOptionsT())
    with pytest.raises(
        CorruptFile, match="tensor 'w': its sparsity points outside a dimension of 4"
    ):
        Runner(writer.finish([], [dense]))


def test_a_shape_too_large_to_expand_is_refused():
    layout = _layout(levels=((2**16,), (0, np.zeros(2**16 + 1, np.int64), np.zeros(0, np.int64))))
    with pytest.raises(CorruptFile, match="4294967296 elements are more than"):
        sparse.expand(np.zeros(0), (2**16, 2**16), layout)
