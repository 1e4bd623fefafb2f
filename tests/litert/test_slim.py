"""Files without names compute the same, under the same names of inputs and outputs."""

import keras
import numpy as np
import pytest

import sentei
from sentei.litert import flatbuffer
from sentei.litert.runtime import Runner

RANDOM = np.random.default_rng(0)


def model():
    inputs = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Conv2D(6, 3, activation="relu")(inputs)
    x = keras.layers.Flatten()(keras.layers.MaxPooling2D(2)(x))
    return keras.Model(inputs, keras.layers.Dense(4, name="logits")(x))


@pytest.mark.parametrize("options", [{}, {"batch_size": None}, {"quantize": "int8"}], ids=str)
def test_the_outputs_are_the_same_bits(tmp_path, options):
    network, files = model(), {}
    if "quantize" in options:
        options = {**options, "calibration": RANDOM.normal(size=(32, 8, 8, 1)).astype("float32")}
    for slim in (False, True):
        files[slim] = tmp_path / f"{slim}.tflite"
        sentei.export(network, files[slim], slim=slim, **options)
    plain, slim = (Runner(files[choice]) for choice in (False, True))
    assert (plain.inputs.keys(), plain.outputs.keys()) == (slim.inputs.keys(), slim.outputs.keys())
    image = RANDOM.normal(size=(1, 8, 8, 1)).astype("float32")
    assert plain({"image": image})["logits"].tobytes() == slim({"image": image})["logits"].tobytes()
    content = flatbuffer.load(files[True])
    assert {tensor.name for tensor in content.tensors()} == {""}
    assert files[True].stat().st_size < files[False].stat().st_size - 500
