"""What `inspect` says about files, against what was put into them."""

import io
import json
import zipfile

import flatfiles
import h5py
import keras
import numpy as np
import pytest

from sentei.core.errors import CorruptFile, UnsupportedModel
from sentei.litert import keras_file
from sentei.litert.inspect import inspect


def _write(tmp_path, name):
    path = tmp_path / f"{name}.tflite"
    path.write_bytes(flatfiles.FILES[name]())
    return path


def _tensors(found):
    return {item.name: item for item in found.tensors}


def test_a_float_file(tmp_path):
    path = _write(tmp_path, "dense")
    found = inspect(path)
    assert (found.file, found.format, found.size) == (str(path), "tflite", 660)
    assert found.operators == {"FULLY_CONNECTED": 1}
    kernel = _tensors(found)["kernel"]
    assert (kernel.role, kernel.shape, kernel.dtype, kernel.bytes) == (
        "constant",
        (3, 4),
        "float32",
        48,
    )
    assert kernel.zeros == np.mean(flatfiles.KERNEL == 0)
    assert kernel.quantization is None
    assert [item.name for item in found.tensors] == ["kernel", "bias", "x", "y"]
    assert [item.role for item in found.tensors] == ["constant", "constant", "input", "output"]
    assert found.parameters == 15
    assert found.weight_bytes == 60
    assert found.zeros == 8 / 15


def test_a_quantized_file(tmp_path):
    tensors = _tensors(inspect(_write(tmp_path, "dense_int8")))
    kernel = tensors["kernel"]
    assert (kernel.dtype, kernel.bytes) == ("int8", 12)
    assert kernel.zeros == np.mean(flatfiles.KERNEL == 0)
    assert str(kernel.quantization) == "3 on axis 0: 0.125…0.125"
    assert str(tensors["x"].quantization) == "0.25, zero 3"
    assert tensors["x"].zeros is None


@pytest.mark.parametrize("axis", [0, 1])
def test_zeros_of_an_asymmetric_constant_are_its_zero_points(tmp_path, axis):
    integers = np.int8([[1, 2], [1, 2], [1, 5]])
    points = [1, 2, 0][: integers.shape[axis]]
    writer = flatfiles.Writer()
    grid = (np.ones(len(points)), points, axis)
    index = writer.tensor("w", integers.shape, "int8", integers, grid)
    (tmp_path / "w.tflite").write_bytes(writer.finish([], [index]))
    (tensor,) = inspect(tmp_path / "w.tflite").tensors
    spread = np.expand_dims(points, 1 - axis)
    assert tensor.zeros == pytest.approx(np.mean(integers == spread))
    assert str(tensor.quantization).endswith(f", zero {min(points)}…{max(points)}")


def test_a_sparse_file(tmp_path):
    found = inspect(_write(tmp_path, "dense_sparse"))
    kernel = _tensors(found)["kernel"]
    assert kernel.sparsity == "dense, CSR"
    assert kernel.zeros == pytest.approx(8 / 12)
    assert kernel.bytes == 4 * 4 + 4 + 4
    assert _tensors(found)["kernel_dense"].role == "activation"
    assert found.zeros == pytest.approx(8 / 15)


def test_shared_bytes_are_counted_once(tmp_path):
    writer = flatfiles.Writer()
    writer.tensor("a", (2,), data=np.float32([0, 1]))
    b = writer.tensor("b", (2,))
    writer.tensors[b].buffer = writer.tensors[0].buffer
    (tmp_path / "w.tflite").write_bytes(writer.finish([], [b]))
    found = inspect(tmp_path / "w.tflite")
    assert sorted(item.bytes for item in found.tensors) == [0, 8]
    assert [item.zeros for item in found.tensors] == [0.5, 0.5]
    assert (found.parameters, found.weight_bytes) == (2, 8)


def test_an_open_shape_is_shown_open(tmp_path):
    assert _tensors(inspect(_write(tmp_path, "dense_open_batch")))["x"].shape == (-1, 4)


@pytest.fixture(scope="module")
def model():
    """A nested model, trained for a step so that there is optimizer state, with some zeros."""
    body = keras.Sequential(
        [keras.Input((4, 4, 2)), keras.layers.Conv2D(3, 2, name="conv"), keras.layers.Flatten()],
        name="body",
    )
    inputs = keras.Input((4, 4, 2))
    hidden = keras.layers.Reshape((9, 3))(body(inputs))
    hidden = keras.layers.Bidirectional(keras.layers.GRU(2), name="both")(hidden)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(hidden))
    model.compile("adam", "mse")
    model.fit(np.ones((2, 4, 4, 2)), np.ones((2, 2)), verbose=0)
    kernel, bias = model.get_layer("head").get_weights()
    kernel[0] = 0
    model.get_layer("head").set_weights([kernel, bias])
    return model


@pytest.fixture
def saved(model, tmp_path):
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    return {"keras": tmp_path / "m.keras", "weights.h5": tmp_path / "m.weights.h5"}


@pytest.mark.parametrize("kind", ["keras", "weights.h5"])
def test_what_keras_saves(saved, model, kind):
    found = inspect(saved[kind])
    assert found.format == kind
    assert found.parameters == model.count_params()
    head = _tensors(found)["head/0"]
    assert (head.role, head.shape, head.dtype, head.bytes) == ("weight", (4, 2), "float32", 32)
    assert head.zeros == 0.25
    conv = _tensors(found)["body/conv/0"]
    assert conv.shape == (2, 2, 2, 3)
    state = sum(np.size(variable) for variable in model.optimizer.variables)
    assert sum(item.size for item in found.tensors if item.role == "optimizer") == state
    assert found.operators == (
        {
            "InputLayer": 2,
            "Conv2D": 1,
            "Flatten": 1,
            "Reshape": 1,
            "Bidirectional": 1,
            "GRU": 2,
            "Dense": 1,
        }
        if kind == "keras"
        else {}
    )


def test_saved_bfloat16_weights_are_read(tmp_path):
    layer = keras.layers.Dense(2, dtype="bfloat16", bias_initializer="ones", name="half")
    keras.Sequential([keras.Input((3,)), layer]).save(tmp_path / "m.keras")
    bias = _tensors(inspect(tmp_path / "m.keras"))["half/1"]
    assert (bias.dtype, bias.bytes, bias.zeros) == ("bfloat16", 4, 0)


@pytest.mark.parametrize("name", ["dense_sparse", "dense_int8"])
def test_prints_a_table_and_gives_plain_data(tmp_path, name):
    found = inspect(_write(tmp_path, name))
    text = str(found)
    assert text.startswith(f"{found.file}: tflite, {found.size} bytes")
    assert "kernel " in text
    assert ("sparse layout" in text) == (name == "dense_sparse")
    assert ("quantization" in text) == (name == "dense_int8")
    assert "total stored" in text
    data = json.loads(json.dumps(found.to_dict()))
    assert data["parameters"] == 15
    assert [item["name"] for item in data["tensors"]][:1] == [found.tensors[0].name]
    assert data["dtypes"] == {item.dtype: data["dtypes"][item.dtype] for item in found.tensors}


def _members(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def _archive(members):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return stream.getvalue()


def _old_format():
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["layer_names"] = ["dense"]
    return stream.getvalue()


def _flip(content, place):
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


DAMAGE = {
    "text": (lambda m, whole: b"just text", "is none of .tflite, .keras and .weights.h5"),
    "empty": (lambda m, whole: b"", "is empty"),
    "truncated": (lambda m, whole: whole[:-200], "is damaged or truncated"),
    "a flipped byte": (lambda m, whole: _flip(whole, len(whole) // 2), "is damaged or truncated"),
    "no weights": (
        lambda m, whole: _archive({"config.json": m["config.json"]}),
        r"not a \.keras archive: it lacks model\.weights\.h5",
    ),
    "another zip": (
        lambda m, whole: _archive({"a.txt": b""}),
        r"lacks config\.json, model\.weights",
    ),
    "broken config": (
        lambda m, whole: _archive({**m, "config.json": b"{"}),
        "is damaged or truncated: Expecting",
    ),
    "config without a model": (
        lambda m, whole: _archive({**m, "config.json": b"[]"}),
        "its config.json describes no model",
    ),
    "broken weights": (
        lambda m, whole: _archive({**m, "model.weights.h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 99}),
        "is damaged or truncated",
    ),
    "old format": (lambda m, whole: _old_format(), "in the old HDF5 format of Keras 2"),
    "truncated weights": (
        lambda m, whole: m["model.weights.h5"][:-500],
        "is damaged or truncated: .*truncated",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_in_one_line(saved, tmp_path, case):
    make, message = DAMAGE[case]
    path = tmp_path / "given"
    path.write_bytes(make(_members(saved["keras"]), saved["keras"].read_bytes()))
    with pytest.raises(CorruptFile, match=message) as caught:
        inspect(path)
    assert str(caught.value).count("given") == 1
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("make", [lambda folder: folder, lambda folder: folder / "absent.keras"])
def test_what_is_no_file_is_named(tmp_path, make):
    with pytest.raises(CorruptFile, match=r"is a directory|no such file"):
        inspect(make(tmp_path))


def test_weights_that_keep_hdf5_busy_for_ever_are_given_up(saved, monkeypatch):
    """A child that never ends stands in for HDF5 in a loop."""
    monkeypatch.setattr(keras_file, "_COMMAND", ("-c", "import time; time.sleep(60)"))
    monkeypatch.setattr(keras_file, "_PATIENCE", 0.5)
    with pytest.raises(CorruptFile, match=r"HDF5 read it for \d+ s in vain"):
        inspect(saved["weights.h5"])


def test_load_model_gives_the_model(saved, model):
    loaded = keras_file.load_model(saved["keras"])
    x = np.ones((1, 4, 4, 2))
    np.testing.assert_array_equal(loaded.predict(x, verbose=0), model.predict(x, verbose=0))


def test_load_model_names_a_class_that_is_not_known(saved, tmp_path):
    members = _members(saved["keras"])
    members["config.json"] = members["config.json"].replace(b'"GRU"', b'"MyCell"')
    (tmp_path / "odd.keras").write_bytes(_archive(members))
    with pytest.raises(
        UnsupportedModel, match=r"cannot load the Functional in .*odd\.keras: ."
    ) as e:
        keras_file.load_model(tmp_path / "odd.keras")
    assert "\n" not in str(e.value)
    assert "MyCell" in str(e.value)
