"""Training sparse from the start: how many connections, which ones move, and where to."""

from dataclasses import dataclass

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import SenteiError
from sentei.core.select import Axes
from sentei.sparsity import Block, ConstantSparsity, Element, NofM, PolynomialDecay, distribute
from sentei.sparsity.growth import cosine_fraction, evolve, noise

pytestmark = pytest.mark.core

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(64, 6, 6, 4)).astype("float32")
Y = RANDOM.integers(0, 3, 64)


def network(optimizer=None):
    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4)),
            kl.Conv2D(8, 3, name="conv", activation="relu"),
            kl.Flatten(),
            kl.Dense(16, name="wide", activation="relu"),
            kl.Dense(3, name="head"),
        ]
    )
    model.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    return model


def schedule(steps=16, sparsity=0.75, frequency=4):
    return ConstantSparsity(sparsity, end_step=steps, frequency=frequency)


def rule_of(model):
    return model.optimizer.projections[0]


def arrays(values):
    return [ops.convert_to_numpy(value) for value in values]


class Watch(keras.callbacks.Callback):
    """Masks, weights and moments after every step; saves the model once, after step `save_at`."""

    def __init__(self, save_at=0, path=None):
        super().__init__()
        self.masks, self.weights, self.slots = [], [], []
        self.save_at, self.path = save_at, path

    def on_train_batch_end(self, batch, logs=None):
        rule = rule_of(self.model)
        self.masks.append(arrays(rule.masks.values()))
        self.weights.append(arrays(self.model.trainable_variables[p] for p in rule.masks))
        self.slots.append([(p, ops.convert_to_numpy(slot)) for p, slot in rule._slots])
        if len(self.masks) == self.save_at:
            self.model.save(self.path)


@dataclass
class Run:
    """A whole training run that was watched."""

    model: keras.Model
    first: list
    start: list
    watch: Watch
    saved: str


PATTERNS = {"rigl": Element(), "set": Block((4, 2)), "random": NofM(1, 4)}
RUNS: dict[str, Run] = {}
FIT = {"batch_size": 16, "verbose": 0, "shuffle": False}


@pytest.fixture
def run(request, tmp_path_factory):
    """The run of a criterion, made once."""
    criterion = request.param
    if criterion not in RUNS:
        model = network()
        sentei.prune(
            model, schedule(), criterion=criterion, pattern=PATTERNS[criterion],
            layers=["conv", "wide"], seed=5,
        )  # fmt: skip
        first = arrays(rule_of(model).masks.values())
        start = arrays(model.trainable_variables[p] for p in rule_of(model).masks)
        path = str(tmp_path_factory.mktemp(criterion) / "half.keras")
        watch = Watch(save_at=2, path=path)  # in the middle of an interval
        model.fit(X, Y, epochs=4, callbacks=[watch], **FIT)
        RUNS[criterion] = Run(model, first, start, watch, path)
    return RUNS[criterion]


# --- the algorithm, against a plain restatement ---------------------------------------------------


def evolved_in_numpy(weight, mask, growth, keep, move):
    """Algorithm 1 of the paper for single weights, ties by position."""
    flat, score = np.abs(weight).ravel(), growth.ravel()
    active = np.flatnonzero(mask)
    kept = active[np.argsort(-flat[active], kind="stable")][: keep - move]
    others = np.setdiff1d(np.arange(flat.size), kept)
    grown = others[np.argsort(-score[others], kind="stable")][:move]
    new = np.zeros(flat.size, bool)
    new[kept] = new[grown] = True
    return new.reshape(weight.shape)


@pytest.mark.parametrize("move", [0, 1, 7, 20])
def test_connections_move_as_the_paper_says(move):
    random = np.random.default_rng(move)
    mask = random.permutation(np.arange(80) < 20).reshape(10, 8)
    weight = (random.normal(size=(10, 8)) * mask).astype("float32")
    growth = random.random((10, 8)).astype("float32")
    axes = Axes((), (0,), (1,))
    found = evolve(
        ops.convert_to_tensor(weight), ops.convert_to_tensor(mask), ops.convert_to_tensor(growth),
        Element(), axes, 20, ops.convert_to_tensor(np.int32(move)),
    )  # fmt: skip
    expected = evolved_in_numpy(weight, mask, growth, 20, move)
    np.testing.assert_array_equal(ops.convert_to_numpy(found), expected)


def test_the_share_that_moves_decays_along_a_cosine_and_ends():
    shares = [cosine_fraction(step, 0.3, 75) for step in (0, 25, 37.5, 50, 75, 90)]
    np.testing.assert_allclose(shares, [0.3, 0.225, 0.15, 0.075, 0.0, 0.0], atol=1e-12)


def test_noise_is_uniform_and_new_at_every_step():
    first, second = (ops.convert_to_numpy(noise((200, 200), step, 3)) / 2**23 for step in (1, 2))
    for values in (first, second):
        histogram = np.histogram(values, bins=20, range=(0, 1))[0]
        assert np.abs(histogram - 2000).max() < 250
    assert abs(np.corrcoef(first.ravel(), second.ravel())[0, 1]) < 0.02
    assert abs(np.corrcoef(first.ravel()[1:], first.ravel()[:-1])[0, 1]) < 0.02
    # The same numbers on every backend.
    small = ops.convert_to_numpy(noise((3,), 1, 0)).astype(int).tolist()
    assert small == [hashed(i, 1, 0) for i in range(3)]


def hashed(place, step, seed):
    """lowbias32 in Python's own integers."""

    def mix(x):
        x &= 0xFFFFFFFF
        x ^= x >> 16
        x = x * 0x7FEB352D & 0xFFFFFFFF
        x ^= x >> 15
        x = x * 0x846CA68B & 0xFFFFFFFF
        return x ^ x >> 16

    return mix(place ^ mix(step + seed)) & 0x7FFFFF


# --- in training ---------------------------------------------------------------------------------


@pytest.mark.parametrize("run", ["rigl", "set", "random"], indirect=True)
def test_the_number_of_connections_never_changes_and_weights_stay_on_them(run):
    assert all(not w[~m].any() for w, m in zip(run.start, run.first, strict=True))
    expected = [round(m.size * 0.25) for m in run.first]
    assert len(run.watch.masks) == 16
    for masks, weights in zip(run.watch.masks, run.watch.weights, strict=True):
        assert [int(m.sum()) for m in masks] == expected
        assert all(not w[~m].any() for w, m in zip(weights, masks, strict=True))
    moved = [
        any((a != b).any() for a, b in zip(before, after, strict=True))
        for before, after in zip([run.first, *run.watch.masks], run.watch.masks, strict=False)
    ]
    # Updates at steps 4 and 8; at 12 (75 % of 16) they have stopped.
    moving = [step for step, changed in enumerate(moved, start=1) if changed]
    assert moving == ([] if rule_of(run.model).criterion == "random" else [4, 8])


@pytest.mark.parametrize("run", ["rigl"], indirect=True)
def test_moments_of_what_went_and_of_what_came_are_zero(run):
    rule = rule_of(run.model)
    assert len(rule._slots) == 2 * len(rule.masks)  # Adam has two
    masks = run.watch.masks
    stays = dict(zip(rule.masks, map(np.logical_and, masks[2], masks[3]), strict=True))
    for position, slot in run.watch.slots[3]:
        assert not slot[~stays[position]].any()
        assert slot[stays[position]].any()


@pytest.mark.parametrize("run", ["set"], indirect=True)
def test_blocks_move_whole(run):
    for conv, wide in run.watch.masks:
        assert set(np.unique(conv.reshape(9, 4, 4, 2).sum((1, 3)))) == {0, 8}
        assert set(np.unique(wide.reshape(32, 4, 8, 2).sum((1, 3)))) == {0, 8}


@pytest.mark.parametrize(
    "run", ["rigl", pytest.param("set", marks=pytest.mark.slow)], indirect=True
)
def test_a_saved_run_goes_on_bit_for_bit(run):
    loaded = keras.models.load_model(run.saved)
    loaded.fit(X[32:], Y[32:], **FIT)
    loaded.fit(X, Y, epochs=3, **FIT)
    for ours, theirs in zip(run.model.weights, loaded.weights, strict=True):
        np.testing.assert_array_equal(*arrays((ours, theirs)))
    for ours, theirs in zip(run.model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_array_equal(*arrays((ours, theirs)))


def test_rigl_grows_where_the_dense_gradient_is_largest():
    model = network(keras.optimizers.SGD(0.0))  # the weights stand still, but for the masks
    sentei.prune(model, schedule(), criterion="rigl", layers=["wide"])
    rule = rule_of(model)
    (position,) = rule.masks
    mask = ops.convert_to_numpy(rule.masks[position])
    weights = ops.convert_to_numpy(model.trainable_variables[position])
    watch = Watch()
    model.fit(X, Y, batch_size=64, epochs=4, verbose=0, callbacks=[watch])
    keep = int(mask.sum())
    move = round(cosine_fraction(4, 0.3, 12) * keep)
    gradient = dense_gradient(weights, model)
    expected = evolved_in_numpy(weights, mask, np.abs(gradient), keep, move)
    agree = (watch.masks[3][0] == expected).mean()
    assert agree > 0.999  # ties of rounding between two ways to compute a gradient
    assert move > 5
    assert not watch.weights[3][0][~mask].any()  # new connections start at zero


def dense_gradient(kernel, model):
    """The gradient of the loss for the wide layer's kernel, by hand."""
    head, wide, conv = (model.get_layer(name) for name in ("head", "wide", "conv"))
    x = ops.convert_to_numpy(conv(X)).reshape(64, -1)
    hidden = x @ kernel + ops.convert_to_numpy(wide.bias)
    active = np.maximum(hidden, 0)
    logits = active @ ops.convert_to_numpy(head.kernel) + ops.convert_to_numpy(head.bias)
    share = np.exp(logits - logits.max(1, keepdims=True))
    share /= share.sum(1, keepdims=True)
    share[np.arange(64), Y] -= 1
    back = share / 64 @ ops.convert_to_numpy(head.kernel).T * (hidden > 0)
    return x.T @ back


# --- distributions -------------------------------------------------------------------------------


def test_distributions_keep_the_overall_sparsity_and_follow_their_formula():
    shapes = [(3, 3, 16, 32), (1, 1, 32, 256), (256, 10)]
    axes = [Axes((0, 1), (2,), (3,)), Axes((0, 1), (2,), (3,)), Axes((), (0,), (1,))]
    sizes = np.array([4608, 8192, 2560])
    for name in ("uniform", "er", "erk"):
        shares = np.array(distribute(name, shapes, axes, 0.9))
        np.testing.assert_allclose((shares * sizes).sum() / sizes.sum(), 0.9, atol=1e-12)
    erk = 1 - np.array(distribute("erk", shapes, axes, 0.9))
    raw = np.array([(16 + 32 + 6) / 4608, (32 + 256 + 2) / 8192, (256 + 10) / 2560])
    np.testing.assert_allclose(erk / erk[0], raw / raw[0], rtol=1e-12)


def test_a_layer_too_small_for_its_share_is_dense_and_the_others_make_up_for_it():
    shapes, axes = [(512, 512), (4, 4)], [Axes((), (0,), (1,))] * 2
    shares = distribute("er", shapes, axes, 0.5)
    assert shares[1] == 0.0
    assert abs(shares[0] * 512**2 / (512**2 + 16) - 0.5) < 1e-12


def test_the_distribution_sets_the_layers_targets():
    model = network()
    sentei.prune(model, schedule(sparsity=0.8), criterion="random", distribution="erk")
    masks = arrays(rule_of(model).masks.values())
    assert abs(sum(m.sum() for m in masks) / sum(m.size for m in masks) - 0.2) < 0.002
    densities = {m.shape: m.mean() for m in masks}
    assert densities[(16, 3)] > densities[(128, 16)]


# --- errors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"schedule": PolynomialDecay(0.0, 0.5, 0, 10)}, "Use ConstantSparsity"),
        ({"schedule": ConstantSparsity(0.5)}, "needs to know when training ends"),
        ({"scope": "global"}, "fixed number of weights in each layer"),
        ({"distribution": "best"}, "`distribution` must be one of 'uniform', 'er', 'erk'"),
        ({"pattern": NofM(1, 4), "layers": ["wide"]}, "too small for"),
        ({"seed": -1}, "`seed` must be a whole number of at least 0. Received: seed=-1"),
        ({"seed": None, "criterion": "set"}, "`seed` must be a whole number"),
        ({"criterion": "rigel"}, "must be one of 'magnitude', 'rigl', 'set', 'random'"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    given = {"schedule": schedule(), "criterion": "rigl", **arguments}
    with pytest.raises(SenteiError, match=message):
        sentei.prune(network(), given.pop("schedule"), **given)
