"""`sentei.preserve`: zeros and clusters that a model has stay, whatever made them."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from kinds import KINDS

import sentei
from sentei.clustering import Clustering
from sentei.core.errors import SenteiError
from sentei.core.install import find
from sentei.sparsity import ConstantSparsity, KeptZeros, PolynomialDecay

pytestmark = pytest.mark.core


def model_of(**kernels):
    """Dense layers in a row, with these kernels."""
    first = next(iter(kernels.values()))
    model = keras.Sequential([keras.Input((first.shape[0],))])
    for name, kernel in kernels.items():
        model.add(kl.Dense(kernel.shape[1], name=name))
        model.get_layer(name).kernel.assign(kernel)
    model.compile(keras.optimizers.Adam(0.01), "mse", jit_compile="auto")
    return model


def train(model, steps=3):
    x = np.random.default_rng(1).normal(size=(8 * steps, model.input_shape[-1]))
    y = np.random.default_rng(2).normal(size=(8 * steps, model.output_shape[-1]))
    model.fit(x, y, batch_size=8, shuffle=False, verbose=0)


def kernel(model, name):
    return ops.convert_to_numpy(model.get_layer(name).kernel)


def same_classes(before, after):
    """Whether weights that were equal are equal, bit for bit."""
    classes = np.unique(before, return_inverse=True)[1].reshape(before.shape)
    bits = after.view("int32")
    return all(len(np.unique(bits[classes == k])) == 1 for k in np.unique(classes))


rng = np.random.default_rng(0)
DENSE = rng.normal(size=(16, 16)).astype("float32")
SPARSE = np.where(rng.random((16, 16)) < 0.6, 0.0, rng.normal(size=(16, 16))).astype("float32")
SHARED = rng.choice(np.float32([-1.5, -0.25, 0.5, 1.25]), (16, 16))
BOTH = rng.choice(np.float32([-0.75, 0.0, 0.0, 0.125, 2.0]), (16, 16))


def test_each_kernel_gets_the_rules_it_has_a_use_for():
    model = model_of(dense=DENSE, sparse=SPARSE, shared=SHARED, both=BOTH)
    assert sentei.preserve(model) is model
    zeros, clusters = find(model).projections
    assert isinstance(zeros, KeptZeros) and isinstance(clusters, Clustering)
    assert [w.layer for w in zeros.weights] == ["sparse"]
    assert [(c.weight.layer, c.n) for c in clusters.weights] == [("shared", 4), ("both", 4)]
    for name, value in (("sparse", SPARSE), ("shared", SHARED), ("both", BOTH)):
        np.testing.assert_array_equal(kernel(model, name), value)  # nothing moves before training
    train(model)
    for name, value in (("dense", DENSE), ("sparse", SPARSE), ("shared", SHARED), ("both", BOTH)):
        now = kernel(model, name)
        assert not np.array_equal(now, value)
        np.testing.assert_array_equal(now == 0, value == 0)
        assert same_classes(value, now)


@pytest.mark.parametrize(("sparsity", "clusters"), [(True, False), (False, True), (False, False)])
def test_only_what_is_asked_for(sparsity, clusters):
    model = model_of(sparse=SPARSE, both=BOTH)
    sentei.preserve(model, sparsity=sparsity, clusters=clusters)
    train(model)
    assert np.array_equal(kernel(model, "sparse") == 0, SPARSE == 0) == sparsity
    assert np.array_equal(kernel(model, "both") == 0, BOTH == 0) == sparsity
    assert same_classes(BOTH, kernel(model, "both")) == clusters


def test_clusters_of_each_channel():
    big = rng.normal(size=(160, 40)).astype("float32")
    model = model_of(a=big)
    sentei.cluster(model, 16, per_channel=True)
    sentei.strip(model)
    before = kernel(model, "a")
    assert len(np.unique(before)) > 256
    sentei.preserve(model)
    (rule,) = find(model).projections
    assert rule.weights[0].per_channel and rule.weights[0].n == 16
    train(model)
    now = kernel(model, "a")
    assert all(same_classes(before[:, i], now[:, i]) for i in range(40))
    assert not np.array_equal(now, before)


@pytest.mark.parametrize(
    "kind", ["convolutions", pytest.param("recurrent", marks=pytest.mark.slow)]
)
def test_prune_cluster_strip_save_load_preserve(tmp_path, kind):
    """The whole way, and a half-trained combination keeps all its rules when it is loaded."""
    make, shapes = KINDS[kind]
    model = make()
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, *shapes[0]))
    y = rng.integers(0, 3, 8)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    sentei.prune(model, ConstantSparsity(0.5))
    model.fit(x, y, batch_size=4, verbose=0)
    sentei.strip(model)
    sentei.cluster(model, 3, preserve_sparsity=True)
    model.fit(x, y, batch_size=4, verbose=0)
    sentei.strip(model).save(tmp_path / "plain.keras")
    model = keras.models.load_model(tmp_path / "plain.keras")
    model.compile("adam", loss)
    before = [ops.convert_to_numpy(v) for v in model.trainable_variables]
    sentei.preserve(model)
    model.fit(x, y, batch_size=4, verbose=0)
    model.save(tmp_path / "half.keras")
    resumed = keras.models.load_model(tmp_path / "half.keras")
    for now in (model, resumed):
        now.fit(x, y, batch_size=4, shuffle=False, verbose=0)
    held = frozenset().union(*(rule.positions for rule in find(resumed).projections))
    assert len(held) >= 3
    for i, (a, b, old) in enumerate(
        zip(model.trainable_variables, resumed.trainable_variables, before, strict=True)
    ):
        a, b = ops.convert_to_numpy(a), ops.convert_to_numpy(b)
        np.testing.assert_array_equal(a, b)
        if i in held:
            np.testing.assert_array_equal(b == 0, old == 0)
            assert same_classes(old, b)


def test_twice_or_over_rules_that_are_there_does_no_harm():
    model = model_of(sparse=SPARSE, both=BOTH)
    sentei.preserve(sentei.preserve(model))
    assert len(find(model).projections) == 2
    train(model)
    sentei.preserve(model)
    assert len(find(model).projections) == 2

    model = model_of(both=BOTH)  # clustered without a word about zeros, then preserved
    sentei.cluster(model, 4)
    train(model, steps=1)
    moved = kernel(model, "both")
    moved[moved == moved[BOTH == 0][0]] = 0.0
    model = model_of(both=moved)
    sentei.cluster(model, 4)
    sentei.preserve(model)
    assert len(find(model).projections) == 1
    train(model)
    np.testing.assert_array_equal(kernel(model, "both") == 0, BOTH == 0)


def test_in_the_middle_of_pruning_zeros_and_clusters_both_hold():
    model = model_of(sparse=SPARSE, both=BOTH)
    schedule = PolynomialDecay(0.0, 0.8, 0, 3, frequency=1)
    sentei.prune(model, schedule)
    sentei.preserve(model)
    train(model, steps=4)
    for name, value in (("sparse", SPARSE), ("both", BOTH)):
        now = kernel(model, name)
        assert np.count_nonzero(now) <= round(256 * 0.2)
        assert np.all(now[value == 0] == 0)
    now = kernel(model, "both")
    assert len(np.unique(now)) <= 4


def test_a_model_with_nothing_to_keep_is_returned_as_it_is():
    model = model_of(dense=DENSE)
    optimizer = model.optimizer
    assert sentei.preserve(model) is model
    assert model.optimizer is optimizer


def test_few_weights_left_that_all_differ_are_not_clusters():
    few = np.where(np.arange(1024) % 16 == 0, rng.normal(size=1024), 0.0).reshape(32, 32)
    model = model_of(few=few.astype("float32"))
    sentei.preserve(model)
    assert [type(rule) for rule in find(model).projections] == [KeptZeros]


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: sentei.preserve(3), "Expected a Keras model"),
        (lambda: sentei.preserve(KINDS["dense"][0]()), "is not compiled"),
    ],
)
def test_a_wrong_argument_is_named(do, message):
    with pytest.raises(SenteiError, match=message):
        do()
