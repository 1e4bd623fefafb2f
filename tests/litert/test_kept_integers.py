"""Pruned, clustered, trained as integers, exported: zeros are 0 and clusters one integer each."""

import keras
import numpy as np
from keras import layers as kl
from keras import ops

import sentei
from sentei.litert import flatbuffer
from sentei.litert.runtime import Runner
from sentei.sparsity import ConstantSparsity

N = 8
SPARSITY = 0.75


def network():
    x = keras.Input((12, 12, 3))
    y = kl.Conv2D(16, 3, padding="same", use_bias=False, name="first")(x)
    y = kl.ReLU()(kl.BatchNormalization()(y))
    y = kl.Conv2D(24, 3, strides=2, activation="relu", name="second")(y)
    return keras.Model(x, kl.Dense(6, name="scores")(kl.GlobalAveragePooling2D()(y)))


def trained(model, x, y):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.003), loss)
    return lambda: model.fit(x, y, epochs=2, batch_size=16, verbose=0)


def file_order(kernel):
    """As the file has it: output channels first."""
    return np.moveaxis(kernel, -1, 0)


def test_zeros_and_clusters_are_in_the_file(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 12, 12, 3)).astype("float32")
    y = rng.integers(0, 6, 64)
    model = network()
    fit = trained(model, x, y)
    names = ("first", "second", "scores")
    sentei.prune(model, ConstantSparsity(SPARSITY, begin_step=0), layers=list(names))
    fit()
    sentei.cluster(model, N, preserve_sparsity=True, layers=list(names))
    fit()
    sentei.strip(model)
    before = {name: ops.convert_to_numpy(model.get_layer(name).kernel).copy() for name in names}

    qmodel = sentei.quantize(model, calibration=x)
    fit = trained(qmodel, x, y)
    sentei.preserve(qmodel)
    fit()
    path = tmp_path / "m.tflite"
    sentei.export(qmodel, path)

    stored = {
        np.squeeze(tensor.data()).shape: tensor
        for tensor in flatbuffer.load(path).tensors()
        if tensor.dtype == "int8" and tensor.data() is not None
    }
    for name in names:
        kernel = ops.convert_to_numpy(model.get_layer(name).kernel)
        assert not np.array_equal(kernel, before[name])  # it did train
        np.testing.assert_array_equal(kernel == 0, before[name] == 0)
        assert np.mean(kernel == 0) == round(kernel.size * SPARSITY) / kernel.size
        assert len(np.unique(kernel)) <= N
        tensor = stored[np.squeeze(file_order(kernel)).shape]
        integers = tensor.data().reshape(file_order(kernel).shape)
        assert np.all(integers[file_order(kernel) == 0] == 0)
        for channel in integers:  # a channel is a group: it has one scale
            assert len(np.unique(channel)) <= N
    runner = Runner(path)
    (found,) = runner(x).values()
    np.testing.assert_allclose(found, qmodel.predict(x, verbose=0), atol=1e-5)
