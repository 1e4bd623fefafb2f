"""Looking into packed files, and decoding while they arrive."""

import codec_samples
import flatfiles
import ml_dtypes
import numpy as np
import pytest
from codec_samples import weights

from sentei import codec
from sentei.core.errors import CorruptFile, SenteiError

ARRAYS = {
    "kernel": weights("sparse_int8", (3, 3, 20, 30)),
    "small": np.arange(5, dtype=np.int32),
    "floats": weights("float32", (40, 30)),
    "noise": weights("noise", (20, 30)),
}
CONTENT = codec_samples.safetensors(ARRAYS)


@pytest.fixture
def packed(tmp_path):
    (tmp_path / "source").write_bytes(CONTENT)
    codec.pack(tmp_path / "source", tmp_path / "packed")
    return tmp_path / "packed"


def test_tensors_are_listed_and_read_alone(packed):
    with codec.open(packed) as file:
        assert (file.kind, file.size) == ("safetensors", len(CONTENT))
        listed = {item.name: (item.dtype, item.shape, item.size) for item in file.tensors}
        assert listed == {
            name: (array.dtype.name, array.shape, array.nbytes) for name, array in ARRAYS.items()
        }
        for name, array in ARRAYS.items():
            assert file.read(name).dtype == array.dtype
            assert (file.read(name) == array).all()
        packed_sizes = {item.name: item.packed_size for item in file.tensors}
        assert packed_sizes["small"] is packed_sizes["noise"] is None
        assert sum(filter(None, packed_sizes.values())) < file.packed_size
        with pytest.raises(SenteiError, match=r"no tensor 'nothing'.*'kernel'"):
            file.read("nothing")


def test_reading_one_tensor_passes_over_damage_in_another(packed):
    data = bytearray(packed.read_bytes())
    with codec.open(packed) as file:
        data[file._header.pieces[0].coded_offset + 9] ^= 4
    packed.write_bytes(data)
    with codec.open(packed) as file:
        assert (file.read("floats") == ARRAYS["floats"]).all()
        with pytest.raises(CorruptFile, match="packed is not a sound packed file"):
            file.read("kernel")


def test_tensors_cut_into_pieces_are_read_whole(packed, monkeypatch):
    monkeypatch.setattr("sentei.codec.packing._MOST_ELEMENTS", 700)
    codec.pack(packed.with_name("source"), packed)
    with codec.open(packed) as file:
        assert len(file._header.pieces) == 3  # the rows of "floats" are in two
        assert (file.read("floats") == ARRAYS["floats"]).all()


def test_types_that_numpy_lacks(tmp_path):
    values = weights("sparse_int8", (301,)) % 8 - 4
    low = np.append(values, 0).astype(np.int8).view(np.uint8) & 15
    writer = flatfiles.Writer()
    writer.tensor("int4", (301,), "int4", data=low[::2] | low[1::2] << 4)
    (tmp_path / "source").write_bytes(writer.finish([0], [0]))
    codec.pack(tmp_path / "source", tmp_path / "packed")
    with codec.open(tmp_path / "packed") as file:
        assert (file.read("int4") == values).all()
    brain = weights("float32", (300,)).astype(ml_dtypes.bfloat16)
    content = codec_samples.safetensors({"b": brain.view(np.int16)}).replace(b'"I16"', b'"BF16"')
    content = (len(content) - 600 - 8).to_bytes(8, "little") + content[8:]
    (tmp_path / "source").write_bytes(content)
    codec.pack(tmp_path / "source", tmp_path / "packed")
    with codec.open(tmp_path / "packed") as file:
        assert (file.read("b") == brain).all()


def test_tensors_that_are_not_what_they_say_are_read_as_bytes(tmp_path):
    header = '{"a": {"dtype": "F32", "shape": [50], "data_offsets": [0, 198]}}'
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(range(198))
    (tmp_path / "source").write_bytes(content)
    codec.pack(tmp_path / "source", tmp_path / "packed")
    with codec.open(tmp_path / "packed") as file:
        assert bytes(file.read("a")) == bytes(range(198))


@pytest.mark.parametrize("size", [7, 1000, 10**6])
def test_bytes_come_out_as_they_arrive(packed, size):
    data, decoder, out = packed.read_bytes(), codec.Decoder(), []
    for begin in range(0, len(data), size):
        out.append(decoder.feed(data[begin : begin + size]))
    decoder.finish()
    assert b"".join(out) == CONTENT
    if size < 1000:
        half = len(b"".join(out[: 3 * len(out) // 4]))
        assert half > len(CONTENT) // 3  # it did not wait for the end


def test_a_stream_that_is_cut_changed_or_too_long_is_refused(packed):
    data = packed.read_bytes()
    for length in (0, 5, 40, len(data) - 1):
        decoder = codec.Decoder()
        decoder.feed(data[:length])
        with pytest.raises(CorruptFile, match="ends too early"):
            decoder.finish()
    decoder = codec.Decoder()
    decoder.feed(data + b"more")
    with pytest.raises(CorruptFile, match="4 bytes come behind its end"):
        decoder.finish()
    for place in range(0, len(data), 397):
        damaged = bytearray(data)
        damaged[place] ^= 16
        decoder = codec.Decoder()
        with pytest.raises(CorruptFile, match="the download is not a sound packed file"):
            decoder.feed(bytes(damaged))
            decoder.finish()
