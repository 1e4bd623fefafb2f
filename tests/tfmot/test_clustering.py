"""Programs written for the old toolkit's clustering, on its public names."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl

from sentei import tfmot
from sentei.core.install import find
from sentei.tfmot.clustering import keras as clustering

pytestmark = pytest.mark.slow  # on every backend those marked "core"

X = np.random.default_rng(0).normal(size=(64, 6, 6, 3)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
START = clustering.CentroidInitialization


def convolution(use_bias=True, rate=0.1):
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            kl.Conv2D(4, 3, use_bias=use_bias),
            kl.BatchNormalization(),
            kl.Flatten(),
            kl.Dropout(rate),
            kl.Dense(4),
        ]
    )


@keras.saving.register_keras_serializable(__name__)
class Clusterable(kl.Dense, clustering.ClusterableLayer):
    def get_clusterable_weights(self):
        return [("kernel", self.kernel), ("bias", self.bias)]


@keras.saving.register_keras_serializable(__name__)
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.parts = [kl.Flatten(), kl.Dense(4)]

    def call(self, x):
        return self.parts[1](self.parts[0](x))


def compiled(model, optimizer="adam"):
    model.compile(optimizer, LOSS)
    return model


def fit(model, epochs=1):
    return model.fit(X, Y, batch_size=16, epochs=epochs, verbose=0, shuffle=False)


def distinct(model):
    return [len(np.unique(w)) for w in model.get_weights() if w.ndim > 1]


@pytest.mark.core
def test_whole_model_trained_saved_and_stripped(tmp_path):
    model = convolution(rate=0.0)  # Keras does not save the state of random numbers
    clustered = clustering.cluster_weights(
        model, number_of_clusters=8, cluster_centroids_init=START.DENSITY_BASED
    )
    assert clustered.layers[0].name == f"cluster_{model.layers[0].name}"
    fit(compiled(clustered))
    before = clustered.get_weights()
    assert max(distinct(clustered)) <= 8
    compiled(clustered, "sgd")  # goes on with the same clusters
    for one, other in zip(before, clustered.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    fit(clustered)
    assert any(
        not np.array_equal(a, b) for a, b in zip(before, clustered.get_weights(), strict=True)
    )
    clustered.save(tmp_path / "m.keras")
    with clustering.cluster_scope():
        loaded = keras.models.load_model(tmp_path / "m.keras")
    fit(clustered), fit(loaded)
    assert clustering.strip_clustering(clustered).get_config() == model.get_config()
    stripped = clustering.strip_clustering(loaded)
    assert "sentei" not in json.dumps(stripped.get_config())
    assert max(distinct(stripped)) <= 8
    for one, other in zip(clustered.get_weights(), stripped.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("init", list(START))
@pytest.mark.parametrize("n", [3, 16])
def test_stripped_without_training(init, n):
    clustered = clustering.cluster_weights(convolution(), n, init)
    stripped = clustering.strip_clustering(clustered)
    assert max(distinct(stripped)) <= n
    assert find(clustered) is None


def test_density_interpolates():
    # Of the original, one heavy value made it place several centroids on each other.
    model = keras.Sequential([keras.Input((40,)), kl.Dense(10)])
    weights = np.zeros(400, "float32")
    weights[200:] = np.linspace(1, 2, 200)
    model.set_weights([weights.reshape(40, 10), np.zeros(10, "float32")])
    clustered = clustering.cluster_weights(model, 8, START.DENSITY_BASED)
    assert distinct(clustering.strip_clustering(clustered))[0] > 3


@pytest.mark.parametrize("use_bias", [True, False])
def test_per_channel(use_bias):
    # Of the original, this failed without a bias.
    model = clustering.cluster_weights(convolution(use_bias), 5, cluster_per_channel=True)
    fit(compiled(model))
    kernel = clustering.strip_clustering(model).get_weights()[0]
    each = [len(np.unique(kernel[..., channel])) for channel in range(4)]
    assert max(each) <= 5
    assert len(np.unique(kernel)) > 5
    assert distinct(model)[-1] <= 5  # a Dense layer as a whole


def test_zeros_are_kept():
    model = convolution()
    weights = [np.where(np.abs(w) < 0.1, 0, w) if w.ndim > 1 else w for w in model.get_weights()]
    model.set_weights(weights)
    clustered = clustering.cluster_weights(model, 4, preserve_sparsity=True)
    fit(compiled(clustered))
    stripped = clustering.strip_clustering(clustered).get_weights()
    for before, after in zip(weights, stripped, strict=True):
        if before.ndim > 1:
            assert np.array_equal(before == 0, after == 0)
            assert len(np.unique(after)) <= 4


@pytest.mark.core
def test_pruned_then_clustered():
    pruned = tfmot.sparsity.keras.prune_low_magnitude(convolution())
    fit(compiled(pruned))
    both = clustering.cluster_weights(tfmot.sparsity.keras.strip_pruning(pruned), 8, **KEEP)
    fit(compiled(both))
    for weight in clustering.strip_clustering(both).get_weights():
        if weight.ndim > 1:
            assert np.mean(weight == 0) == 0.5
            assert len(np.unique(weight)) <= 8


KEEP = {"preserve_sparsity": True}


def test_some_layers_and_custom_ones():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            kl.Flatten(),
            *clustering.cluster_weights([Clusterable(12)], 4),
            kl.Dense(4),
        ]
    )
    fit(compiled(model))
    first, bias, second, _ = model.get_weights()
    assert len(np.unique(first)) <= 4 and len(np.unique(bias)) <= 4
    assert len(np.unique(second)) == second.size


def test_subclassed_model_and_experimental_name():
    model = clustering.experimental.cluster_weights(Subclassed(), 6, preserve_sparsity=True)
    fit(compiled(model))
    assert distinct(clustering.strip_clustering(model)) == [6]
    assert find(model) is None


def batches():
    while True:
        yield X, Y


@pytest.mark.core
@pytest.mark.parametrize(
    "train",
    [
        fit,
        lambda model: model.train_on_batch(X, Y),
        lambda model: model.fit(batches(), steps_per_epoch=1, shuffle=False, verbose=0),
    ],
    ids=["fit", "batch", "generator"],
)
@pytest.mark.parametrize(
    "make", [Subclassed, lambda: keras.Sequential([kl.Flatten(), kl.Dense(4)])]
)
def test_model_that_is_built_by_its_first_batch(make, train):
    model = compiled(clustering.cluster_weights(make(), 6))
    assert not model.built
    train(model)
    start = kernel_of(model)
    train(model)
    assert not np.array_equal(start, kernel_of(model))
    assert distinct(clustering.strip_clustering(model)) == [6]


def kernel_of(model):
    return next(w for w in model.get_weights() if w.ndim > 1)


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: clustering.cluster_weights(object(), 8), "can only cluster.*object"),
        (lambda: clustering.cluster_weights([3], 8), "wraps a Keras layer"),
        (lambda: clustering.cluster_weights(kl.Dense(2), 1), "must be greater than 1"),
        (lambda: clustering.cluster_weights(kl.Dense(2), 2, **KEEP), "must be greater than 2"),
        (lambda: clustering.cluster_weights(kl.Dense(2), "8"), "must be an integer"),
        (lambda: clustering.cluster_weights(kl.Dense(2), 500), "from 2 to 256"),
        (lambda: clustering.cluster_weights(kl.Dense(2), 8, "best"), "not supported"),
        (lambda: clustering.strip_clustering(kl.Dense(2)), r"keras\.Model"),
        (lambda: clustering.ClusteringSummaries(""), "non-empty string"),
    ],
)
def test_wrong_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_summaries(tmp_path):
    model = compiled(clustering.cluster_weights(convolution(), 8))
    callback = clustering.ClusteringSummaries(str(tmp_path), cluster_update_freq=2)
    model.fit(X, Y, batch_size=16, verbose=0, callbacks=[callback])
    (file,) = tmp_path.iterdir()
    assert file.read_bytes().count(b"kernel/distinct") == 2 * 2


def test_names():
    assert tfmot.clustering.keras is clustering
    for name in set(clustering.__all__) - {"experimental"}:
        assert getattr(clustering, name).__doc__
