"""Models of keras.applications: exported, and equal to Keras to 1e-4 of the largest output."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import sentei
from sentei.core.select import sublayers
from sentei.litert.quantized import take_census
from sentei.litert.runtime import Runner

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(keras.backend.backend() != "jax", reason="one backend is enough"),
]

# Name in keras.applications, and the smallest convenient image that it takes.
APPLICATIONS = {
    "MobileNet": 96,
    "MobileNetV2": 224,
    "MobileNetV3Small": 96,
    "MobileNetV3Large": 96,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "NASNetMobile": 64,
    "DenseNet121": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "InceptionV3": 75,
    "Xception": 71,
    "VGG16": 32,
    "ConvNeXtTiny": 64,
}


def build(name, size):
    """A model with random weights whose batch norms, unlike fresh ones, do something."""
    head = {"classes": 10, "classifier_activation": None}
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), **head)
    generator = np.random.default_rng(0)
    for layer, _ in sublayers(model):
        if isinstance(layer, keras.layers.BatchNormalization):
            shape = layer.moving_mean.shape
            layer.moving_mean.assign(generator.normal(0, 0.1, shape))
            layer.moving_variance.assign(generator.uniform(0.5, 1.5, shape))
            if layer.center:
                layer.beta.assign(generator.normal(0, 0.1, shape))
            if layer.scale:
                layer.gamma.assign(generator.uniform(0.8, 1.2, shape))
    return model


@pytest.mark.parametrize(("name", "size"), APPLICATIONS.items(), ids=APPLICATIONS)
def test_application(tmp_path, name, size):
    model = build(name, size)
    path = tmp_path / "m.tflite"
    sentei.export(model, path, verify=False)  # by hand: not our samples, not our comparison
    generator = np.random.default_rng(1)
    pixels = generator.uniform(0, 255, (2, size, size, 3)).astype("float32")
    if name in (
        "MobileNet",
        "MobileNetV2",
        "NASNetMobile",
        "InceptionV3",
        "Xception",
        "ResNet50V2",
    ):
        pixels = pixels / 127.5 - 1
    pixels[1] = generator.normal(size=pixels[1].shape)
    expected = model.predict(pixels, verbose=0)
    run = Interpreter(str(path)).get_signature_runner()
    got = np.concatenate([next(iter(run(input_0=one[np.newaxis]).values())) for one in pixels])
    assert np.ptp(expected) > 1e-3 * np.abs(expected).max()
    assert np.abs(got - expected).max() <= 1e-4 * np.abs(expected).max()


def test_one_with_hard_swish_and_attention_in_integers(tmp_path):
    model = build("MobileNetV3Small", 64)
    generator = np.random.default_rng(1)
    squares = generator.uniform(0, 255, (6, 8, 8, 3)).repeat(8, 1).repeat(8, 2).astype("float32")
    qmodel = sentei.quantize(model, calibration=squares[:4])
    sentei.export(qmodel, tmp_path / "m.tflite", io="int8", verify=False)
    runner = Runner(tmp_path / "m.tflite")
    assert not take_census(runner.model).floating
    got = np.concatenate([next(iter(runner(one[np.newaxis]).values())) for one in squares])
    expected = np.asarray(qmodel.predict(squares, verbose=0))
    (port,) = runner.outputs.values()
    assert len(np.unique(got)) > 5
    assert np.abs(got - expected).max() < 0.01 * port.scale


def test_mobilenet_v2_folds_every_batch_norm_and_fuses_every_relu(tmp_path):
    model = build("MobileNetV2", 224)
    softmax = keras.Sequential([model, keras.layers.Softmax()])
    report = sentei.export(softmax, tmp_path / "m.tflite", verify=False)
    assert report.operators == {
        "CONV_2D": 35,
        "DEPTHWISE_CONV_2D": 17,
        "ADD": 10,
        "MEAN": 1,
        "FULLY_CONNECTED": 1,
        "SOFTMAX": 1,
    }
