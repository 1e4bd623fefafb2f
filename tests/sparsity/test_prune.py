"""Pruning a model while it trains: the promises, over kinds of model and optimizer."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops
from kinds import KINDS

import sentei
from sentei.core.errors import SenteiError
from sentei.core.install import find
from sentei.core.select import select
from sentei.sparsity import Block, ConstantSparsity, Element, NofM, PolynomialDecay, report

pytestmark = pytest.mark.core
STEPS = 6
SCHEDULE = {"initial": 0.2, "final": 0.75, "begin_step": 1, "end_step": 5, "frequency": 2}


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


def train(model, shapes, steps=STEPS, **options):
    x, y = data(shapes, steps=steps)
    model.fit(x, y, batch_size=4, shuffle=False, verbose=0, **options)


def values(model):
    return [ops.convert_to_numpy(v) for v in model.trainable_variables]


def kernels(model):
    """Position → value of every weight that is pruned by default."""
    all_values = values(model)
    return {s.weight.index: all_values[s.weight.index] for s in select(model)[0]}


def expected_nonzeros(size, sparsity):
    return round(size * (1 - sparsity))


class EveryStep(keras.callbacks.Callback):
    """Calls a check after each optimizer step (needs run by `fit`, one step an execution)."""

    def __init__(self, check):
        super().__init__()
        self.check, self.steps = check, 0

    def on_train_batch_end(self, batch, logs=None):
        self.steps += 1
        _ = self.model  # on JAX, asking for it puts the state back into the variables
        self.check(self.steps)


@pytest.mark.parametrize("kind", KINDS)
def test_sparsity_is_exactly_as_scheduled_after_every_step(kind):
    make, shapes = KINDS[kind]
    model = compiled(make, shapes)
    schedule = PolynomialDecay(**SCHEDULE)
    assert sentei.prune(model, schedule) is model
    zeros = {}

    def check(step):
        for position, value in kernels(model).items():
            assert np.count_nonzero(value) == expected_nonzeros(value.size, schedule(step))
            now = value == 0
            assert not np.signbit(value[now]).any(), "a pruned weight is -0.0"
            assert np.all(now | ~zeros.get(position, now & False)), "a pruned weight came back"
            zeros[position] = now

    counter = EveryStep(check)
    train(model, shapes, callbacks=[counter])
    assert counter.steps == STEPS and zeros
    before = values(model)
    model.predict(data(shapes)[0], verbose=0)
    for a, b in zip(before, values(model), strict=True):
        np.testing.assert_array_equal(a, b)


OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.1),
    "momentum": lambda: keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9),
    "lion": lambda: keras.optimizers.Lion(0.01),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "clipnorm": lambda: keras.optimizers.Adam(0.01, clipnorm=0.1),
    "global_clipnorm": lambda: keras.optimizers.Adam(0.01, global_clipnorm=0.1),
    "clipvalue": lambda: keras.optimizers.Adam(0.01, clipvalue=0.1),
    "ema": lambda: keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=0.5),
    "ema overwrite": lambda: keras.optimizers.SGD(
        0.1, momentum=0.9, use_ema=True, ema_overwrite_frequency=2
    ),
    "accumulation": lambda: keras.optimizers.Adam(0.01, gradient_accumulation_steps=2),
    "schedule": lambda: keras.optimizers.Adam(
        keras.optimizers.schedules.CosineDecay(0.01, decay_steps=10)
    ),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=8.0
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_keeps_the_rule_at_every_step(name):
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes, OPTIMIZERS[name]())
    sentei.prune(model, ConstantSparsity(0.75, frequency=2))

    def check(step):
        if step < 2 and name == "accumulation":
            return  # no optimizer step has been taken yet
        for value in kernels(model).values():
            assert np.count_nonzero(value) == expected_nonzeros(value.size, 0.75)

    train(model, shapes, callbacks=[EveryStep(check)])
    for value in kernels(model).values():  # after `fit` has put the averages in place, too
        assert np.count_nonzero(value) == expected_nonzeros(value.size, 0.75)
    if "ema" in name:
        averages = [v for v in find(model).inner_optimizer.variables if "_average" in v.name]
        for position in kernels(model):
            average = ops.convert_to_numpy(averages[position])
            mask = ops.convert_to_numpy(find(model).projections[0].masks[position])
            np.testing.assert_array_equal(average[~mask], 0.0)


@pytest.mark.parametrize(
    ("kind", "name"),
    [("dense", name) for name in OPTIMIZERS]
    + [(kind, "adam") for kind in KINDS if kind != "dense"],
)
def test_identity_a_rule_that_prunes_nothing_changes_nothing(kind, name):
    make, shapes = KINDS[kind]
    results = []
    for prune in (False, True):
        keras.utils.set_random_seed(1)
        model = compiled(make, shapes, OPTIMIZERS[name]())
        if prune:
            sentei.prune(model, ConstantSparsity(0.0, frequency=2))
        train(model, shapes)
        results.append([ops.convert_to_numpy(v) for v in model.variables])
    exact = keras.backend.backend() == "torch"
    for a, b in zip(*results, strict=True):
        if exact:
            np.testing.assert_array_equal(a, b)
        else:  # XLA may fuse the mask into the update and round a multiply-add once, not twice
            np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-6)


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
    schedule = PolynomialDecay(**SCHEDULE)
    sentei.prune(model, schedule)
    train(model, shapes)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == STEPS
    for value in kernels(model).values():
        assert np.count_nonzero(value) == expected_nonzeros(value.size, schedule.final)


def test_mixed_precision_wraps_inside_the_loss_scale_optimizer():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        make, shapes = KINDS["dense"]
        model = compiled(make, shapes)
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        sentei.prune(model, ConstantSparsity(0.5))
        assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
        assert isinstance(model.optimizer.inner_optimizer, sentei.Projected)
        train(model, shapes)
        for value in kernels(model).values():
            assert np.count_nonzero(value) == expected_nonzeros(value.size, 0.5)
        assert isinstance(sentei.strip(model).optimizer.inner_optimizer, keras.optimizers.Adam)
    finally:
        keras.config.set_dtype_policy("float32")


PATTERNS = [Element(), Block((2, 2)), Block((3, 2), "max"), NofM(1, 4)]


@pytest.mark.parametrize(
    ("kind", "pattern", "optimizer"),
    [("convolutions", pattern, "adam") for pattern in PATTERNS]
    + [("dense", Element(), name) for name in ("momentum", "ema", "accumulation", "loss scale")]
    + [(kind, Element(), "adam") for kind in ("subclassed", "recurrent", "custom block")],
    ids=lambda value: str(value).split("(")[0],
)
def test_saved_in_the_middle_and_resumed_is_bit_for_bit_uninterrupted(
    tmp_path, kind, pattern, optimizer
):
    make, shapes = KINDS[kind]
    schedule = PolynomialDecay(0.0, 0.75, 0, 9, frequency=2)
    model = compiled(make, shapes, OPTIMIZERS[optimizer]())
    sentei.prune(model, schedule, pattern=pattern)
    train(model, shapes, steps=4)
    model.save(tmp_path / "half.keras")
    resumed = keras.models.load_model(tmp_path / "half.keras")
    for now in (model, resumed):
        train(now, shapes, steps=6)
    ours = [*model.variables, *model.optimizer.variables]
    theirs = [*resumed.variables, *resumed.optimizer.variables]
    for a, b in zip(ours, theirs, strict=True):
        if "seed_generator" in a.path:
            continue  # Keras does not save it
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    assert [row.target for row in report(resumed) if row.pattern] == [0.75] * len(kernels(model))


def test_weights_saved_alone_resume_a_model_pruned_the_same_way(tmp_path):
    """As `keras.callbacks.BackupAndRestore` does: build, compile, prune, load, go on."""
    make, shapes = KINDS["dense"]
    schedule = PolynomialDecay(0.0, 0.75, 0, 9, frequency=2)
    models = []
    for _ in range(2):
        keras.utils.set_random_seed(1)
        models.append(sentei.prune(compiled(make, shapes), schedule))
    train(models[0], shapes, steps=4)
    models[0].save_weights(tmp_path / "half.weights.h5")
    models[1].load_weights(tmp_path / "half.weights.h5")
    for model in models:
        train(model, shapes, steps=6)
    for a, b in zip(models[0].optimizer.variables, models[1].optimizer.variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    for a, b in zip(*map(values, models), strict=True):
        np.testing.assert_array_equal(a, b)


def test_the_legacy_format_cannot_resume_and_says_so(tmp_path):
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes)
    sentei.prune(model, ConstantSparsity(0.5), criterion="movement")
    train(model, shapes, steps=1)
    model.save(tmp_path / "m.h5")
    with pytest.raises(SenteiError, match=r"legacy \.h5 format, which cannot hold rules"):
        keras.models.load_model(tmp_path / "m.h5")
    plain = keras.models.load_model(tmp_path / "m.h5", compile=False)
    for a, b in zip(model.get_weights(), plain.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_training_goes_on_where_the_optimizer_was():
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes)
    train(model, shapes, steps=5)
    momentum = [ops.convert_to_numpy(v) for v in model.optimizer.variables]
    sentei.prune(model, PolynomialDecay(0.0, 0.75, 0, 4, frequency=3))
    kept = [ops.convert_to_numpy(v) for v in find(model).inner_optimizer.variables]
    for a, b in zip(momentum, kept, strict=True):
        np.testing.assert_array_equal(a, b)
    # The schedule starts now, not five steps ago.
    train(model, shapes, steps=1)
    assert all(np.count_nonzero(v) == v.size for v in kernels(model).values())
    train(model, shapes, steps=3)
    assert int(ops.convert_to_numpy(model.optimizer.iterations)) == 9
    assert all(np.count_nonzero(v) == round(v.size / 4) for v in kernels(model).values())


def test_one_threshold_across_layers():
    make, shapes = KINDS["convolutions"]
    model = compiled(make, shapes)
    sentei.prune(model, ConstantSparsity(0.6), scope="global")
    masks = None
    train(model, shapes, steps=1)
    now = list(kernels(model).values())
    size = sum(v.size for v in now)
    masks = np.concatenate([v.ravel() != 0 for v in now])
    assert masks.sum() == expected_nonzeros(size, 0.6)
    shares = {round(np.count_nonzero(v) / v.size, 3) for v in now}
    assert len(shares) > 1, "every layer has the same share: that is no global threshold"


def test_global_masks_are_those_of_the_concatenated_weights():
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes, keras.optimizers.SGD(0.0))
    before = kernels(model)
    sentei.prune(model, ConstantSparsity(0.5), scope="global")
    train(model, shapes, steps=1)
    flat = np.abs(np.concatenate([v.ravel() for v in before.values()]))
    keep = np.zeros(flat.size, bool)
    keep[np.argsort(-flat, kind="stable")[: round(flat.size / 2)]] = True
    after = np.concatenate([v.ravel() for v in kernels(model).values()])
    np.testing.assert_array_equal(after != 0, keep)


def test_ties_are_cut_by_position_and_zeros_stay():
    model = keras.Sequential([keras.Input((4,)), kl.Dense(5, kernel_initializer="ones")])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    sentei.prune(model, PolynomialDecay(0.1, 0.5, 0, 3, frequency=1))
    for step in range(1, 5):
        model.train_on_batch(np.zeros((2, 4)), np.zeros((2, 5)))
        kernel = ops.convert_to_numpy(model.layers[0].kernel).ravel()
        kept = expected_nonzeros(20, model.optimizer.projections[0].schedule(step))
        np.testing.assert_array_equal(kernel, [1.0] * kept + [0.0] * (20 - kept))


def test_a_kept_weight_that_happens_to_be_zero_does_not_call_a_pruned_one_back():
    model = keras.Sequential([keras.Input((1,)), kl.Dense(4, use_bias=False)])
    model.layers[0].kernel.assign([[0.1, 1.0, 2.0, 3.0]])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    sentei.prune(model, ConstantSparsity(0.25, frequency=1))
    for _ in range(2):
        model.train_on_batch(np.zeros((2, 1)), np.zeros((2, 4)))
        mask = ops.convert_to_numpy(model.optimizer.projections[0].masks[0])
        np.testing.assert_array_equal(mask, [[False, True, True, True]])
        model.layers[0].kernel.assign([[0.0, 1.0, 2.0, 0.0]])


def test_layers_by_dict_list_and_function():
    def nonzero_shares(layers):
        keras.utils.set_random_seed(3)
        stack = [kl.Dense(10, name=n) for n in ("stem", "block_1", "block_2", "head")]
        model = keras.Sequential([keras.Input((10,)), *stack])
        model.compile("sgd", "mse")
        sentei.prune(model, PolynomialDecay(0.0, 0.8, 0, 4, frequency=2), layers=layers)
        shares = []
        for _ in range(4):
            model.train_on_batch(np.ones((2, 10)), np.ones((2, 10)))
            shares.append([np.mean(ops.convert_to_numpy(d.kernel) == 0) for d in model.layers])
        return np.round(shares[2], 2).tolist(), np.round(shares[3], 2).tolist()

    half = 0.8 * (1 - 0.5**3)
    assert nonzero_shares(None) == ([round(half, 2)] * 4, [0.8] * 4)
    own = {"stem": 0.4, r"block_.*": 0.9, "head": None}
    scaled = [round(half / 2, 2), round(half * 9 / 8, 2), round(half * 9 / 8, 2), 0.0]
    assert nonzero_shares(own) == (scaled, [0.4, 0.9, 0.9, 0.0])
    assert nonzero_shares(["stem"])[1] == [0.8, 0.0, 0.0, 0.0]
    by_function = nonzero_shares(lambda layer: {"stem": True, "head": 0.5}.get(layer.name))
    assert by_function[1] == [0.8, 0.0, 0.0, 0.5]


def test_two_rules_on_one_optimizer():
    model = keras.Sequential([keras.Input((8,)), kl.Dense(8, name="a"), kl.Dense(8, name="b")])
    model.compile("adam", "mse")
    sentei.prune(model, ConstantSparsity(0.5), pattern=NofM(2, 4), layers=["a"])
    sentei.prune(model, ConstantSparsity(0.75), layers=["b"])
    model.train_on_batch(np.ones((2, 8)), np.ones((2, 8)))
    a, b = (ops.convert_to_numpy(layer.kernel) for layer in model.layers)
    assert np.all((a.reshape(2, 4, 8) != 0).sum(axis=1) == 2)
    assert np.count_nonzero(b) == 16
    with pytest.raises(SenteiError, match=r"b/kernel is being pruned already, by ConstantSparsity"):
        sentei.prune(model, ConstantSparsity(0.5), layers=["b"])


def test_strip_gives_plain_keras(tmp_path):
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes)
    inner = model.optimizer
    sentei.prune(model, ConstantSparsity(0.5))
    train(model, shapes)
    assert sentei.strip(model) is model
    assert model.optimizer is inner
    model.save(tmp_path / "plain.keras")
    import zipfile

    with zipfile.ZipFile(tmp_path / "plain.keras") as archive:
        assert b"sentei" not in archive.read("config.json")
    loaded = keras.models.load_model(tmp_path / "plain.keras")
    for a, b in zip(values(model), values(loaded), strict=True):
        np.testing.assert_array_equal(a, b)
    train(model, shapes)  # it trains on, as any model does: densely
    assert all(np.count_nonzero(v) > v.size / 2 for v in kernels(model).values())


def test_a_training_loop_of_ones_own():
    model = KINDS["dense"][0]()
    schedule = PolynomialDecay(0.0, 0.75, 0, 3, frequency=1)
    rule = sentei.sparsity.pruning(model, schedule)
    optimizer = sentei.Projected(keras.optimizers.SGD(0.1), [rule])
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for step in range(1, 6):
        gradients = [
            ops.convert_to_tensor(rng.normal(size=v.shape).astype("float32"))
            for v in model.trainable_variables
        ]
        optimizer.apply(gradients, model.trainable_variables)
        for value in kernels(model).values():
            assert np.count_nonzero(value) == expected_nonzeros(value.size, schedule(step))
    optimizer.check()


def test_callbacks_reach_the_wrapped_optimizer():
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes, keras.optimizers.Adam(0.01, use_ema=True))
    sentei.prune(model, ConstantSparsity(0.75))
    swap = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.005)
    train(model, shapes, callbacks=[rate, swap])
    assert float(ops.convert_to_numpy(find(model).inner_optimizer.learning_rate)) == pytest.approx(
        0.005
    )
    assert model.optimizer.beta_1 == 0.9
    for value in kernels(model).values():
        assert np.count_nonzero(value) == expected_nonzeros(value.size, 0.75)


def test_weights_that_stop_being_finite_raise_by_name():
    make, shapes = KINDS["dense"]
    model = compiled(make, shapes)
    sentei.prune(model, PolynomialDecay(0.0, 0.75, 0, 5, frequency=1))
    x, y = data(shapes)
    with pytest.raises(SenteiError, match=r"kernel holds values that are not finite"):
        model.fit(x * np.nan, y, batch_size=4, verbose=0)


def _nan_model():
    model = compiled(*KINDS["dense"])
    kernel = ops.convert_to_numpy(model.layers[0].kernel).copy()
    kernel[0, 0] = np.inf
    model.layers[0].kernel.assign(kernel)
    return model


def _frozen():
    model = KINDS["dense"][0]()
    model.trainable = False
    model.compile("sgd", "mse")
    return model


def _pruned(**options):
    return lambda: sentei.prune(compiled(*KINDS["dense"]), ConstantSparsity(0.5), **options)


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (lambda: sentei.prune("model", ConstantSparsity(0.5)), "Expected a Keras model.*str"),
        (lambda: sentei.prune(KINDS["dense"][0](), ConstantSparsity(0.5)), "is not compiled"),
        (lambda: sentei.prune(KINDS["subclassed"][0](), ConstantSparsity(0.5)), "is not built"),
        (lambda: sentei.prune(_frozen(), ConstantSparsity(0.5)), "no trainable weights"),
        (lambda: sentei.prune(_nan_model(), ConstantSparsity(0.5)), "not finite"),
        (lambda: sentei.prune(compiled(*KINDS["dense"]), 0.5), r"such as ConstantSparsity\(0\.8\)"),
        (_pruned(pattern="2:4"), r"`pattern` must be.*Received: pattern='2:4'"),
        (_pruned(criterion="size"), "`criterion` must be one of 'magnitude'"),
        (_pruned(scope="model"), "`scope` must be 'layer' or 'global'"),
        (_pruned(layers=["denze"]), "Did you mean 'dense"),
        (_pruned(layers={"dense.*": 5}), r"less than 1.*Did you mean 0\.05"),
        (_pruned(layers={"(": 0.5}), "no regular expression"),
        (_pruned(layers=lambda layer: False), "Nothing in model.*`layers` says no"),
        (_pruned(layers={"dense.*": 0.5}, scope="global"), "scope='global' sets one threshold"),
        (_pruned(pattern=NofM(2, 4), scope="global"), "Use scope='layer'"),
        (_pruned(pattern=NofM(1, 4)), r"NofM\(1, 4\) ends at a sparsity of 0\.75"),
        (
            lambda: sentei.Projected(OPTIMIZERS["loss scale"](), []),
            r"LossScaleOptimizer\(Projected",
        ),
        (lambda: sentei.Projected("adam", []), "wraps a Keras optimizer.*'adam'"),
        (lambda: sentei.Projected(keras.optimizers.SGD(), ["rule"]), "Received: 'rule'"),
        (lambda: sentei.strip(3), "Expected a Keras model"),
    ],
)
def test_a_wrong_argument_is_named_and_changes_nothing(do, message):
    with pytest.raises(SenteiError, match=message):
        do()


def test_a_rule_on_other_variables_says_so():
    model = KINDS["dense"][0]()
    rule = sentei.sparsity.pruning(model, ConstantSparsity(0.5))
    model.layers[0].trainable = False
    with pytest.raises(SenteiError, match="Layers were frozen or changed since"):
        sentei.Projected(keras.optimizers.SGD(), [rule]).build(model.trainable_variables)


@pytest.mark.parametrize("criterion", ["magnitude", "set"])
def test_no_update_is_due_after_the_last_when_the_optimizer_has_a_history(criterion):
    model = compiled(*KINDS["dense"])
    train(model, KINDS["dense"][1])
    last = ConstantSparsity(0.5, 0, end_step=2)
    sentei.prune(model, last, criterion=criterion)
    train(model, KINDS["dense"][1])
    (rule,) = find(model).projections
    assert int(ops.convert_to_numpy(rule._next_update)) == 2**31 - 1
