"""Reading `.tflite` files: what is in them, and that damage is always one clear error."""

import flatfiles
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import given
from hypothesis import strategies as st

from sentei.core.errors import CorruptFile
from sentei.litert import flatbuffer


def _only(model, name):
    (found,) = [tensor for tensor in model.tensors() if tensor.name == name]
    return found


def test_load_gives_the_graph_as_it_was_written(tmp_path):
    path = tmp_path / "two.tflite"
    path.write_bytes(flatfiles.two_inputs())
    model = flatbuffer.load(path)
    assert model.size == path.stat().st_size
    assert model.census() == {"SUB": 1, "GATHER": 1}
    assert model.dtype_census() == {"float32": 5, "int32": 1}
    (graph,) = model.subgraphs
    names = [graph.tensors[index].name for index in graph.inputs]
    assert names == ["b", "a", "ids"]
    subtract, gather = graph.operators
    assert [graph.tensors[i].name for i in subtract.inputs] == ["a", "b"]
    assert [graph.tensors[i].name for i in gather.inputs] == ["table", "ids"]
    assert isinstance(subtract.options, schema.SubOptionsT)
    (signature,) = model.signatures
    assert signature.key == "serving_default"
    assert {name: graph.tensors[i].name for name, i in signature.inputs.items()} == {
        "second": "b",
        "first": "a",
        "ids": "ids",
    }
    np.testing.assert_array_equal(_only(model, "table").data(), np.arange(10.0).reshape(5, 2))
    assert _only(model, "a").data() is None


def test_shapes_tell_what_is_open():
    x = _only(flatbuffer.parse(flatfiles.dense(open_batch=True)), "x")
    assert x.shape == (1, 4)
    assert x.shape_signature == (-1, 4)


def test_quantization_is_per_channel_along_its_axis():
    model = flatbuffer.parse(flatfiles.dense_int8())
    kernel = _only(model, "kernel")
    assert kernel.dtype == "int8"
    assert kernel.quantization.axis == 0
    np.testing.assert_array_equal(kernel.quantization.scale, [flatfiles.KERNEL_SCALE] * 3)
    np.testing.assert_array_equal(kernel.quantization.zero_point, [0, 0, 0])
    real = kernel.data() * kernel.quantization.scale[:, None]
    np.testing.assert_array_equal(real, flatfiles.KERNEL)
    x = _only(model, "x").quantization
    assert (x.scale.tolist(), x.zero_point.tolist()) == ([0.25], [3])


def test_sparse_tensor_is_expanded():
    kernel = _only(flatbuffer.parse(flatfiles.dense_sparse()), "kernel")
    assert kernel.nbytes == 4 * np.count_nonzero(flatfiles.KERNEL)
    # One byte for each of 4 row segments and 4 column indices.
    assert kernel.stored_bytes == kernel.nbytes + 8
    assert str(kernel.sparsity) == "dense, CSR"
    np.testing.assert_array_equal(kernel.data(), flatfiles.KERNEL)
    np.testing.assert_array_equal(kernel.values(), flatfiles.KERNEL[flatfiles.KERNEL != 0])


@pytest.mark.parametrize("shape", [(2, 4), (3, 3), (1,)])
def test_int4_is_unpacked_low_nibble_first(shape):
    integers = np.resize([1, -2, 7, -8, 0, 3], shape).astype(np.int8)
    flat = np.pad(integers.ravel(), (0, integers.size % 2)) & 0xF
    packed = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
    writer = flatfiles.Writer()
    index = writer.tensor("w", shape, "int4", packed)
    model = flatbuffer.parse(writer.finish([], [index]))
    np.testing.assert_array_equal(_only(model, "w").data(), integers)


def test_buffer_behind_the_flatbuffer_is_found():
    """Files over 2 GB keep their constants after the flatbuffer, by offset and size."""
    writer = flatfiles.Writer()
    writer.buffers.append(schema.BufferT(offset=2, size=12))
    index = writer.tensor("w", (3,))
    writer.tensors[0].buffer = 1
    short = writer.finish([], [index])
    start = len(short)
    writer.buffers[1] = schema.BufferT(offset=start, size=12)
    content = writer.finish([], [index]) + np.float32([1, 2, 3]).tobytes()
    assert len(content) == start + 12
    np.testing.assert_array_equal(_only(flatbuffer.parse(content), "w").data(), [1, 2, 3])
    with pytest.raises(CorruptFile, match=f"buffer 1 ends at byte {start + 12} of {start + 11}"):
        flatbuffer.parse(content[:-1])


def _write(tmp_path, content):
    path = tmp_path / "given.tflite"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "absent.tflite", r"absent\.tflite: no such file"),
        (lambda folder: folder, r"is a directory\. Give the path of a file"),
        (lambda folder: _write(folder, b""), r"given\.tflite is empty"),
        (lambda folder: _write(folder, b"hello, world\n"), r"not a \.tflite file.*'TFL3'"),
        (lambda folder: _write(folder, b"\0" * 500), r"not a \.tflite file.*'TFL3'"),
        (lambda folder: _write(folder, flatfiles.dense()[:300]), r"damaged or truncated"),
        (lambda folder: _write(folder, b"\x1c\0\0\0TFL3"), r"damaged or truncated"),
    ],
    ids=["missing", "directory", "empty", "text", "zeros", "truncated", "only a header"],
)
def test_what_is_no_file_of_ours_is_named(tmp_path, make, message):
    with pytest.raises(CorruptFile, match=message):
        flatbuffer.load(make(tmp_path))


def _two_operators(**changes):
    """A file whose one tensor or operator was given an impossible field."""
    writer = flatfiles.Writer()
    x = writer.tensor("x", (2, 2))
    w = writer.tensor("w", (2, 2), data=np.eye(2, dtype=np.float32))
    y = writer.tensor("y", (2, 2))
    writer.operator("ADD", [x, w], [y], schema.AddOptionsT())
    for name, value in changes.items():
        place, _, attribute = name.partition("__")
        setattr(
            {"tensor": writer.tensors[w], "operator": writer.operators[0]}[place], attribute, value
        )
    return writer, [x], [y]


def _scales(scale, axis=0, zero_point=None):
    return schema.QuantizationParametersT(
        scale=scale, zeroPoint=zero_point or [0] * len(scale), quantizedDimension=axis
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tensor__shape": [2, 3]}, r"'w' of shape \(2, 3\) and type float32 has 16 bytes, not 24"),
        ({"tensor__shape": [-2, 2]}, r"'w' has the negative shape \(-2, 2\)"),
        ({"tensor__type": 99}, r"'w' has the unknown type 99"),
        ({"tensor__buffer": 7}, r"'w' has buffer 7 of 2"),
        ({"tensor__name": b"\xff"}, r"the name b'\\xff' is not UTF-8"),
        ({"tensor__quantization": _scales([1.0, 1.0, 1.0])}, r"3 scales along axis 0"),
        ({"tensor__quantization": _scales([1.0, 1.0], axis=2)}, r"2 scales along axis 2"),
        (
            {"tensor__quantization": _scales([1.0, 1.0], zero_point=[0, 0, 0])},
            r"2 scales and 3 zero",
        ),
        ({"tensor__quantization": _scales([float("nan")])}, r"'w' has a scale that is no number"),
        ({"operator__inputs": [0, 9]}, r"refers to tensor 9 of 3"),
        ({"operator__inputs": [-2, 1]}, r"refers to tensor -2 of 3"),
        ({"operator__outputs": [3]}, r"refers to tensor 3 of 3"),
        ({"operator__opcodeIndex": 5}, r"an operator has the code 5 of 1"),
    ],
)
def test_impossible_fields_are_named(changes, message):
    writer, inputs, outputs = _two_operators(**changes)
    with pytest.raises(CorruptFile, match=f"the model is a damaged.*{message}"):
        flatbuffer.parse(writer.finish(inputs, outputs))


@pytest.mark.parametrize(
    ("inputs", "outputs", "signature", "message"),
    [
        ([8], [2], None, "refers to tensor 8 of 3"),
        ([0], [2], (["x"], ["y"]), None),
        ([-1], [2], None, "refers to tensor -1 of 3"),
    ],
)
def test_graph_ends_must_exist(inputs, outputs, signature, message):
    content = _two_operators()[0].finish(inputs, outputs, signature)
    if message is None:
        assert flatbuffer.parse(content).signatures[0].inputs == {"x": 0}
    else:
        with pytest.raises(CorruptFile, match=message):
            flatbuffer.parse(content)


def test_signature_must_name_the_graphs_own_ends():
    writer, inputs, outputs = _two_operators()
    content = writer.finish(inputs, outputs, (["only"], ["y"]))
    model = schema.ModelT.InitFromPackedBuf(content)
    model.signatureDefs[0].inputs[0].tensorIndex = 1
    with pytest.raises(CorruptFile, match="gives its input 'only' a tensor that is none"):
        flatbuffer.parse(flatfiles.pack(model))


def test_model_without_a_graph_is_refused():
    model = schema.ModelT(version=3, buffers=[schema.BufferT()], operatorCodes=[])
    with pytest.raises(CorruptFile, match="it holds no graph"):
        flatbuffer.parse(flatfiles.pack(model))


def _read_or_refuse(content):
    """Whatever the bytes: either a model whose every array can be read, or our own error."""
    try:
        model = flatbuffer.parse(content)
        for tensor in model.tensors():
            tensor.data()
    except CorruptFile as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("name", flatfiles.FILES)
def test_every_truncation_is_refused(name):
    content = flatfiles.FILES[name]()
    for length in range(1, len(content)):
        with pytest.raises(CorruptFile):
            flatbuffer.parse(content[:length])


@pytest.mark.parametrize("name", flatfiles.FILES)
def test_every_single_byte_may_lie(name):
    content = flatfiles.FILES[name]()
    for place in range(8, len(content)):
        for value in (0x00, 0xFF):
            _read_or_refuse(content[:place] + bytes([value]) + content[place + 1 :])


@given(
    name=st.sampled_from(sorted(flatfiles.FILES)),
    changes=st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=12),
)
def test_many_bytes_may_lie(name, changes):
    content = bytearray(flatfiles.FILES[name]())
    for place, value in changes:
        content[place % len(content)] = value
    _read_or_refuse(bytes(content))


@given(st.binary(min_size=1, max_size=400))
def test_noise_behind_the_mark_is_refused(noise):
    _read_or_refuse(noise[:4].ljust(4, b"\0") + b"TFL3" + noise)
