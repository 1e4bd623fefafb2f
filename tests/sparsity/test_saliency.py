"""Pruning by gradients: SNIP at one stroke, movement over time; and a rewound lottery ticket."""

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import SenteiError
from sentei.sparsity import Block, ConstantSparsity, PolynomialDecay

pytestmark = pytest.mark.core

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 24)).astype("float32")
Y = RANDOM.normal(size=(64, 4)).astype("float32")
FIT = {"batch_size": 16, "verbose": 0, "shuffle": False}


def network(optimizer):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((24,))
    hidden = kl.Dense(16, "tanh", name="wide")(inputs)
    model = keras.Model(inputs, kl.Dense(4, name="head")(hidden))
    model.compile(optimizer, "mse")
    return model


def array(value):
    return ops.convert_to_numpy(value)


def kernels(model):
    return [array(model.get_layer(name).kernel) for name in ("wide", "head")]


def dense_gradients(model, x, y):
    """Those of both kernels, by hand."""
    wide, head = kernels(model)
    hidden = np.tanh(x @ wide + array(model.get_layer("wide").bias))
    error = hidden @ head + array(model.get_layer("head").bias) - y
    back = 2 * error / error.size
    return [x.T @ (back @ head.T * (1 - hidden**2)), hidden.T @ back]


def best(scores, keep):
    kept = np.zeros(scores.size, bool)
    kept[np.argsort(-scores.ravel(), kind="stable")[:keep]] = True
    return kept.reshape(scores.shape)


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_snip_keeps_what_the_first_batch_is_sensitive_to(scope):
    model = network(keras.optimizers.Adam(0.01))
    saliency = [
        np.abs(weight * gradient)
        for weight, gradient in zip(
            kernels(model), dense_gradients(model, X[:16], Y[:16]), strict=True
        )
    ]
    if scope == "layer":
        expected = [best(score, score.size // 4) for score in saliency]
    else:
        flat = best(np.concatenate([score.ravel() for score in saliency]), (384 + 64) // 4)
        expected = [flat[:384].reshape(24, 16), flat[384:].reshape(16, 4)]
    sentei.prune(model, ConstantSparsity(0.75), criterion="snip", scope=scope)
    model.fit(X, Y, epochs=2, **FIT)
    (rule,) = model.optimizer.projections
    for mask, kernel, wanted in zip(rule.masks.values(), kernels(model), expected, strict=True):
        np.testing.assert_array_equal(array(mask), wanted)
        np.testing.assert_array_equal(kernel != 0, wanted)
    moments = [v for v in model.optimizer.inner_optimizer.variables if v.shape == (24, 16)]
    assert len(moments) == 2
    for moment in moments:
        np.testing.assert_array_equal(array(moment) != 0, expected[0])


def test_snip_waits_for_a_batch_whose_gradients_are_finite():
    model = network(keras.optimizers.SGD(0.0))
    (rule,) = sentei.prune(model, ConstantSparsity(0.5), criterion="snip").optimizer.projections
    variables = model.trainable_variables
    good = [np.ones(v.shape, "float32") for v in variables]
    bad = [g * np.float32(np.inf) if g.ndim == 2 else g for g in good]
    for gradients, share in ((bad, 1.0), (good, 0.5)):
        rule.gradients({p: ops.convert_to_tensor(g) for p, g in enumerate(gradients)})
        assert [array(mask).mean() for mask in rule.masks.values()] == [share, share]


def test_movement_keeps_what_moves_away_from_zero():
    model = network(keras.optimizers.SGD(0.0))  # the weights stand still: scores add up by hand
    scores = [np.zeros_like(kernel) for kernel in kernels(model)]
    for start in range(0, 64, 16):
        gradients = dense_gradients(model, X[start : start + 16], Y[start : start + 16])
        for score, kernel, gradient in zip(scores, kernels(model), gradients, strict=True):
            score -= gradient * kernel
    sentei.prune(model, ConstantSparsity(0.75, begin_step=4, end_step=4), criterion="movement")
    model.fit(X, Y, **FIT)
    (rule,) = model.optimizer.projections
    for mask, score in zip(rule.masks.values(), scores, strict=True):
        np.testing.assert_array_equal(array(mask), best(score, score.size // 4))
    magnitude = best(np.abs(kernels(network("sgd"))[0]), 96)
    assert (array(rule.masks[0]) != magnitude).mean() > 0.1  # not what magnitude would keep


class Count(keras.callbacks.Callback):
    """Non-zeros of the pruned kernel after every step; saves the model after step 6."""

    def __init__(self, path):
        super().__init__()
        self.nonzeros, self.path = [], path

    def on_train_batch_end(self, batch, logs=None):
        self.nonzeros.append(np.count_nonzero(array(self.model.get_layer("wide").kernel)))
        if len(self.nonzeros) == 6:
            self.model.save(self.path)


@pytest.mark.parametrize(
    ("criterion", "schedule", "pattern"),
    [
        ("movement", PolynomialDecay(0.0, 0.75, 0, 10, frequency=2), Block((4, 2))),
        ("snip", ConstantSparsity(0.75), Block((4, 2))),
    ],
)
def test_counts_are_exact_and_a_saved_run_goes_on_bit_for_bit(
    criterion, schedule, pattern, tmp_path
):
    model = network(keras.optimizers.Adam(0.01))
    sentei.prune(model, schedule, criterion=criterion, pattern=pattern, layers=["wide"])
    count = Count(tmp_path / "half.keras")
    model.fit(X, Y, epochs=3, callbacks=[count], **FIT)
    assert count.nonzeros == [8 * round(48 * (1 - schedule(step))) for step in range(1, 13)]
    loaded = keras.models.load_model(count.path)
    loaded.fit(X[32:], Y[32:], **FIT)
    loaded.fit(X, Y, **FIT)
    for ours, theirs in zip(
        [*model.weights, *model.optimizer.variables],
        [*loaded.weights, *loaded.optimizer.variables],
        strict=True,
    ):
        np.testing.assert_array_equal(array(ours), array(theirs))


def test_snip_prunes_once_only():
    with pytest.raises(SenteiError, match=r"'snip' prunes once, but .* Use ConstantSparsity"):
        sentei.prune(network("sgd"), PolynomialDecay(0.0, 0.5, 0, 10), criterion="snip")


def test_a_lottery_ticket_starts_from_the_early_weights():
    """The recipe of docs/pruning.md, as it stands there."""
    page = (Path(__file__).parents[2] / "docs" / "pruning.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page, re.S)
    (recipe,) = (block for block in blocks if "early" in block)
    before, after = recipe.split("sentei.preserve(model)")
    model = network(keras.optimizers.Adam(0.01))
    names = {"model": model, "x": X, "y": Y, "sentei": sentei}
    names["ConstantSparsity"] = ConstantSparsity
    exec(before, names)
    masks = [array(mask) for mask in names["rule"].masks.values()]
    ticket = kernels(model)
    for kernel, mask, early in zip(ticket, masks, names["early"][::2], strict=True):
        assert mask.sum() == round(mask.size * 0.2)
        np.testing.assert_array_equal(kernel, np.where(mask, early, 0))
    exec("sentei.preserve(model)" + after, names)
    for kernel, mask, start in zip(kernels(model), masks, ticket, strict=True):
        np.testing.assert_array_equal(kernel != 0, mask)
        assert (kernel[mask] != start[mask]).mean() > 0.5  # not those that lead nowhere
