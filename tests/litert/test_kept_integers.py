"""Pruned, clustered, trained as integers, exported: zeros are 0 and clusters one integer each."""

import keras
import numpy as np
from keras import layers as kl
from keras import ops

import sentei
from sentei.litert import flatbuffer
from sentei.litert.runtime import Runner
from sentei.quantization import Custom
from sentei.quantization.quantize import quantizers
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
        for channel in integers:  # a negative factor of batch norm turns a channel's signs
            assert len(np.unique(channel)) <= N
        if name != "first":
            assert len(np.unique(integers)) <= N
    runner = Runner(path)
    (found,) = runner(x).values()
    np.testing.assert_allclose(found, qmodel.predict(x, verbose=0), atol=1e-5)


def test_clustered_kernels_have_one_scale(tmp_path):
    """However often their names occur; saved and loaded, too, when the values are not there yet."""
    keras.utils.set_random_seed(1)
    inner = keras.Sequential([keras.Input((16,)), kl.Dense(20, name="same")], name="inner")
    x = keras.Input((8,))
    y = kl.Dense(16, activation="relu", name="same")(x)
    model = keras.Model(x, kl.Dense(30, name="last")(inner(y)))
    model.compile("adam", "mse")
    sentei.cluster(model, 4, layers=["/".join(("inner", "same")), "last"])
    sentei.strip(model)
    samples = np.random.default_rng(0).normal(size=(32, 8)).astype("float32")

    def scales(qmodel):
        found = dict(quantizers(qmodel))
        names = ("same/kernel", "inner/same/kernel", "last/kernel")
        return [np.size(found[name].grid().scale) for name in names]

    assert scales(sentei.quantize(model, Custom(per_channel=True))) == [16, 20, 30]
    qmodel = sentei.quantize(model, calibration=samples)
    assert scales(qmodel) == [16, 1, 1]
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert scales(loaded) == [16, 1, 1]
    found = [ops.convert_to_numpy(m(samples)) for m in (qmodel, loaded)]
    np.testing.assert_array_equal(*found)
    sentei.export(loaded, tmp_path / "m.tflite")  # verified
    kept = [
        tensor.data()
        for tensor in flatbuffer.load(tmp_path / "m.tflite").tensors()
        if tensor.dtype == "int8" and tensor.data() is not None
    ]
    assert sorted(len(np.unique(kernel)) <= 4 for kernel in kept) == [False, True, True]


def test_what_float_operators_compute_may_lie_beside_a_tie(tmp_path):
    """A GRU of clustered weights: 4 of 384 integers of its rounded state were one step off."""
    keras.utils.set_random_seed(0)
    x = keras.Input((6, 5))
    model = keras.Model(x, kl.Dense(3, name="scores")(kl.GRU(8, name="state")(x)))
    samples = np.random.default_rng(0).normal(size=(16, 6, 5)).astype("float32")
    qmodel = sentei.quantize(model, calibration=samples)
    report = sentei.export(qmodel, tmp_path / "m.tflite", verify=samples)
    promised = {(t.name, t.operator): t.promised for t in report.integers.tensors}
    assert promised["state", "QUANTIZE"] == 0.95
    assert promised["scores", "FULLY_CONNECTED"] == 0.999
    assert all(t.allowed == 1 for t in report.integers.tensors)
