"""`sentei.compress`: what it gives back is what it says, measured from outside."""

import json

import keras
import numpy as np
import pytest
from keras import layers

import sentei
from sentei import cli
from sentei.compression.curvature import Statistics, moments_of, rows_of
from sentei.compression.scoring import Judge
from sentei.core.divergence import divergence
from sentei.core.errors import SenteiError
from sentei.litert.runtime import Runner


def network():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((10, 10, 3), name="image")
    x = layers.Conv2D(12, 3, strides=2, padding="same", use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.Conv2D(24, 3, activation="relu")(x)
    x = layers.Dense(5, name="scores")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, x)


def samples(count=300):
    return np.random.default_rng(0).normal(size=(count, 10, 10, 3)).astype("float32")


@pytest.mark.slow
def test_the_file_is_what_it_says(tmp_path):
    model, x = network(), samples()
    before = [weight.copy() for weight in model.get_weights()]
    decisions = model.predict(x, verbose=0).argmax(-1)
    told = []
    found = sentei.compress(model, (x, decisions), max_drop=0.1, progress=told.append)
    for old, new in zip(before, model.get_weights(), strict=True):
        assert (old == new).all()
    found.save(tmp_path / "m.stz")
    found.save(tmp_path / "m.tflite")
    sentei.unpack(tmp_path / "m.stz", tmp_path / "back.tflite")
    assert (tmp_path / "back.tflite").read_bytes() == (tmp_path / "m.tflite").read_bytes()
    scores = Runner(tmp_path / "back.tflite")({"image": x})["scores"]
    right = np.mean(scores.argmax(-1) == decisions)
    assert right == pytest.approx(found.chosen.score)
    assert right >= 0.9
    assert found.float_score == 1.0
    weights = sum(weight.size for weight in before)
    assert len(found.packed) < weights  # graph included
    assert sorted(told, key=lambda c: c.price) == list(found.candidates)
    assert found.chosen.bytes == min(c.bytes for c in found.candidates if c.drop + c.error <= 0.1)
    sizes = [candidate.bytes for candidate in found.candidates]
    middle = (min(sizes) + max(sizes)) // 2
    small = sentei.compress(model, x, target_bytes=middle)
    assert len(small.packed) <= middle


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_rows_are_what_the_kernel_is_multiplied_with(padding):
    for layer, shape in (
        (layers.Conv2D(4, (3, 2), strides=2, padding=padding), (2, 9, 8, 3)),
        (layers.Dense(5), (2, 4, 7)),
    ):
        x = np.random.default_rng(0).normal(size=shape).astype("float32")
        out = keras.ops.convert_to_numpy(layer(x))
        rows = rows_of(layer, keras.ops.convert_to_tensor(x))
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        product = rows @ kernel.reshape(-1, kernel.shape[-1])
        np.testing.assert_allclose(product.reshape(out.shape), out, atol=1e-5)


def test_moments_and_statistics_are_numpys():
    model, x = network(), samples(40)
    dense, norm = model.get_layer("scores"), model.layers[2]
    found = moments_of(model, [dense], [x[:20], x[20:]])[id(dense)]
    fed = keras.Model(model.input, dense.input).predict(x, verbose=0)
    np.testing.assert_allclose(found.second / found.count, fed.T @ fed / 40, rtol=1e-4, atol=1e-6)
    statistics = Statistics(model, x)
    kernel = model.layers[1].kernel
    kernel.assign(keras.ops.convert_to_numpy(kernel) * 2)
    statistics.settle()
    seen = keras.Model(model.input, norm.input).predict(x, verbose=0)
    mean = keras.ops.convert_to_numpy(norm.moving_mean)
    np.testing.assert_allclose(mean, seen.mean((0, 1, 2)) / 2, atol=1e-5)
    variance = keras.ops.convert_to_numpy(norm.moving_variance)
    np.testing.assert_allclose(variance, 4.0, rtol=0.01)


def test_scores_and_drops():
    expected = np.array([[0.1, 0.9], [0.8, 0.2], [0.3, 0.7], [0.6, 0.4]])
    worse = expected[:, ::-1]
    judge = Judge(expected, [1, 0, 0, 0], None)
    assert judge.score == 0.75
    assert judge.drop(worse)[0] == 0.5
    assert Judge(expected, None, None).drop(worse) == (1.0, 0.0)
    assert Judge(expected, np.eye(2)[[1, 0, 0, 0]], None).score == 0.75
    own = Judge(expected, [1.0] * 4, lambda out, y: -np.abs(out[:, 0] - y))
    assert own.score == pytest.approx(-0.55)
    assert divergence(expected, expected) == pytest.approx(0.0, abs=1e-12)
    p, q = expected, worse
    assert divergence(p, q) == pytest.approx(np.mean(np.sum(p * np.log(p / q), 1)), rel=1e-5)


def test_what_does_not_fit_is_refused():
    model, x = network(), samples(20)
    for options, words in (
        ({"max_drop": 0.1, "target_bytes": 9}, "either max_drop or target_bytes"),
        ({"max_drop": -1.0}, "max_drop` must be at least 0"),
        ({"effort": "best"}, "effort must be one of fast, max"),
    ):
        with pytest.raises(SenteiError, match=words):
            sentei.compress(model, x, **options)
    with pytest.raises(SenteiError, match="of as many rows each"):
        sentei.compress(model, (x, np.zeros(3)))
    with pytest.raises(SenteiError, match="has no classes"):
        Judge(np.zeros((4, 1)), np.zeros(4), None)
    with pytest.raises(SenteiError, match="one number a sample"):
        Judge(np.zeros((4, 2)), np.zeros(4), lambda out, y: out)


@pytest.mark.slow
def test_on_the_command_line(tmp_path, capsys):
    model, x = network(), samples()
    model.save(tmp_path / "m.keras")
    decisions = model.predict(x, verbose=0).argmax(-1)
    np.savez(tmp_path / "d.npz", image=x, y=decisions)
    words = ["compress", str(tmp_path / "m.keras"), str(tmp_path / "m.tflite")]
    given = ["--data", str(tmp_path / "d.npz"), "--labels", "y", "--json"]
    assert cli.main([*words, *given, "--max-drop", "0.2"]) == 0
    found = json.loads(capsys.readouterr().out)
    file = tmp_path / "m.tflite"
    assert found["tflite_bytes"] == file.stat().st_size
    scores = Runner(file)({"image": x})["scores"]
    assert np.mean(scores.argmax(-1) == decisions) == pytest.approx(found["chosen"]["score"])
    assert cli.main([*words, *given]) == 1
    assert "exists. Give another path, or --force" in capsys.readouterr().err
    assert cli.main([*words, *given, "--max-drop", "1.5"]) == 2
    assert "expected a number from 0 to 1, received '1.5'" in capsys.readouterr().err
