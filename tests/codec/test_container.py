"""Packing and unpacking whole files: identity, size, damage."""

import hashlib
import io
import json
import signal
import struct
import zipfile

import codec_samples
import flatbuffers
import flatfiles
import h5py
import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from codec_samples import KINDS, weights
from hypothesis import given
from hypothesis import strategies as st

from sentei import cli, codec
from sentei.codec import container
from sentei.codec.cursor import varint
from sentei.codec.locate import flatbuffer
from sentei.core.errors import CorruptFile, SenteiError


def there_and_back(folder, content, **options):
    """Packs and unpacks bytes; returns the packed bytes and what `pack` said."""
    source, packed, back = (folder / name for name in ("source", "packed", "back"))
    source.write_bytes(content)
    report = codec.pack(source, packed, **options)
    codec.unpack(packed, back)
    assert back.read_bytes() == content
    assert report.packed_size == packed.stat().st_size
    assert report.packed_size <= len(content) * 1.001 + 64
    return packed.read_bytes(), report


def keras_files(folder):
    model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(32, 3)])
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return [(folder / name).read_bytes() for name in ("model.keras", "model.weights.h5")]


def zipped(*members, method=zipfile.ZIP_DEFLATED):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for index, member in enumerate(members):
            archive.writestr(f"{index}.h5", member)
    return file.getvalue()


@pytest.mark.parametrize("name", flatfiles.FILES)
def test_tflite_files_come_back(tmp_path, name):
    _, report = there_and_back(tmp_path, flatfiles.FILES[name]())
    assert report.kind == "tflite"


def test_keras_files_come_back_with_their_tensors_coded(tmp_path):
    archive, stored = keras_files(tmp_path)
    for content, kind in ((archive, "zip"), (stored, "hdf5")):
        packed, report = there_and_back(tmp_path, content)
        assert (report.kind, report.tensors) == (kind, 1)  # the kernel; the bias is all zeros
        assert len(packed) < len(content) - 0.05 * 3 * 3 * 3 * 32 * 4  # its exponents shrink
    _, report = there_and_back(tmp_path, zipped(stored))
    assert (report.kind, report.tensors) == ("zip", 0)


def headed(*shape, end="400"):
    """A `.safetensors` file with a header as no writer writes it."""
    sizes = ", ".join(shape)
    text = f'{{"a": {{"dtype": "F32", "shape": [{sizes}], "data_offsets": [0, {end}]}}}}'
    return len(text).to_bytes(8, "little") + text.encode() + bytes(range(200)) * 2


@pytest.mark.parametrize(
    "content",
    [
        headed("-10", "-10"),
        headed("-1"),
        headed("NaN"),
        headed("100", end="Infinity"),
        headed("1e400"),
        b"",
        b"\0",
        bytes(1_000_000),
        np.random.default_rng(0).bytes(100_000),
        b"no model at all\n" * 1000,
        container.MAGIC,
        flatfiles.dense()[:300],
        flatfiles.dense()[:20] + b"\xff" * 400,
        b"\x89HDF\r\n\x1a\n" + bytes(500),
        b"PK\x03\x04" + bytes(500),
        (2**40).to_bytes(8, "little") + b"{}",
        codec_samples.safetensors({"a": np.zeros(9, np.int8)})[:-3],
    ],
    ids=lambda content: repr(content[:12]),
)
def test_files_that_are_no_models_come_back(tmp_path, content):
    there_and_back(tmp_path, content)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_weights_comes_back(tmp_path, kind):
    arrays = {str(n): weights(kind, (n,), n) for n in (1, 2, 99, 1000)}
    arrays |= {"kernel": weights(kind, (3, 3, 40, 24)), "matrix": weights(kind, (90, 70))}
    content = codec_samples.safetensors(arrays)
    packed, report = there_and_back(tmp_path, content)
    assert report.kind == "safetensors"
    assert (kind in ("noise", "wild")) == (len(packed) > 0.98 * len(content))


@pytest.mark.parametrize(
    "arrays",
    [
        {"ids": (np.arange(120) * 1000).astype(np.int64), "b": weights("float32", (40,))},
        {"a": weights("int64", (60,)), "b": weights("sparse_16", (3, 3, 8, 20))},
        {"a": weights("float16", (900,)), "b": weights("sparse_float32", (700,))},
    ],
)
def test_more_effort_is_never_longer(tmp_path, arrays):
    content = codec_samples.safetensors(arrays)
    fast, most = (there_and_back(tmp_path, content, effort=effort) for effort in ("fast", "max"))
    assert len(most[0]) <= len(fast[0])


@given(content=st.binary(max_size=2000), cut=st.integers(0, 8))
def test_any_bytes_come_back(tmp_path_factory, content, cut):
    folder = tmp_path_factory.mktemp("any")
    there_and_back(folder, flatfiles.dense_sparse()[: 2**cut] + content)


SMALL = codec_samples.safetensors(
    {"kernel": weights("sparse_int8", (3, 3, 8, 20)), "b": np.ones(3)}
)


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """A small packed file that holds a skeleton and a coded tensor."""
    packed, report = there_and_back(tmp_path_factory.mktemp("small"), SMALL)
    assert report.tensors == 1
    assert len(packed) < 600
    return packed


def refused(folder, damaged):
    """Whether a damaged file is refused, by `verify` and by `unpack`, leaving nothing."""
    path, target = folder / "damaged", folder / "target"
    path.write_bytes(damaged)
    with pytest.raises(CorruptFile, match="damaged is not a sound packed file"):
        codec.verify(path)
    with pytest.raises(CorruptFile, match="damaged is not a sound packed file"):
        codec.unpack(path, target)
    assert sorted(item.name for item in folder.iterdir()) == ["damaged"]


def test_every_flipped_byte_is_noticed(tmp_path, small):
    for place in range(len(small)):
        for flip in (0x01, 0xFE):
            damaged = bytearray(small)
            damaged[place] ^= flip
            refused(tmp_path, bytes(damaged))


def test_every_truncation_and_extension_is_noticed(tmp_path, small):
    for length in range(len(small)):
        refused(tmp_path, small[:length])
    refused(tmp_path, small + b"\0")


def forged(small, change):
    """The file with a changed header body and a checksum that matches it."""
    head = container.header_size(small)
    begin = len(container.MAGIC) + 3
    assert small[begin - 1] == head - begin - container.CHECK  # a length of one byte
    body = change(small[begin : head - container.CHECK])
    start = container.MAGIC + bytes([1, 0]) + varint(len(body)) + body
    return start + container.check(start).to_bytes(4, "little") + small[head:]


SIZE = len(varint(len(SMALL)))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: varint(2**50) + body[SIZE:],
        lambda body: varint(len(SMALL) - 1) + body[SIZE:],
        lambda body: varint(0) + body[SIZE:],
        lambda body: b"\xff" * 9 + body,
        lambda body: body[: SIZE + 32] + varint(2**40) + body[SIZE + 33 :],
        lambda body: body[:-6] + varint(2**45) + body[-5:],
        lambda body: body[:SIZE] + bytes(32) + body[SIZE + 32 :],
        lambda body: body + b"\0",
        lambda body: body[:-1],
    ],
)
def test_lying_headers_are_refused(tmp_path, small, change):
    assert forged(small, bytes) == small
    refused(tmp_path, forged(small, change))


def test_later_versions_and_unknown_features_are_refused_by_name(tmp_path, small):
    path = tmp_path / "later"
    for place, what in ((8, "version 2"), (9, "features 0x4")):
        changed = bytearray(small)
        changed[place] = 2 if place == 8 else 4
        path.write_bytes(changed)
        with pytest.raises(CorruptFile, match=f"is of {what}.*a later sentei can"):
            codec.verify(path)


def test_a_transfer_in_text_mode_is_recognised(tmp_path, small):
    path = tmp_path / "text"
    path.write_bytes(small.replace(b"\r\n", b"\n"))
    with pytest.raises(CorruptFile, match="text mode"):
        codec.verify(path)


def test_a_damaged_file_leaves_what_was_there(tmp_path, small):
    (tmp_path / "packed").write_bytes(small[:-1])
    (tmp_path / "target").write_bytes(b"precious")
    with pytest.raises(CorruptFile):
        codec.unpack(tmp_path / "packed", tmp_path / "target")
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_what_verify_reports(tmp_path, small):
    (tmp_path / "small").write_bytes(small)
    found = codec.verify(tmp_path / "small")
    assert found.sha256 == hashlib.sha256(SMALL).hexdigest()
    assert (found.size, found.packed_size, found.target) == (len(SMALL), len(small), None)


def test_errors_name_the_thing(tmp_path):
    with pytest.raises(CorruptFile, match="no such file"):
        codec.pack(tmp_path / "missing", tmp_path / "out")
    with pytest.raises(CorruptFile, match="is a directory"):
        codec.pack(tmp_path, tmp_path / "out")
    with pytest.raises(SenteiError, match="effort must be one of fast, max, received 'best'"):
        codec.pack(__file__, tmp_path / "out", effort="best")
    assert not list(tmp_path.iterdir())


def test_large_tensors_are_cut_and_progress_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr("sentei.codec.packing._MOST_ELEMENTS", 1000)
    monkeypatch.setattr("sentei.codec.packing._MOST_TOGETHER", 3000)
    monkeypatch.setattr("sentei.codec.unpacking._TOGETHER", 2000)
    arrays = {"rows": weights("sparse_int8", (70, 90)), "flat": weights("float32", (5, 7000))}
    told = []
    content = codec_samples.safetensors(arrays)
    packed, _ = there_and_back(tmp_path, content, progress=lambda *now: told.append(now))
    assert len(container.read_header(packed).pieces) > 7
    assert told == sorted(told)
    assert told[-1] == (len(content), len(content))


def test_chunked_datasets_are_passed_over(tmp_path):
    file = io.BytesIO()
    with h5py.File(file, "w") as store:
        store.create_dataset("a", data=weights("sparse_int8", (90, 90)), chunks=(9, 9))
        store["b"] = weights("sparse_int8", (90, 90))
    assert there_and_back(tmp_path, file.getvalue())[1].tensors == 1


def all_pointing_to_the_same(count):
    """A .tflite of `count` graphs, each of `count` tensors of `count` axes, in 12 `count` bytes."""
    builder = flatbuffers.Builder()

    def vector(place):
        builder.StartVector(4, count, 4)
        for _ in range(count):
            builder.PrependUOffsetTRelative(place)
        return builder.EndVector()

    shape = builder.CreateNumpyVector(np.ones(count, np.int32))
    data = builder.CreateNumpyVector(np.zeros(1, np.uint8))
    schema.BufferStart(builder)
    schema.BufferAddData(builder, data)
    buffers = vector(schema.BufferEnd(builder))
    schema.TensorStart(builder)
    schema.TensorAddShape(builder, shape)
    schema.TensorAddBuffer(builder, 1)
    tensors = vector(schema.TensorEnd(builder))
    schema.SubGraphStart(builder)
    schema.SubGraphAddTensors(builder, tensors)
    graphs = vector(schema.SubGraphEnd(builder))
    schema.ModelStart(builder)
    schema.ModelAddSubgraphs(builder, graphs)
    schema.ModelAddBuffers(builder, buffers)
    builder.Finish(schema.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_tables_shared_to_keep_the_reader_busy_do_not(tmp_path, monkeypatch):
    """Regression: each graph read each tensor, and each tensor all axes: cubic in the size."""
    content, reads = all_pointing_to_the_same(300), []
    unpack = struct.unpack_from
    monkeypatch.setattr(
        "sentei.codec.locate.flatbuffer.struct.unpack_from",
        lambda *arguments: reads.append(1) or unpack(*arguments),
    )
    flatbuffer.find(memoryview(content))
    assert len(reads) < 3 * len(content)
    monkeypatch.undo()
    there_and_back(tmp_path, content)


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").write_bytes(SMALL)

    def run(*words):
        handler = signal.getsignal(signal.SIGTERM)
        status = cli.main(list(words))
        signal.signal(signal.SIGTERM, handler)
        return status, *capsys.readouterr()

    status, out, err = run("pack", "small", "packed", "--json")
    assert (status, err, json.loads(out)["tensors"]) == (0, "", 1)
    assert run("pack", "small", "packed")[2].startswith("sentei: error: packed exists")
    assert run("pack", "small", "packed", "--force", "--effort", "max")[0] == 0
    assert "packed is sound" in run("verify", "packed")[1]
    assert json.loads(run("inspect", "packed", "--json")[1])["tensors"][0]["name"] == "kernel"
    assert "bits each" in run("inspect", "packed")[1]
    assert run("unpack", "packed", "back")[0] == 0
    assert (tmp_path / "back").read_bytes() == SMALL
    for command in (["verify", "small"], ["unpack", "small", "out"]):
        status, out, err = run(*command)
        assert (status, out, err.count("\n")) == (1, "", 1)
        assert err.startswith("sentei: error: small is not a sound packed file")
    assert not (tmp_path / "out").exists()
