"""Clustering a model while it trains: the promises, over kinds of model and optimizer."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from kinds import KINDS

import sentei
from sentei.clustering import Rate, clustering, report
from sentei.core.errors import SenteiError
from sentei.core.install import find
from sentei.sparsity import ConstantSparsity, PolynomialDecay

pytestmark = pytest.mark.core
STEPS = 6
N = 3  # the small models' kernels hold 9 to 100 weights


def data(shapes, batch=4, steps=STEPS, seed=0):
    rng = np.random.default_rng(seed)
    x = [rng.normal(size=(batch * steps, *shape)).astype("float32") for shape in shapes]
    y = rng.integers(0, 3, batch * steps)
    return x if len(x) > 1 else x[0], y


def compiled(make, shapes, optimizer=None, **options):
    model = make()
    x, _ = data(shapes)
    model(x[:1] if not isinstance(x, list) else [part[:1] for part in x])
    options.setdefault("jit_compile", "auto")
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.Adam(0.01), loss, **options)
    return model


def train(model, shapes, steps=STEPS, seed=0, **options):
    x, y = data(shapes, steps=steps, seed=seed)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **options)


def values(model):
    return [ops.convert_to_numpy(v) for v in model.trainable_variables]


def rules(model):
    return [
        rule for rule in find(model).projections if isinstance(rule, sentei.clustering.Clustering)
    ]


def clustered(model):
    """The rule's entry and the value of every weight under a clustering rule."""
    now = values(model)
    return [(c, now[c.weight.index]) for rule in rules(model) for c in rule.weights]


def check_distinct(model):
    found = clustered(model)
    assert found
    for entry, value in found:
        bits = value.view(f"uint{8 * value.dtype.itemsize}")
        for row in entry.groups.rows(bits):
            assert len(np.unique(row)) <= entry.n, entry.weight.path


class EveryStep(keras.callbacks.Callback):
    """Calls a check after each optimizer step."""

    def __init__(self, check):
        super().__init__()
        self.check, self.steps = check, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        _ = self.model  # on JAX, asking for it puts the state back into the variables
        self.check()


slow = pytest.mark.slow
QUICK = ("dense", "functional", "subclassed", "custom layer", "convolutions")


@pytest.mark.parametrize(
    ("kind", "per_channel"),
    [pytest.param(k, False, marks=[] if k in QUICK else slow) for k in KINDS]
    + [pytest.param(k, True, marks=[] if k == "convolutions" else slow) for k in KINDS],
)
def test_at_most_n_values_bit_for_bit_after_every_step(kind, per_channel):
    make, shapes = KINDS[kind]
    model = compiled(make, shapes)
    assert sentei.cluster(model, N, per_channel=per_channel) is model
    check_distinct(model)
    before = values(model)
    counter = EveryStep(lambda: check_distinct(model))
    train(model, shapes, callbacks=[counter])
    assert counter.steps == STEPS
    moved = [not np.array_equal(before[c.weight.index], value) for c, value in clustered(model)]
    assert all(moved), "a weight did not train"
    check_distinct(model)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
    "ema overwrite": lambda: keras.optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=8.0
    ),
}


USUAL = ("sgd", "adam", "ema", "accumulation", "loss scale")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in USUAL else slow) for name in OPTIMIZERS]
)
def test_every_optimizer_keeps_the_rule_and_the_zeros(name):
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes, OPTIMIZERS[name]())
    if "ema" not in name:  # Keras on JAX cannot `fit` those twice without a rule of ours
        train(model, shapes, steps=2)  # so that members begin with different momentum
    for layer in model.layers:
        kernel = ops.convert_to_numpy(layer.kernel).copy()
        kernel[::2, ::2] = 0.0
        layer.kernel.assign(kernel)
    zeros = [v == 0 for v in values(model) if v.ndim > 1]
    sentei.cluster(model, N, preserve_sparsity=True)

    def check():
        check_distinct(model)
        for (_, value), zero in zip(clustered(model), zeros, strict=True):
            np.testing.assert_array_equal(value[zero].view("int32"), 0)
            assert np.all(value[~zero] != 0)

    train(model, shapes, callbacks=[EveryStep(check)])
    check()  # after `fit` has put the averages in place, too
    if "ema" in name:
        averages = [v for v in find(model).inner_optimizer.variables if "_average" in v.name]
        for entry, _ in clustered(model):
            average = ops.convert_to_numpy(averages[entry.weight.index])
            assert len(np.unique(average)) <= N


@pytest.mark.parametrize("gradient", ["mean", "sum"])
def test_a_step_of_sgd_is_the_papers_on_the_centroids(gradient):
    rng = np.random.default_rng(0)
    model = keras.Sequential([keras.Input((16,)), kl.Dense(12)])
    rule = clustering(model, 5, gradient=gradient)
    optimizer = sentei.Projected(keras.optimizers.SGD(0.25), [rule])
    optimizer.build(model.trainable_variables)
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    given = [rng.normal(size=v.shape).astype("float32") for v in model.trainable_variables]
    optimizer.apply([ops.convert_to_tensor(g) for g in given], model.trainable_variables)
    now = ops.convert_to_numpy(model.layers[0].kernel)
    expected = kernel.astype("float64")
    for value in np.unique(kernel):
        here = kernel == value
        total = given[0][here].astype("float64").sum()
        expected[here] -= 0.25 * (total / here.sum() if gradient == "mean" else total)
    np.testing.assert_allclose(now, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        ops.convert_to_numpy(model.layers[0].bias), -0.25 * given[1], rtol=1e-6
    )


def test_large_weights_per_channel_follow_the_mean_too():
    """Above the size from which sums are taken in parts, with and without channels."""
    for per_channel, axis in ((False, None), (True, 0)):
        model = keras.Sequential([keras.Input((900,)), kl.Dense(6, use_bias=False)])
        rule = clustering(model, 16, per_channel=per_channel)
        optimizer = sentei.Projected(keras.optimizers.SGD(1.0), [rule])
        optimizer.build(model.trainable_variables)
        kernel = ops.convert_to_numpy(model.layers[0].kernel)
        given = np.random.default_rng(1).normal(size=kernel.shape).astype("float32")
        optimizer.apply([ops.convert_to_tensor(given)], model.trainable_variables)
        now = ops.convert_to_numpy(model.layers[0].kernel)
        for columns in [slice(None)] if axis is None else [slice(i, i + 1) for i in range(6)]:
            part, moved, slope = kernel[:, columns], now[:, columns], given[:, columns]
            for value in np.unique(part):
                here = part == value
                assert len(np.unique(moved[here])) == 1
                np.testing.assert_allclose(
                    moved[here][0], value - slope[here].mean(), rtol=1e-4, atol=1e-5
                )


@pytest.mark.parametrize("kind", ["dense", pytest.param("recurrent", marks=slow)])
def test_identity_as_many_clusters_as_values_train_as_if_there_were_none(kind):
    """Weights that hold n values, each many times, and gradients that are equal: no change."""
    make, shapes = KINDS[kind]
    results = []
    for rule in (False, True):
        keras.utils.set_random_seed(1)
        model = compiled(make, shapes, keras.optimizers.SGD(0.0))
        for v in model.trainable_variables:
            v.assign(np.round(ops.convert_to_numpy(v)))
        if rule:
            sentei.cluster(model, N)
        train(model, shapes)
        results.append(values(model))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "options",
    [
        {"jit_compile": False},
        {"jit_compile": True},
        {"run_eagerly": True},
        {"steps_per_execution": 3},
    ],
    ids=lambda options: next(iter(options)) + "=" + str(next(iter(options.values()))),
)
def test_every_way_of_running_a_step(options):
    if options.get("jit_compile") is True and keras.backend.backend() == "torch":
        pytest.skip("torch.compile is not what is tested here")
    if "steps_per_execution" in options and keras.backend.backend() == "torch":
        pytest.skip("Keras on PyTorch takes one step an execution")
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes, **options)
    sentei.cluster(model, N)
    train(model, shapes)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == STEPS
    check_distinct(model)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        make, shapes = KINDS["dense"]
        model = compiled(make, shapes)
        sentei.cluster(model, N)
        assert isinstance(find(model), sentei.Projected)
        train(model, shapes)
        for entry, value in clustered(model):
            assert len(np.unique(value.astype("float32"))) <= entry.n
    finally:
        keras.config.set_dtype_policy("float32")


RESUMED = [
    ("dense", "adam", {}, False),
    ("dense", "ema", {}, True),
    ("convolutions", "adam", {"per_channel": True}, True),
    ("dense", "adam", {"reassign_every": 3}, False),
]
RESUMED_TOO = [
    *[("dense", name, {}, True) for name in ("momentum", "accumulation", "loss scale")],
    *[(kind, "adam", {}, True) for kind in ("subclassed", "recurrent", "custom block")],
    ("convolutions", "adam", {"init": Rate(0.5), "preserve_sparsity": True}, False),
    ("convolutions", "adam", {"reassign_every": 3}, True),
]


@pytest.mark.parametrize(
    ("kind", "optimizer", "options", "prune"),
    RESUMED + [pytest.param(*row, marks=slow) for row in RESUMED_TOO],
)
def test_saved_in_the_middle_and_resumed_is_bit_for_bit_uninterrupted(
    tmp_path, kind, optimizer, options, prune
):
    make, shapes = KINDS[kind]
    model = compiled(make, shapes, OPTIMIZERS[optimizer]())
    if prune:
        sentei.prune(model, PolynomialDecay(0.0, 0.6, 0, 9, frequency=2))
    sentei.cluster(model, N, **options)
    train(model, shapes, steps=4)
    model.save(tmp_path / "half.keras")
    resumed = keras.models.load_model(tmp_path / "half.keras")
    for a, b in zip(values(model), values(resumed), strict=True):
        np.testing.assert_array_equal(a, b)
    for now in (model, resumed):
        train(now, shapes, steps=6, callbacks=[EveryStep(lambda now=now: check_distinct(now))])
    ours = [*model.variables, *model.optimizer.variables]
    theirs = [*resumed.variables, *resumed.optimizer.variables]
    for a, b in zip(ours, theirs, strict=True):
        if "seed_generator" in a.path:
            continue  # Keras does not save it
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    assert [repr(row) for row in report(resumed)] == [repr(row) for row in report(model)]


def test_pruning_goes_on_under_clusters():
    make, shapes = KINDS["convolutions"]
    model = compiled(make, shapes)
    schedule = PolynomialDecay(0.2, 0.75, 1, 5, frequency=2)
    sentei.prune(model, schedule)
    sentei.cluster(model, N)  # nothing said of zeros: the pruning rule's stay all the same
    pruning = find(model).projections[0]
    step = [0]

    def check():
        step[0] += 1
        check_distinct(model)
        for entry, value in clustered(model):
            assert np.count_nonzero(value) == round(value.size * (1 - schedule(step[0])))
            mask = ops.convert_to_numpy(pruning.masks[entry.weight.index])
            np.testing.assert_array_equal(value != 0, mask)

    train(model, shapes, callbacks=[EveryStep(check)])
    assert step[0] == STEPS


def test_a_cluster_that_loses_members_to_pruning_moves_by_the_mean_of_the_others():
    model = keras.Sequential([keras.Input((8,)), kl.Dense(16, use_bias=False)])
    kernel = np.repeat(np.float32([-2.0, 1.0, 3.0, 4.0]), 32).reshape(8, 16)
    model.layers[0].kernel.assign(kernel)
    rules = [
        sentei.sparsity.pruning(model, ConstantSparsity(0.125)),  # 16 of the 32 at 1.0
        clustering(model, 5),
    ]
    optimizer = sentei.Projected(keras.optimizers.SGD(0.01), rules)
    optimizer.build(model.trainable_variables)
    np.testing.assert_array_equal(ops.convert_to_numpy(model.layers[0].kernel), kernel)
    given = [np.random.default_rng(i).normal(size=kernel.shape).astype("float32") for i in (0, 1)]
    optimizer.apply([ops.convert_to_tensor(given[0])], model.trainable_variables)
    between = ops.convert_to_numpy(model.layers[0].kernel)
    optimizer.apply([ops.convert_to_tensor(given[1])], model.trainable_variables)
    after = ops.convert_to_numpy(model.layers[0].kernel)
    left = between != 0
    assert left.sum() == 112 and np.all(kernel[~left] == 1.0)
    np.testing.assert_array_equal(after != 0, left)
    for value in (-2.0, 1.0, 3.0, 4.0):
        members = left & (kernel == value)
        first = value - 0.01 * given[0][kernel == value].mean()
        np.testing.assert_allclose(between[members], first, rtol=1e-5)
        np.testing.assert_allclose(after[members], first - 0.01 * given[1][members].mean(), 1e-5)


def test_averages_are_the_average_of_each_cluster():
    model = keras.Sequential([keras.Input((16,)), kl.Dense(16, use_bias=False)])
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.9)
    rule = clustering(model, 4)
    optimizer = sentei.Projected(inner, [rule])
    optimizer.build(model.trainable_variables)
    # Keras takes the first average as it is.
    optimizer.apply([ops.ones((16, 16))], model.trainable_variables)
    (average,) = [v for v in inner.variables if v.name.endswith("_average")]
    dense = np.random.default_rng(0).normal(size=(16, 16)).astype("float32")
    average.assign(dense)  # as it stands when clustering begins in mid-training
    optimizer.apply([ops.ones((16, 16))], model.trainable_variables)
    weights = ops.convert_to_numpy(model.layers[0].kernel)
    found, indices = ops.convert_to_numpy(average), ops.convert_to_numpy(rule.indices[0])
    for k in range(4):
        here = indices == k
        assert len(np.unique(found[here])) == 1
        expected = 0.9 * dense[here].mean() + 0.1 * weights[here].mean()
        np.testing.assert_allclose(found[here][0], expected, rtol=1e-5, atol=1e-6)


def test_without_preserving_zeros_move_with_their_cluster():
    model = keras.Sequential([keras.Input((8,)), kl.Dense(8, use_bias=False)])
    model.layers[0].kernel.assign(np.where(np.eye(8) > 0, 1.0, 0.0))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    sentei.cluster(model, 2)
    x = np.random.default_rng(0).normal(size=(16, 8))
    model.fit(x, x @ np.ones((8, 8)), verbose=0)
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    assert len(np.unique(kernel)) == 2 and np.all(kernel != 0)


def test_reassigned_weights_move_to_the_cluster_nearest_to_their_shadow():
    model = keras.Sequential([keras.Input((16,)), kl.Dense(16, use_bias=False)])
    rule = clustering(model, 4, reassign_every=3)
    optimizer = sentei.Projected(keras.optimizers.SGD(0.05), [rule])
    start = ops.convert_to_numpy(model.layers[0].kernel).astype("float64")
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    kernel = ops.convert_to_numpy(model.layers[0].kernel)
    cluster = np.searchsorted(np.unique(kernel), kernel)
    centroids, shadow = np.unique(kernel).astype("float64"), start
    for step in range(1, 8):
        given = rng.normal(size=(16, 16)).astype("float32")
        optimizer.apply([ops.convert_to_tensor(given)], model.trainable_variables)
        shadow = shadow - 0.05 * given
        centroids = np.array([centroids[k] - 0.05 * given[cluster == k].mean() for k in range(4)])
        if step % 3 == 0:
            cluster = np.argmin(np.abs(shadow[..., None] - centroids), axis=-1)
            centroids = np.array([shadow[cluster == k].mean() for k in range(4)])
        now = ops.convert_to_numpy(model.layers[0].kernel)
        assert len(np.unique(now)) == 4
        np.testing.assert_allclose(now, centroids[cluster], rtol=1e-4, atol=1e-5)


def test_memory_is_about_one_byte_a_weight():
    make = lambda: keras.Sequential([keras.Input((300,)), kl.Dense(200)])  # noqa: E731
    model = compiled(make, [(300,)])
    model.optimizer.build(model.trainable_variables)
    before = sum(ops.convert_to_numpy(v).nbytes for v in model.optimizer.variables)
    sentei.cluster(model, 16)
    after = sum(ops.convert_to_numpy(v).nbytes for v in model.optimizer.variables)
    assert (after - before) / 60_000 < 1.01


def test_layers_their_own_n_and_what_is_skipped():
    model = keras.Sequential(
        [
            keras.Input((12, 12, 3)),
            kl.Conv2D(8, 3, name="stem"),
            kl.DepthwiseConv2D(3, name="depth"),
            kl.Conv2D(8, 3, name="body", use_bias=False),
            kl.GlobalAveragePooling2D(),
            kl.Dense(2, name="head"),
        ]
    )
    model.compile("adam", "mse")
    sentei.cluster(model, 8, layers={"body": 32, "stem": None})
    rows = {row.path: row for row in report(model)}
    assert rows["body/kernel"].n == 32 and rows["body/kernel"].distinct == 32
    assert rows["stem/kernel"].n is None and "says no" in rows["stem/kernel"].note
    assert "name it in `layers`" in rows["depth/kernel"].note
    assert rows["head/kernel"].note == "16 weights: fewer than 4 for each of 8 clusters"
    assert "16 weights: fewer" in str(report(model))
    sentei.cluster(model, 4, layers=["depth"])
    assert {row.path: row for row in report(model)}["depth/kernel"].distinct == 4
    model.train_on_batch(np.ones((2, 12, 12, 3)), np.ones((2, 2)))
    check_distinct(model)


def test_a_custom_layer_says_what_may_be_clustered():
    @keras.saving.register_keras_serializable("sentei_tests")
    class Two(kl.Layer):
        def build(self, shape):
            self.a = self.add_weight(shape=(shape[-1], 8), name="a")
            self.b = self.add_weight(shape=(8, 8), name="b")

        def call(self, x):
            return x @ self.a @ self.b

        def get_clusterable_variables(self):
            return [self.b]

    model = keras.Sequential([keras.Input((8,)), Two()])
    model.compile("sgd", "mse")
    sentei.cluster(model, 4)
    a, b = values(model)
    assert len(np.unique(a)) == 64 and len(np.unique(b)) == 4


def test_the_report_measures_the_variable():
    model = keras.Sequential([keras.Input((32,)), kl.Dense(32, use_bias=False)])
    model.compile("adam", "mse")
    before = values(model)[0].astype("float64")
    sentei.cluster(model, 16)
    after = values(model)[0]
    (row,) = report(model)
    counts = np.unique(after, return_counts=True)[1]
    share = counts / counts.sum()
    entropy = -(share * np.log2(share)).sum()
    assert (row.n, row.distinct, row.size) == (16, 16, 1024)
    assert row.entropy == pytest.approx(entropy)
    assert row.estimate == np.ceil(1024 * entropy / 8) + 64
    assert row.error == pytest.approx(
        np.sqrt(((before - after) ** 2).sum() / (before**2).sum()), rel=1e-5
    )
    assert report(model).bits == pytest.approx(entropy)
    assert "16" in str(report(model))
    plain = report(sentei.strip(model))[0]
    assert (plain.n, plain.error, plain.distinct) == (None, None, 16)


def test_awkward_weights():
    """Constant tensors, all-zero channels, more clusters than values."""
    model = keras.Sequential(
        [keras.Input((64,)), kl.Dense(8, name="a"), kl.Dense(8, name="b"), kl.Dense(8, name="c")]
    )
    rng = np.random.default_rng(0)
    a = rng.normal(size=(64, 8)).astype("float32")
    a[:, ::2] = 0.0
    model.get_layer("a").kernel.assign(a)
    model.get_layer("b").kernel.assign(np.full((8, 8), 0.5))
    model.get_layer("c").kernel.assign(rng.integers(0, 3, (8, 8)) / 4)
    c = values(model)[4]
    model.compile("adam", "mse")
    sentei.cluster(model, 16, per_channel=True, preserve_sparsity=True)
    np.testing.assert_array_equal(values(model)[4], c)
    np.testing.assert_array_equal(values(model)[2], 0.5)
    x = rng.normal(size=(32, 64))
    model.fit(x, x[:, :8], verbose=0)
    check_distinct(model)
    now = values(model)
    assert np.all(now[0][:, ::2] == 0) and np.all(now[0][:, 1::2] != 0)
    assert len(np.unique(now[2])) == 1 and now[2][0, 0] != 0.5
    np.testing.assert_array_equal(now[4] == 0, c == 0)
    assert all(np.isfinite(v).all() for v in now)


def test_weights_that_stop_being_finite_raise_by_name():
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes)
    sentei.cluster(model, N)
    x, y = data(shapes)
    with pytest.raises(SenteiError, match=r"kernel holds values that are not finite"):
        model.fit(x * np.nan, y, batch_size=4, verbose=0)


def _model(*, nan=False, frozen=False):
    model = compiled(*KINDS["dense"])
    if nan:
        kernel = ops.convert_to_numpy(model.layers[0].kernel).copy()
        kernel[0, 0] = np.nan
        model.layers[0].kernel.assign(kernel)
    if frozen:
        model.trainable = False
        model.compile("sgd", "mse")
    return model


def _twice():
    return sentei.cluster(sentei.cluster(_model(), N), N)


def _pruned_after():
    sentei.prune(sentei.cluster(_model(), N), ConstantSparsity(0.5))


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: sentei.cluster("model", 4), "Expected a Keras model.*str"),
        (lambda: sentei.cluster(KINDS["dense"][0](), 4), "is not compiled"),
        (lambda: sentei.cluster(_model(frozen=True), 4), "no trainable weights"),
        (lambda: sentei.cluster(_model(nan=True), 4), "dense.*kernel holds.*not finite"),
        (lambda: sentei.cluster(_model(), 1), r"from 2 to 256.*n=1"),
        (lambda: sentei.cluster(_model(), 257), r"from 2 to 256.*n=257"),
        (lambda: sentei.cluster(_model(), 4.0), r"from 2 to 256.*n=4\.0"),
        (lambda: sentei.cluster(_model(), 200), "fewer than 4 for each of 200 clusters"),
        (lambda: sentei.cluster(_model(), 4, layers={"dense.*": 0.5}), "from 2 to 256.*0.5"),
        (lambda: sentei.cluster(_model(), 4, layers=["denze"]), "Did you mean 'dense"),
        (lambda: sentei.cluster(_model(), 4, init="lloyd"), "`init` must be one of"),
        (lambda: sentei.cluster(_model(), 4, gradient="max"), "'mean' or 'sum'.*'max'"),
        (lambda: sentei.cluster(_model(), 4, reassign_every=0), "at least 1, or None.*=0"),
        (
            lambda: sentei.cluster(_model(), 4, reassign_every=2, gradient="sum"),
            "Leave one of the two out",
        ),
        (_twice, "is clustered already, to 3 values"),
        (_pruned_after, r"Pruning after it would break its clusters\. Prune first"),
    ],
)
def test_a_wrong_argument_is_named(do, message):
    with pytest.raises(SenteiError, match=message):
        do()


def test_a_refused_rule_changes_nothing():
    model = sentei.cluster(_model(), N)
    before = values(model)
    for refused in (
        lambda: sentei.cluster(model, N),
        lambda: sentei.prune(model, ConstantSparsity(0.5)),
    ):
        with pytest.raises(SenteiError):
            refused()
        assert len(find(model).projections) == 1
    for a, b in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(a, b)
    train(model, KINDS["dense"][1])
    check_distinct(model)


def test_strip_bakes_the_values_in(tmp_path):
    make, shapes = KINDS["dense"]
    model = sentei.cluster(compiled(make, shapes), N)
    train(model, shapes)
    before = values(model)
    sentei.strip(model).save(tmp_path / "plain.keras")
    for a, b in zip(before, values(keras.models.load_model(tmp_path / "plain.keras")), strict=True):
        np.testing.assert_array_equal(a, b)
    assert find(model) is None
