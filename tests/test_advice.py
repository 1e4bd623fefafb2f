"""`sentei.advise`: the decision, and a table that agrees with the interpreter."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei import cli
from sentei.advice import CHOICES, HARDWARE
from sentei.advice.advise import _best
from sentei.core.errors import SenteiError
from sentei.litert.runtime import Runner

RNG = np.random.default_rng(0)
CENTRES = RNG.normal(size=(4, 10)).astype("float32")
Y = RNG.integers(0, 4, 260)
X = (CENTRES[Y] + 0.3 * RNG.normal(size=(260, 10))).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10,), name="x"),
            kl.Dense(128, activation="relu", name="hidden"),
            kl.Dense(4, name="scores"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(X, Y, epochs=10, verbose=0)
    return model


@pytest.mark.parametrize(
    ("hardware", "given", "expected"),
    [
        ("cpu", {}, "dynamic"),
        ("cpu", {"data": X}, "int8"),
        ("cpu", {"training": True}, "int8"),
        ("gpu", {"data": X}, "float16"),
        ("integer", {"data": X}, "int8"),
        ("microcontroller", {"training": True}, "int8"),
    ],
    ids=["cpu", "cpu-samples", "cpu-training", "gpu", "integer", "microcontroller"],
)
def test_without_a_model_it_decides_by_rule(hardware, given, expected):
    advice = sentei.advise(hardware=hardware, **given)
    assert advice.recommended == expected and advice.order[0][0] == expected
    names = {choice.name for choice in advice.choices}
    assert names | set(advice.others) == {choice.name for choice in CHOICES}
    assert {name for name, _ in advice.order} <= names
    assert all(hardware in choice.hardware for choice in advice.choices)
    text = str(advice)
    assert f"Take {expected}" in text and all(f"not {name}:" in text for name in advice.others)


def test_what_is_not_possible_is_said():
    for hardware in ("integer", "microcontroller"):
        with pytest.raises(SenteiError, match=r"Nothing but calibrated integers runs"):
            sentei.advise(hardware=hardware)
    with pytest.raises(SenteiError, match="`hardware` must be one of"):
        sentei.advise(hardware="tpu")
    with pytest.raises(SenteiError, match="`labels` belong to samples"):
        sentei.advise(labels=Y)
    with pytest.raises(SenteiError, match="must be as many each"):
        sentei.advise(object(), X, Y[:7])
    assert set(HARDWARE) == {h for choice in CHOICES for h in choice.hardware}


def test_what_it_measures_is_what_the_files_do(model, tmp_path):
    advice = sentei.advise(model, X, Y, hardware="cpu", runs=3)
    by_name = {m.name: m for m in advice.measured}
    assert set(by_name) == {"float32", *(c.name for c in CHOICES if c.is_mode)}
    assert not [m.failure for m in advice.measured if m.failure]
    sentei.export(model, tmp_path / "q.tflite", quantize="int8", calibration=X[:100])
    (scores,) = Runner(tmp_path / "q.tflite")(X[100:]).values()
    (plain,) = (model.predict(X[100:], verbose=0),)
    found = by_name["int8"]
    assert found.bytes == (tmp_path / "q.tflite").stat().st_size
    assert found.accuracy == pytest.approx(np.mean(scores.argmax(-1) == Y[100:]))
    sqnr = 10 * np.log10(np.sum(plain**2) / np.sum((scores - plain) ** 2))
    assert found.sqnr == pytest.approx(sqnr, abs=0.1)
    assert found.share == pytest.approx(found.bytes / by_name["float32"].bytes)
    assert found.milliseconds > 0
    least = by_name["float32"].accuracy - 0.01
    good = [m for m in advice.measured[1:] if m.accuracy >= least]
    smallest = min(m.bytes for m in good)
    assert by_name[advice.recommended].bytes <= 1.05 * smallest
    nothing_is_that_good = _best(advice.measured, "int8", "", -2.0, training=True)
    assert nothing_is_that_good[0] == "training int8"


def test_candidates_that_are_trained_are_measured_too(model, tmp_path):
    before = model.get_weights()
    samples, labels = np.concatenate([X] * 4), np.concatenate([Y] * 4)
    advice = sentei.advise(model, samples, labels, training=True, epochs=3, runs=1)
    by_name = {m.name: m for m in advice.measured}
    assert set(by_name) == {"float32", *(c.name for c in CHOICES)}
    assert not [m.failure for m in advice.measured if m.failure]
    assert all(m.accuracy > 0.9 for m in advice.measured)
    pruned, clustered = by_name["pruning before"], by_name["clustering before"]
    assert pruned.bytes == pytest.approx(by_name["int8"].bytes, rel=0.05)
    # 1,792 weights: 80 % zeros, or 4 bits each, of which int8 packs few.
    assert pruned.packed < by_name["int8"].packed - 700
    assert clustered.packed < by_name["int8"].packed - 500
    assert advice.recommended in {c.name for c in CHOICES if c.is_mode}
    for weight, after in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(weight, after)


def test_what_cannot_be_trained_is_said(model):
    plain = keras.Sequential.from_config(model.get_config())
    plain.set_weights(model.get_weights())
    advice = sentei.advise(plain, X, Y, training=True, runs=1)
    failed = {m.name: m.failure for m in advice.measured if m.failure}
    assert set(failed) == {c.name for c in CHOICES if not c.is_mode}
    assert all("Compile the model" in failure for failure in failed.values())
    assert "pruning before failed: Compile the model" in str(advice)
    with pytest.raises(SenteiError, match="not measured on, of which there are 0"):
        sentei.advise(model, X[:90], Y[:90], training=True)
    with pytest.raises(SenteiError, match="`epochs` must be 0 or more"):
        sentei.advise(model, X, Y, training=True, epochs=-1)


def test_on_the_command_line(model, tmp_path, capsys):
    model.save(tmp_path / "m.keras")
    np.savez(tmp_path / "d.npz", x=X, y=Y)
    words = ["advise", str(tmp_path / "m.keras"), "--data", str(tmp_path / "d.npz")]
    assert cli.main([*words, "--labels", "y", "--hardware", "gpu", "--runs", "1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["recommended"] == "float16"
    assert [m["name"] for m in found["measured"]] == ["float32", "float16"]
    assert cli.main([*words, "--labels", "z"]) == 1
    assert "has no array 'z'. It has ['x', 'y']" in capsys.readouterr().err
    assert cli.main(["advise"]) == 0
    assert "Take dynamic" in capsys.readouterr().out
