"""Storage modes of a file: what the integers stand for, sizes, errors, and nothing half-written."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import sentei
from sentei import cli
from sentei.core.errors import CorruptFile, ExportError, ExportMismatch, SenteiError
from sentei.litert import flatbuffer, post
from sentei.litert.runtime import Runner

# mode → (type of the stored kernels, largest step between two stored values over the channel's
# magnitude, bytes at most, as a share of the float file)
EXPECTED = {
    "float16": ("float16", 2**-10, 0.62),
    "dynamic": ("int8", 1 / 127, 0.42),
    "weight-only-int8": ("int8", 1 / 127, 0.42),
    "int4": ("int4", 1 / 7, 0.32),
    "int8": ("int8", 1 / 127, 0.45),
    "int16x8": ("int8", 1 / 127, 0.45),
}


@pytest.fixture(scope="module")
def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((16, 16, 3), name="image")
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="conv")(inputs)
    x = layers.Conv2D(64, 3, strides=2, name="second")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(64, name="scores")(x))


@pytest.fixture(scope="module")
def float_file(network, tmp_path_factory):
    path = tmp_path_factory.mktemp("post") / "float.tflite"
    sentei.export(network, path)
    return path


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(1).normal(size=(12, 16, 16, 3)).astype(np.float32)


def stored_kernels(path):
    """The kernels of a file as real numbers, by shape."""
    found = {}
    for tensor in flatbuffer.load(path).tensors():
        data = tensor.data()
        if data is None or len(tensor.shape) < 2:
            continue
        values = data.astype(np.float64)
        if tensor.quantization is not None:
            grid, shape = tensor.quantization, [1] * values.ndim
            shape[grid.axis if len(grid.scale) > 1 else 0] = -1
            values = (values - grid.zero_point.reshape(shape)) * grid.scale.reshape(shape)
        found[tensor.shape] = (tensor.dtype, values)
    return found


@pytest.mark.parametrize("mode", EXPECTED)
def test_stored_kernels_are_the_rounded_ones(mode, float_file, images, tmp_path):
    dtype, step, share = EXPECTED[mode]
    target = tmp_path / "small.tflite"
    report = post.quantize_file(float_file, target, mode, calibration=images)
    assert report.bytes == target.stat().st_size <= share * report.bytes_before
    assert report.samples == 12
    assert 0 < report.relative_error <= report.tolerance
    original = stored_kernels(float_file)
    assert len(original) == 3
    for shape, (_, want) in original.items():
        kind, have = stored_kernels(target)[shape]
        assert kind == dtype
        magnitude = np.abs(want).reshape(shape[0], -1).max(1).reshape(-1, *[1] * (want.ndim - 1))
        assert np.all(np.abs(have - want) <= (0.5 * step + 1e-6) * magnitude)


@pytest.mark.parametrize("mode", post.STORAGE_MODES)
def test_export_in_a_mode_equals_quantizing_the_exported_file(mode, network, float_file, tmp_path):
    report = sentei.export(network, tmp_path / "once.tflite", quantize=mode)
    post.quantize_file(float_file, tmp_path / "twice.tflite", mode)
    assert (tmp_path / "once.tflite").read_bytes() == (tmp_path / "twice.tflite").read_bytes()
    assert report.bytes == (tmp_path / "once.tflite").stat().st_size
    assert 1e-6 < report.verification.relative_error < post.MODES[mode].tolerance


def test_static_int8_leaves_only_integers_and_says_nothing(float_file, images, tmp_path, capfd):
    report = post.quantize_file(float_file, tmp_path / "i.tflite", "int8", calibration=images)
    assert set(report.dtypes) == {"int8", "int32"}
    assert capfd.readouterr().err == ""
    (port,) = Runner(tmp_path / "i.tflite").inputs.values()
    assert port.dtype == np.int8


@pytest.mark.parametrize(
    ("mode", "calibration", "message"),
    [
        ("int7", None, "must be one of"),
        ("int8", None, "give sample inputs"),
        ("int8", np.zeros((4, 5, 5, 3), "f"), "does not fit"),
        ("int8", np.zeros((0, 16, 16, 3), "f"), "empty"),
        ("int8", np.full((2, 16, 16, 3), np.nan, "f"), "NaN"),
        ("int8", {"picture": np.zeros((2, 16, 16, 3), "f")}, "expects the inputs"),
    ],
)
def test_refusals_leave_no_file(mode, calibration, message, float_file, tmp_path):
    with pytest.raises(SenteiError, match=message):
        post.quantize_file(float_file, tmp_path / "no.tflite", mode, calibration=calibration)
    assert not list(tmp_path.iterdir())


def test_a_damaged_or_quantized_source_is_refused(float_file, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(float_file.read_bytes()[:400])
    with pytest.raises(CorruptFile):
        post.quantize_file(tmp_path / "bad.tflite", tmp_path / "no.tflite", "dynamic")
    post.quantize_file(float_file, tmp_path / "once.tflite", "dynamic")
    with pytest.raises(ExportError, match="quantized already"):
        post.quantize_file(tmp_path / "once.tflite", tmp_path / "no.tflite", "dynamic")
    assert not (tmp_path / "no.tflite").exists()


def test_a_file_beyond_the_tolerance_is_not_left(float_file, tmp_path, monkeypatch):
    monkeypatch.setitem(post.MODES, "int4", post.Mode("dynamic_wi4_afp32", "", 1e-6))
    with pytest.raises(ExportMismatch, match="more bits"):
        post.quantize_file(float_file, tmp_path / "no.tflite", "int4")
    assert not list(tmp_path.iterdir())


def test_export_refuses_an_unknown_mode(network, tmp_path):
    with pytest.raises(SenteiError, match="`quantize` must be None or one of"):
        sentei.export(network, tmp_path / "no.tflite", quantize="int3")


def test_command_line(float_file, images, tmp_path, capfd):
    np.savez(tmp_path / "samples.npz", image=images)
    out = tmp_path / "small.tflite"
    words = ["quantize", str(float_file), str(out), "--mode", "int8", "--json"]
    assert cli.main(words) == 1
    assert "give sample inputs" in capfd.readouterr().err
    assert cli.main([*words, "--calibration", str(tmp_path / "samples.npz")]) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["bytes"] == out.stat().st_size
    assert cli.main([*words, "--calibration", str(tmp_path / "samples.npz")]) == 1
    assert "--force" in capfd.readouterr().err
    (tmp_path / "text.npz").write_text("no arrays")
    assert cli.main([*words, "--force", "--calibration", str(tmp_path / "text.npz")]) == 1
    assert capfd.readouterr().err.count("\n") == 1
