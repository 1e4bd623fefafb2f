"""The collaborative flows of the old toolkit: quantization that keeps zeros and clusters."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers as kl

import sentei
from sentei import tfmot
from sentei.core.install import find
from sentei.litert.runtime import Runner
from sentei.quantization import quantized
from sentei.tfmot.experimental import combine
from sentei.tfmot.quantization import keras as quantization

pytestmark = pytest.mark.slow  # on every backend those marked "core"

X = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def network():
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            kl.Conv2D(6, 3),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.Flatten(),
            kl.Dense(4),
        ]
    )


def fit(model, compile=True):
    if compile:
        model.compile(keras.optimizers.SGD(0.05), LOSS)
    model.fit(X, Y, batch_size=16, epochs=2, verbose=0, shuffle=False)
    return model


def pruned():
    model = tfmot.sparsity.keras.prune_low_magnitude(network())
    return tfmot.sparsity.keras.strip_pruning(fit(model))


def clustered(model, keep):
    model = tfmot.clustering.keras.cluster_weights(model, 8, preserve_sparsity=keep)
    return tfmot.clustering.keras.strip_clustering(fit(model))


def quantize(model, scheme):
    return quantization.quantize_apply(quantization.quantize_annotate_model(model), scheme)


def kernels(model):
    return [w for w in model.get_weights() if w.ndim > 1]


def assert_kept(model, start, zeros, clusters):
    for before, after in zip(kernels(start), kernels(model), strict=True):
        assert not np.array_equal(before, after)  # it trained
        if zeros:
            assert np.array_equal(before == 0, after == 0)
        if clusters:
            assert len(np.unique(after)) <= 8
            for value in np.unique(before):
                assert len(np.unique(after[before == value])) == 1


FLOWS = {
    "pqat": (pruned, combine.Default8BitPrunePreserveQuantizeScheme, True, False),
    "cqat": (
        lambda: clustered(network(), False),
        lambda: combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=False),
        False,
        True,
    ),
    "pcqat": (
        lambda: clustered(pruned(), True),
        lambda: combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True),
        True,
        True,
    ),
}


@pytest.mark.core
@pytest.mark.parametrize("flow", list(FLOWS))
def test_kept_while_training(flow, tmp_path):
    make, scheme, zeros, clusters = FLOWS[flow]
    start = make()
    qmodel = quantize(start, scheme())
    assert_kept(fit(qmodel), start, zeros, clusters)
    fit(qmodel)  # compiled again, it goes on keeping them
    qmodel.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    fit(loaded, compile=False)  # the optimizer was saved with its rules
    assert_kept(loaded, start, zeros, clusters)
    bare = keras.models.load_model(tmp_path / "m.keras", compile=False)
    assert_kept(fit(bare), start, zeros, clusters)


@pytest.mark.core
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="Keras' exporter needs TensorFlow"
)
@pytest.mark.parametrize("make", [pruned, lambda: fit(quantize(network(), None))])
def test_models_convert_through_keras_own_exporter(make, tmp_path):
    model = make()
    model.export(tmp_path / "m.tflite", format="litert", verbose=False)
    runner = Runner(tmp_path / "m.tflite")
    for sample, wanted in zip(X[:8, None], model.predict(X[:8], verbose=0), strict=True):
        (found,) = runner(sample).values()
        np.testing.assert_allclose(found[0], wanted, atol=1e-5)


DATA_PARALLEL = """
import keras, numpy as np
from sentei import tfmot

devices = keras.distribution.list_devices()
assert len(devices) == 2, devices
keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
x = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
y = np.random.default_rng(1).integers(0, 4, 64)


def fit(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    model.fit(x, y, batch_size=16, epochs=2, verbose=0)
    return model


def network():
    return keras.Sequential([keras.Input((12,)), keras.layers.Dense(16), keras.layers.Dense(4)])


sparsity, clustering = tfmot.sparsity.keras, tfmot.clustering.keras
schedule = sparsity.PolynomialDecay(0.2, 0.75, 0, 6, frequency=2)
model = sparsity.strip_pruning(fit(sparsity.prune_low_magnitude(network(), schedule)))
assert all(np.mean(w == 0) == 0.75 for w in model.get_weights()[::2])
model = clustering.strip_clustering(fit(clustering.cluster_weights(network(), 4)))
assert all(len(np.unique(w)) == 4 for w in model.get_weights()[::2])
fit(tfmot.quantization.keras.quantize_model(network()))
"""


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="Keras distributes on JAX")
def test_two_devices_share_the_batches():
    flags = "--xla_force_host_platform_device_count=2"
    run = subprocess.run(
        [sys.executable, "-c", DATA_PARALLEL],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_plain_quantization_keeps_nothing():
    start = pruned()
    qmodel = fit(quantize(start, None))
    assert find(qmodel) is None
    assert all(np.mean(w == 0) < 0.4 for w in kernels(qmodel))


def test_file_has_the_zeros_and_clusters(tmp_path):
    start = FLOWS["pcqat"][0]()
    qmodel = fit(quantize(start, FLOWS["pcqat"][1]()))
    for before, name in zip(kernels(start), ("conv2d", "dense"), strict=True):
        quantizers = quantized(qmodel).quantizers.items()
        (quantizer,) = [q for label, q in quantizers if name in label and "kernel" in label]
        integers = quantizer.grid().quantize(before)
        assert np.mean(integers == 0) >= 0.5 and len(np.unique(integers)) <= 8
    sentei.export(qmodel, tmp_path / "m.tflite")
    found = next(iter(Runner(tmp_path / "m.tflite")(X).values()))
    assert np.abs(found - qmodel.predict(X, verbose=0)).max() < 0.02 * np.abs(found).max()


@pytest.mark.core
def test_stripped_of_clustering():
    start = FLOWS["cqat"][0]()
    qmodel = fit(quantize(start, FLOWS["cqat"][1]()))
    stripped = combine.strip_clustering_cqat(qmodel)
    assert not stripped.compiled
    np.testing.assert_array_equal(stripped.predict(X, verbose=0), qmodel.predict(X, verbose=0))
    fit(stripped)
    assert find(stripped) is None
    assert all(len(np.unique(w)) > 8 for w in kernels(stripped))


def test_strip_takes_other_models_and_no_others():
    model = network()
    assert combine.strip_clustering_cqat(model) is model
    with pytest.raises(ValueError, match=r"keras\.Model"):
        combine.strip_clustering_cqat("model")
    assert tfmot.quantization.keras.collab_opts.Default8BitPrunePreserveQuantizeScheme
