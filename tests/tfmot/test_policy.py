"""The old toolkit's policy for XNNPACK, by sentei's doctor."""

import keras
import numpy as np
import pytest
from keras import layers as kl

from sentei.tfmot.sparsity import keras as sparsity


def network(pool=True):
    x = image = keras.Input((16, 16, 3), name="image")
    x = kl.ZeroPadding2D(1)(x)
    x = kl.Conv2D(8, 3, 2, activation="relu", name="stem")(x)
    x = kl.Conv2D(32, 1, activation="relu", name="expand")(x)
    x = kl.DepthwiseConv2D(3, padding="same", activation="relu", name="depth")(x)
    x = kl.Conv2D(16, 1, name="project")(x)
    x = kl.GlobalAveragePooling2D()(x) if pool else kl.Flatten()(x)
    return keras.Model(image, kl.Dense(3, name="head")(x))


def test_prunes_what_runs_sparse():
    policy = sparsity.PruneForLatencyOnXNNPack()
    assert policy.allow_pruning(kl.Conv2D(4, 1)) and not policy.allow_pruning(kl.Conv2D(4, 3))
    model = sparsity.prune_low_magnitude(network(), pruning_policy=policy)
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    model.fit(rng.random((8, 16, 16, 3)), rng.integers(0, 3, 8), verbose=0)
    pruned = {layer.layer.name for layer in model.layers if hasattr(layer, "layer")}
    assert {"expand", "project"} <= pruned and not pruned & {"stem", "depth"}
    for layer in sparsity.strip_pruning(model).layers:
        if layer.name in pruned:
            assert np.mean(layer.get_weights()[0] == 0) == 0.5


def test_refuses_what_does_not():
    model = keras.Sequential([keras.Input((4,)), kl.Dense(3)])
    with pytest.raises(ValueError, match="no part of model"):
        sparsity.prune_low_magnitude(model, pruning_policy=sparsity.PruneForLatencyOnXNNPack())
