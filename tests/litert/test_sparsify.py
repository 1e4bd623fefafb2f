"""Weights stored sparse: the same bits from the runtime, fewer bytes in the file."""

import flatfiles
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

import sentei
from sentei.core.errors import ExportMismatch, SenteiError, UnsupportedModel
from sentei.litert import flatbuffer, flatwriter, sparse, sparse_file
from sentei.litert.runtime import Runner
from sentei.litert.sparse_layout import encode, smallest
from sentei.litert.sparsify import sparsify

flatfiles.TYPES.setdefault("float16", schema.TensorType.FLOAT16)


def pruned(shape, share=0.8, dtype="float32", seed=0):
    random = np.random.default_rng(seed)
    values = random.integers(-90, 90, shape) * (random.random(shape) >= share)
    return values.astype(dtype)


# --- layouts -------------------------------------------------------------------------------------


@given(data=st.data())
def test_what_is_encoded_expands_to_the_same_bits(data):
    rank = data.draw(st.integers(2, 4))
    block = data.draw(st.sampled_from([(1, 1), (1, 4), (2, 1), (4, 2), (3, 3)]))
    outer = data.draw(st.lists(st.integers(1, 4), min_size=rank, max_size=rank))
    shape = (outer[0] * block[0], *outer[1:-1], outer[-1] * block[1])
    values = st.sampled_from([0.0, 0.0, 0.0, 1.5, -2.0, -0.0])
    size = int(np.prod(shape))
    flat = data.draw(st.lists(values, min_size=size, max_size=size))
    dense = np.array(flat, np.float32).reshape(shape)
    stored, layout = encode(dense, block)
    assert sparse.check(layout, shape) == stored.size
    assert sparse.expand(stored, shape, layout).tobytes() == dense.tobytes()


def test_values_that_stand_alone_are_stored_alone_and_blocks_as_blocks():
    scattered, layout = smallest(pruned((64, 64), 0.9))
    assert layout.block_shape() == ()
    assert scattered.size == np.count_nonzero(scattered)
    blocks = np.repeat(np.repeat(pruned((16, 1, 1, 16), 0.9), 4, 0), 8, 3)
    stored, layout = smallest(blocks)
    assert (layout.blocked, layout.block_shape()) == ((0, 3), (4, 8))
    assert layout.nbytes < encode(blocks)[1].nbytes / 20
    np.testing.assert_array_equal(sparse.expand(stored, blocks.shape, layout), blocks)


@pytest.mark.parametrize(
    ("columns", "stored", "kinds"),
    [
        (256, 255, (np.uint8, np.uint8)),
        (257, 256, (np.uint16, np.uint16)),
        (65_536, 65_535, (np.uint16, np.uint16)),
        (65_537, 65_536, (np.int32, np.int32)),
        (65_537, 3, (np.uint8, np.int32)),
    ],
)
def test_indices_are_as_narrow_as_they_can_be(columns, stored, kinds):
    dense = np.zeros((2, columns), np.float32)
    dense[0, -stored:] = 1.0
    _, layout = encode(dense)
    last = layout.levels[-1]
    assert (last.segments.dtype, last.indices.dtype) == kinds
    assert last.indices.max() == columns - 1


# --- operators -----------------------------------------------------------------------------------

DTYPES = ("float32", "float16", "int8")


class File(flatfiles.Writer):
    """One operator with a pruned weight, in any of the types."""

    def __init__(self, dtype, weight):
        super().__init__()
        self.dtype, self.size = dtype, 0
        self.activation = "int8" if dtype == "int8" else "float32"
        self.weight = self.constant("w", weight)

    def plain(self, name, shape):
        grid = (0.5, 1, 0) if self.dtype == "int8" else None
        return self.tensor(name, shape, self.activation, grid=grid)

    def constant(self, name, values):
        grid = (0.25, 0, 0) if self.dtype == "int8" else None
        index = self.tensor(name, values.shape, self.dtype, values.astype(self.dtype), grid)
        if self.dtype != "float16":
            return index
        wide = self.tensor(name + "32", values.shape)
        self.operator("DEQUANTIZE", [index], [wide], schema.DequantizeOptionsT())
        return wide

    def bias(self, size):
        if self.dtype == "int8":
            return self.tensor("b", (size,), "int32", np.arange(size, dtype="int32"), (0.125, 0, 0))
        return self.tensor("b", (size,), data=np.arange(size, dtype=np.float32))

    def done(self, x, y):
        return self.finish([x], [y], (["x"], ["y"]))


def convolution(dtype, kernel=(1, 1), weight=None):
    weight = pruned((24, *kernel, 32)) if weight is None else weight
    file = File(dtype, weight)
    x, y = file.plain("x", (1, 6, 6, weight.shape[3])), file.plain("y", (1, 6, 6, weight.shape[0]))
    options = schema.Conv2DOptionsT(padding=schema.Padding.SAME, strideH=1, strideW=1)
    file.operator("CONV_2D", [x, file.weight, file.bias(weight.shape[0])], [y], options)
    return file.done(x, y)


def depthwise(dtype):
    file = File(dtype, pruned((1, 3, 3, 64)))
    x, y = file.plain("x", (1, 6, 6, 64)), file.plain("y", (1, 6, 6, 64))
    options = schema.DepthwiseConv2DOptionsT(
        padding=schema.Padding.SAME, strideH=1, strideW=1, depthMultiplier=1
    )
    file.operator("DEPTHWISE_CONV_2D", [x, file.weight, file.bias(64)], [y], options)
    return file.done(x, y)


def dense(dtype, weight=None):
    weight = pruned((24, 64)) if weight is None else weight
    file = File(dtype, weight)
    x, y = file.plain("x", (2, weight.shape[1])), file.plain("y", (2, weight.shape[0]))
    reads = [x, file.weight, file.bias(weight.shape[0])]
    file.operator("FULLY_CONNECTED", reads, [y], schema.FullyConnectedOptionsT())
    return file.done(x, y)


def transposed(dtype):
    file = File(dtype, pruned((24, 3, 3, 16)))
    x, y = file.plain("x", (1, 4, 4, 16)), file.plain("y", (1, 8, 8, 24))
    shape = file.tensor("shape", (4,), "int32", np.array([1, 8, 8, 24], np.int32))
    options = schema.TransposeConvOptionsT(padding=schema.Padding.SAME, strideH=2, strideW=2)
    file.operator("TRANSPOSE_CONV", [shape, file.weight, x, file.bias(24)], [y], options)
    return file.done(x, y)


def lookup(dtype):
    file = File(dtype, pruned((40, 32)))
    file.tensors[file.weight].quantization = file.tensors[file.weight].quantization
    x = file.tensor("x", (3,), "int32")
    y = file.tensor("y", (3, 32), file.activation, grid=(0.25, 0, 0) if dtype == "int8" else None)
    file.operator("GATHER", [file.weight, x], [y], schema.GatherOptionsT())
    return file.done(x, y)


def product(dtype):
    file = File(dtype, pruned((2, 32, 24)))
    x, y = file.plain("x", (2, 3, 32)), file.plain("y", (2, 3, 24))
    file.operator("BATCH_MATMUL", [x, file.weight], [y], schema.BatchMatMulOptionsT())
    return file.done(x, y)


OPERATORS = {
    "convolution": convolution,
    "convolution 3x3": lambda dtype: convolution(dtype, (3, 3)),
    "depthwise": depthwise,
    "dense": dense,
    "transposed": transposed,
    "lookup": lookup,
    "product": product,
}


def require_same_bits(content, changed):
    """Both files, run with XNNPACK and without, on the same inputs."""
    random = np.random.default_rng(3)
    for kernels in ("xnnpack", "builtin", "reference"):
        try:
            runner = Runner(content, kernels=kernels)
        except UnsupportedModel:
            continue  # some kernels have no such operator in this type, pruned or not
        inputs = {name: port.draw(random) for name, port in runner.inputs.items()}
        expected = runner(inputs, raw=True)
        found = Runner(changed, kernels=kernels)(inputs, raw=True)
        for name, value in expected.items():
            assert value.any(), f"{name} is zero: the case proves nothing"
            assert found[name].tobytes() == value.tobytes(), (kernels, name)


def stored_sparse(content):
    return [t for t in flatbuffer.parse(content).tensors() if t.sparsity is not None]


REFUSED = {("dense", "int8"), ("lookup", "float16")}


@pytest.mark.parametrize(
    ("name", "dtype"), [(n, d) for n in OPERATORS for d in DTYPES if (n, d) not in REFUSED]
)
def test_every_operator_computes_the_same_bits(name, dtype):
    content = OPERATORS[name](dtype)
    changed, stored = sparsify(content, True)
    (tensor,) = stored_sparse(changed)
    assert (tensor.dtype, stored.weights) == (dtype, 1)
    original = next(t for t in flatbuffer.parse(content).tensors() if t.name == "w")
    np.testing.assert_array_equal(tensor.data(), original.data())
    names = [op.name for op in flatbuffer.parse(changed).subgraphs[0].operators]
    # XNNPACK unpacks a float16 weight in this order only.
    assert names[0] == "DENSIFY"
    require_same_bits(content, changed)


def with_empty_row():
    weight = pruned((24, 64))
    weight[[0, 7, 23]] = 0.0
    return dense("float32", weight)


def nothing_but_bias(make, shape):
    return lambda: make("float32", weight=np.zeros(shape, np.float32))


EDGES = {
    "empty rows": with_empty_row,
    "all zero, rank 2": nothing_but_bias(dense, (8, 16)),
    "all zero, rank 4": nothing_but_bias(convolution, (8, 1, 1, 16)),
    "65,536 columns": lambda: dense("float32", pruned((2, 65_536), 0.9)),
    "65,537 columns": lambda: dense("float32", pruned((3, 65_537), 0.9)),
    "over 65,535 values": lambda: dense("float32", pruned((300, 1024), 0.7)),
    "one column": lambda: dense("float32", pruned((64, 1), 0.5)),
    "one row": lambda: convolution("float32", weight=pruned((1, 1, 1, 64), 0.5)),
    "blocks": lambda: dense("float32", np.repeat(pruned((24, 16)), 4, axis=1)),
    "square blocks": lambda: convolution(
        "float16", weight=np.repeat(np.repeat(pruned((8, 1, 1, 16)), 4, 0), 4, 3)
    ),
    "int8 blocks": lambda: convolution("int8", weight=np.repeat(pruned((24, 1, 1, 8)), 4, axis=3)),
}


@pytest.mark.parametrize("name", EDGES)
def test_edges_compute_the_same_bits(name):
    content = EDGES[name]()
    changed, _ = sparsify(content, True)
    assert len(stored_sparse(changed)) == 1
    assert bool(stored_sparse(changed)[0].sparsity.blocked) == ("blocks" in name)
    require_same_bits(content, changed)


def test_constants_are_aligned_as_the_schema_asks():
    changed, _ = sparsify(convolution("float16", (3, 3)), True)
    model = schema.Model.GetRootAs(changed, 0)
    start = np.frombuffer(changed, np.uint8).ctypes.data
    places = [
        model.Buffers(i).DataAsNumpy().ctypes.data - start
        for i in range(model.BuffersLength())
        if model.Buffers(i).DataLength()
    ]
    assert len(places) == 2
    assert [place % 16 for place in places] == [0, 0]


# --- weights with several readers ----------------------------------------------------------------


def two_readers(second="FULLY_CONNECTED", apart=False):
    """A square weight read by two operators; `apart`: through two tensors with one buffer."""
    weight = pruned((48, 48))
    file = File("float32", weight)
    other = file.weight
    if apart:
        other = file.tensor("again", weight.shape)
        file.tensors[other].buffer = file.tensors[file.weight].buffer
    x, hidden, y = (file.plain(name, (48, 48)) for name in ("x", "hidden", "y"))
    options = schema.FullyConnectedOptionsT()
    file.operator("FULLY_CONNECTED", [x, file.weight, -1], [hidden], options)
    options = schema.AddOptionsT() if second == "ADD" else schema.FullyConnectedOptionsT()
    reads = [hidden, other] if second == "ADD" else [hidden, other, -1]
    file.operator(second, reads, [y], options)
    return file.done(x, y)


@pytest.mark.parametrize("apart", [False, True])
def test_a_weight_with_two_readers_is_stored_once(apart):
    content = two_readers(apart=apart)
    changed, stored = sparsify(content, True)
    assert stored.weights == 1
    assert flatbuffer.parse(changed).census()["DENSIFY"] == 1
    assert len(changed) < len(content)
    require_same_bits(content, changed)


@pytest.mark.parametrize("apart", [False, True])
def test_a_weight_that_one_reader_wants_as_a_constant_stays_dense(apart):
    content = two_readers("ADD", apart)
    assert sparsify(content, "auto") is None
    with pytest.raises(SenteiError, match="no weight can be stored sparse"):
        sparsify(content, True)


def test_bytes_read_in_two_shapes_stay_dense():
    weight = pruned((48, 48))
    file = File("float32", weight)
    other = file.tensor("again", (96, 24))
    file.tensors[other].buffer = file.tensors[file.weight].buffer
    x, z = file.plain("x", (48, 48)), file.plain("z", (48, 24))
    y, v = file.plain("y", (48, 48)), file.plain("v", (48, 96))
    file.operator("FULLY_CONNECTED", [x, file.weight, -1], [y], schema.FullyConnectedOptionsT())
    file.operator("FULLY_CONNECTED", [z, other, -1], [v], schema.FullyConnectedOptionsT())
    content = file.finish([x, z], [y, v], (["x", "z"], ["y", "v"]))
    assert sparsify(content, "auto") is None


# --- when ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "dtype", "auto", "forced"),
    [
        (pruned((64, 64), 0.8), "float32", True, True),
        (pruned((64, 64), 0.8), "float16", True, True),
        (pruned((64, 64), 0.1), "float32", False, True),
        (pruned((8, 8), 0.8), "float32", False, True),
    ],
)
def test_auto_stores_sparse_what_is_smaller_so(weight, dtype, auto, forced):
    content = dense(dtype, weight)
    assert (sparsify(content, "auto") is not None) == auto
    assert (sparsify(content, True) is not None) == forced
    assert sparsify(content, False) is None
    if auto:
        assert len(sparsify(content, "auto")[0]) < len(content)


def test_int8_weights_are_stored_sparse_only_when_asked_for():
    content = convolution("int8", weight=pruned((64, 1, 1, 64)))
    assert sparsify(content, "auto") is None
    assert len(sparsify(content, True)[0]) < len(content)


@pytest.mark.parametrize(("name", "dtype"), sorted(REFUSED))
def test_what_the_runtime_cannot_run_stays_dense(name, dtype):
    """When this fails because the runtime has learnt it, the rows of `_REFUSED` may go."""
    with pytest.raises(SenteiError, match="no weight can be stored sparse"):
        sparsify(OPERATORS[name](dtype), True)


def test_weights_without_zeros_are_left_alone_and_that_is_said_when_sparse_is_wanted():
    content = dense("float32", np.ones((16, 16), np.float32))
    assert sparsify(content, "auto") is None
    with pytest.raises(SenteiError, match=r"no weight can be stored sparse.*Prune the model first"):
        sparsify(content, True)


def test_a_model_too_large_for_a_flatbuffer_is_refused(monkeypatch):
    monkeypatch.setattr(flatwriter, "LARGEST", 100)
    with pytest.raises(UnsupportedModel, match="does not fit into one flatbuffer"):
        sparsify(dense("float32"), True)


def test_other_bits_are_a_mismatch():
    one, other = dense("float32"), dense("float32", pruned((24, 64), seed=1))
    sparse_file.require_identical(one, one)
    with pytest.raises(ExportMismatch, match=r"another output 'y' .builtin kernels"):
        sparse_file.require_identical(one, other)


# --- through the public door ---------------------------------------------------------------------


def small_model():
    import keras
    from keras import layers as kl

    model = keras.Sequential(
        [
            keras.Input((12, 12, 3), name="image"),
            kl.Conv2D(32, 3, padding="same", activation="relu", name="first"),
            kl.Conv2D(64, 1, name="second"),
            kl.GlobalAveragePooling2D(),
            kl.Dense(64, name="head"),
        ]
    )
    for name in ("first", "second", "head"):
        kernel = model.get_layer(name).kernel
        kernel.assign(pruned(kernel.shape, 0.85) / 50)
    return model


def test_export_stores_pruned_weights_sparse_and_says_so(tmp_path):
    model = small_model()
    files = {s: tmp_path / f"{s}.tflite" for s in ("auto", True, False)}
    reports = {s: sentei.export(model, path, sparse=s) for s, path in files.items()}
    assert reports["auto"].sparse.weights == reports[True].sparse.weights == 3
    assert reports[False].sparse is None
    assert reports["auto"].bytes < 0.5 * reports[False].bytes
    assert reports["auto"].bytes == files["auto"].stat().st_size
    assert "3 weights" in str(reports["auto"])
    assert reports["auto"].to_dict()["sparse"]["weights"] == 3
    require_same_bits(files[False].read_bytes(), files["auto"].read_bytes())
    tensors = {s: sentei.inspect(files[s]).tensors for s in ("auto", False)}
    zeros = {s: sorted(t.zeros for t in found if t.size > 64 and t.zeros is not None)
             for s, found in tensors.items()}  # fmt: skip
    assert zeros["auto"] == zeros[False]
    assert sum(t.sparsity is not None for t in tensors["auto"]) == 3


def test_export_refuses_another_word_for_sparse(tmp_path):
    with pytest.raises(SenteiError, match=r"`sparse` must be 'auto'.*Received: sparse='yes'"):
        sentei.export(small_model(), tmp_path / "m.tflite", sparse="yes")


@pytest.mark.slow
@pytest.mark.parametrize("only", [None, 1])
def test_a_mobilenet_with_80_percent_zeros_is_at_most_58_percent(tmp_path, only):
    """The bar of the issue, with all kernels pruned and with the 1x1 convolutions alone."""
    import keras

    model = keras.applications.MobileNetV2(weights=None)
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if isinstance(layer, keras.layers.DepthwiseConv2D) or kernel is None:
            continue
        if only is None or getattr(layer, "kernel_size", None) == (1, 1):
            values = keras.ops.convert_to_numpy(kernel)
            limit = np.quantile(np.abs(values), 0.8)
            kernel.assign(np.where(np.abs(values) < limit, 0.0, values))
    sizes = {
        s: sentei.export(model, tmp_path / f"{s}.tflite", sparse=s).bytes for s in ("auto", False)
    }
    assert sizes["auto"] <= 0.58 * sizes[False]
    require_same_bits(
        (tmp_path / "False.tflite").read_bytes(), (tmp_path / "auto.tflite").read_bytes()
    )


def test_float16_weights_are_stored_sparse_after_they_are_halved(tmp_path):
    model = small_model()
    reports = {
        s: sentei.export(model, tmp_path / f"{s}.tflite", quantize="float16", sparse=s)
        for s in ("auto", False)
    }
    assert reports["auto"].sparse.weights == 3
    assert {t.dtype for t in stored_sparse((tmp_path / "auto.tflite").read_bytes())} == {"float16"}
    require_same_bits(
        (tmp_path / "False.tflite").read_bytes(), (tmp_path / "auto.tflite").read_bytes()
    )


def test_weights_of_a_dynamic_range_file_cannot_be_sparse(tmp_path):
    with pytest.raises(SenteiError, match="no weight can be stored sparse"):
        sentei.export(small_model(), tmp_path / "m.tflite", quantize="dynamic", sparse=True)
    assert not list(tmp_path.iterdir())
