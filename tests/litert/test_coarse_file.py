"""Batch normalization in few bits, as the file has it."""

import keras
import numpy as np
from keras import layers

import sentei
from sentei.litert.runtime import Runner
from sentei.quantization import Custom, round_batch_norm


def network():
    inputs = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(24, 3, use_bias=False)(inputs)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.DepthwiseConv2D(3)(x))
    model = keras.Model(inputs, layers.Conv2D(5, 1, name="scores")(x))
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            for variable in layer.weights:
                variable.assign(random.uniform(0.1, 2, variable.shape))
    return model


def low_bytes(path):
    """Of every per-channel scale and every bias that batch normalization left: the lower half."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    found = []
    for tensor in interpreter.get_tensor_details():
        scales = tensor["quantization_parameters"]["scales"]
        if scales.size == 24:
            found.append(scales)
        elif tensor["dtype"] == np.float32 and tuple(tensor["shape"]) == (24,):
            found.append(interpreter.get_tensor(tensor["index"]))
    assert len(found) == 4
    return np.concatenate(found).view(np.uint32) & 0xFFFF


def test_the_files_scales_and_biases_are_bfloat16_and_packed_in_half(tmp_path):
    qmodel = sentei.quantize(network(), Custom(activation_bits=None, rate=0.01))
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 3)).astype("float32")
    sizes = []
    for name in ("before", "after"):
        if name == "after":
            round_batch_norm(qmodel)
        path = tmp_path / f"{name}.tflite"
        sentei.export(qmodel, path, slim=True)
        sizes.append(sentei.pack(path, tmp_path / "m.stz", effort="max").packed_size)
        assert low_bytes(path).any() == (name == "before")
        (found,) = Runner(path)({"image": x}).values()
        np.testing.assert_allclose(found, qmodel.predict(x, verbose=0), rtol=1e-4, atol=1e-4)
    assert sizes[0] - sizes[1] > 1.5 * 4 * 24  # two of four bytes, nearly
