"""Programs written for the old toolkit's pruning, on its public names."""

import json

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei import tfmot
from sentei.core.install import find
from sentei.tfmot.sparsity import keras as sparsity

pytestmark = pytest.mark.slow  # on every backend those marked "core"

X = np.random.default_rng(0).normal(size=(64, 12)).astype("float32")
Y = np.random.default_rng(1).integers(0, 4, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FAST = {"begin_step": 0, "end_step": 6, "frequency": 2}


def dense():
    return keras.Sequential(
        [keras.Input((12,)), kl.Dense(16, activation="relu"), kl.Dropout(0.1), kl.Dense(4)]
    )


def branched():
    x = keras.Input((12,))
    y = keras.Sequential([kl.Dense(16), kl.BatchNormalization()], name="inner")(x)
    shared = kl.Dense(16, name="shared")
    y = kl.Add()([shared(y), shared(ops.relu(y))])
    return keras.Model(x, kl.Dense(4)(y))


@keras.saving.register_keras_serializable(__name__)
class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.one, self.two = kl.Dense(16), kl.Dense(4)

    def call(self, x):
        return self.two(self.one(x))


@keras.saving.register_keras_serializable(__name__)
class WithBias(kl.Dense, sparsity.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.bias]


@keras.saving.register_keras_serializable(__name__)
class Composite(kl.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = kl.Dense(16)

    def call(self, x):
        return self.inner(x)


@keras.saving.register_keras_serializable(__name__)
class Steps(sparsity.PruningSchedule):
    """A schedule of the user's own."""

    def __init__(self, levels):
        self.levels = levels

    def __call__(self, step):
        level = ops.floor(ops.cast(step, "float32") / 2)
        return ops.equal(ops.mod(step, 2), 0), ops.minimum(level / 10, self.levels / 10)

    def get_config(self):
        return {"class_name": "Steps", "config": {"levels": self.levels}}


class Plainly(Steps):
    """The same in plain Python, which takes no tensors."""

    def __call__(self, step):
        return step % 2 == 0, step // 2 / 10 if step < 2 * self.levels else self.levels / 10


def compiled(model, optimizer="adam", **kwargs):
    model.compile(optimizer, LOSS, **kwargs)
    return model


def fit(model, epochs=2, x=X, **kwargs):
    return model.fit(x, Y, batch_size=16, epochs=epochs, verbose=0, shuffle=False, **kwargs)


def kernels(model):
    return [w for w in model.get_weights() if w.ndim > 1]


def zeros(model):
    return [float(np.mean(w == 0)) for w in kernels(model)]


def expected(model, share):
    return [1 - round(w.size * (1 - share)) / w.size for w in kernels(model)]


# -- the guide ------------------------------------------------------------------------------------


@pytest.mark.core
@pytest.mark.parametrize("make", [dense, branched])
def test_whole_model(make):
    model = make()
    pruned = sparsity.prune_low_magnitude(model, sparsity.PolynomialDecay(0.2, 0.75, **FAST))
    assert not pruned.compiled
    wrapped = [layer for layer in pruned.layers if isinstance(layer, kl.Layer)]
    assert any(layer.name.startswith("prune_low_magnitude_dense") for layer in wrapped)
    assert [id(v) for v in pruned.trainable_variables] == [id(v) for v in model.trainable_variables]
    np.testing.assert_array_equal(pruned.predict(X, verbose=0), model.predict(X, verbose=0))
    fit(compiled(pruned), callbacks=[sparsity.UpdatePruningStep()])
    assert zeros(pruned) == pytest.approx(expected(pruned, 0.75))
    stripped = sparsity.strip_pruning(pruned)
    assert stripped.get_config() == model.get_config()
    assert "sentei" not in json.dumps(stripped.get_config())
    assert not stripped.compiled
    assert zeros(stripped) == zeros(pruned)
    np.testing.assert_array_equal(stripped.predict(X, verbose=0), pruned.predict(X, verbose=0))


def test_some_layers_by_clone_function():
    model = dense()

    def function(layer):
        wanted = isinstance(layer, kl.Dense) and layer.units == 16
        return sparsity.prune_low_magnitude(layer) if wanted else layer

    pruned = compiled(keras.models.clone_model(model, clone_function=function))
    fit(pruned)
    assert zeros(pruned) == [0.5, 0.0]


@pytest.mark.core
def test_layers_in_a_list_and_alone_and_built_by_the_first_batch():
    layers = sparsity.prune_low_magnitude([kl.Dense(16), kl.Flatten()])
    alone = sparsity.prune_low_magnitude(kl.Dense(4), sparsity.ConstantSparsity(0.25, 0))
    model = compiled(keras.Sequential([*layers, alone]))
    assert not model.built
    fit(model)
    assert zeros(model) == [0.5, 0.25]


def test_subclassed_model():
    model = sparsity.prune_low_magnitude(Subclassed())
    fit(compiled(model))
    assert zeros(model) == [0.5, 0.5]
    fit(compiled(model, "sgd"))
    stripped = sparsity.strip_pruning(model)
    assert zeros(stripped) == [0.5, 0.5]
    assert find(stripped) is None
    fit(compiled(stripped))
    assert zeros(stripped) == [0.0, 0.0]


@pytest.mark.core
def test_subclassed_model_that_was_loaded_is_compiled_again(tmp_path):
    def make():
        schedule = sparsity.PolynomialDecay(0.2, 0.75, 0, 12, frequency=2)
        return compiled(sparsity.prune_low_magnitude(Subclassed(), schedule))

    model = make()
    fit(model, 1)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    for _ in range(2):
        before = loaded.get_weights()
        compiled(loaded, "sgd")
        for one, other in zip(before, loaded.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    fit(loaded, 1)
    assert zeros(loaded)[0] < 0.75  # the schedule goes on
    fit(loaded, 1)
    assert zeros(loaded) == pytest.approx(expected(loaded, 0.75))
    loaded.save(tmp_path / "again.keras")
    loaded = keras.models.load_model(tmp_path / "again.keras")
    fit(compiled(loaded), 1)
    assert zeros(loaded) == pytest.approx(expected(loaded, 0.75))
    stripped = sparsity.strip_pruning(loaded)
    fit(compiled(stripped), 1)
    assert find(stripped) is None
    assert zeros(stripped) == [0.0, 0.0]


def test_custom_layer_lists_its_weights():
    model = keras.Sequential(
        [keras.Input((12,)), sparsity.prune_low_magnitude(WithBias(16)), kl.Dense(4)]
    )
    fit(compiled(model))
    assert zeros(model) == [0.5, 0.0]
    assert np.mean(model.get_weights()[1] == 0) == 0.5


def test_layer_without_anything_to_prune_is_reported():
    norm = sparsity.prune_low_magnitude(kl.BatchNormalization())
    model = keras.Sequential([keras.Input((12,)), norm, kl.Dense(4)])
    with pytest.warns(UserWarning, match=r"nothing to prune.*get_prunable_weights"):
        compiled(model)
    fit(model, 1)


@pytest.mark.parametrize(
    "layer, shape",
    [
        (lambda: kl.MultiHeadAttention(2, 4), (5, 6)),
        (lambda: kl.LSTM(8), (5, 6)),
        (lambda: kl.Bidirectional(kl.GRU(4)), (5, 6)),
        (Composite, (5, 6)),
        (lambda: kl.Embedding(16, 4), (5,)),
    ],
    ids=["attention", "lstm", "bidirectional", "composite", "embedding"],
)
def test_wrapper_calls_as_the_layer_does(layer, shape):
    layer = layer()
    x = keras.Input(shape)
    wrapper = sparsity.prune_low_magnitude(layer)
    y = wrapper(x, x) if isinstance(layer, kl.MultiHeadAttention) else wrapper(x)
    model = keras.Model(x, kl.Dense(4)(kl.Flatten()(y)))
    assert layer.built
    data = np.random.default_rng(2).integers(0, 16, (64, *shape)).astype("float32")
    fit(compiled(model), x=data)
    held = [pruned for rule in find(model).projections for pruned in rule.weights]
    assert len(held) == {"MultiHeadAttention": 4, "LSTM": 2, "Bidirectional": 4}.get(
        type(layer).__name__, 1
    )
    for pruned in held:
        value = model.trainable_variables[pruned.weight.index].numpy()
        assert np.mean(value == 0) == 0.5


@pytest.mark.core
def test_two_of_four():
    model = sparsity.prune_low_magnitude(dense(), sparsity_m_by_n=(2, 4))
    fit(compiled(model))
    for kernel in kernels(sparsity.strip_pruning(model)):
        groups = kernel.reshape(-1, 4, kernel.shape[-1])
        assert np.all(np.sum(groups == 0, axis=1) == 2)


def test_one_of_three_scheduled_and_saved(tmp_path):
    # Of the original, N:M ignored the schedule's sparsity and was lost in a file.
    model = sparsity.prune_low_magnitude(
        dense(), sparsity.PolynomialDecay(0.0, 0.8, **FAST), sparsity_m_by_n=(1, 3)
    )
    assert fit(compiled(model), 1) and zeros(model)[0] < 0.34
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert loaded.layers[0].sparsity_m_by_n == (1, 3)
    fit(loaded)
    groups = kernels(loaded)[0].reshape(-1, 3, 16)
    assert np.all(np.sum(groups == 0, axis=1) == 1)


@pytest.mark.parametrize("pooling", ["AVG", "MAX"])
def test_block_masks_on_shapes_that_blocks_do_not_divide(pooling):
    model = keras.Sequential([keras.Input((12,)), kl.Dense(15, activation="relu"), kl.Dense(4)])
    wrapper = sparsity.prune_low_magnitude(
        model, sparsity.ConstantSparsity(0.5, 0), block_size=(5, 4), block_pooling_type=pooling
    )
    fit(compiled(wrapper))
    first = np.pad(kernels(wrapper)[0], ((0, 3), (0, 1))).reshape(3, 5, 4, 4)
    alive = np.any(first != 0, axis=(1, 3))
    assert alive.sum() == 6
    whole = kernels(wrapper)[0] != 0
    assert np.array_equal(whole, np.repeat(np.repeat(alive, 5, 0), 4, 1)[:12, :15])


def test_blocks_are_of_matrices():
    model = keras.Sequential(
        [keras.Input((4, 4, 6)), kl.Conv2D(8, 1), kl.Conv2D(8, 3), kl.Flatten(), kl.Dense(4)]
    )
    wish = sparsity.prune_low_magnitude(model, block_size=(2, 2))
    compiled(wish)
    patterns = {len(r.weights): type(r.pattern).__name__ for r in find(wish).projections}
    assert patterns == {2: "Block", 1: "Element"}


# -- a loop of one's own ---------------------------------------------------------------------------


def step(model, optimizer):
    """One step of plain SGD by hand, on any backend."""
    gradients = [np.full(v.shape, 0.01, "float32") for v in model.trainable_variables]
    gradients = [ops.convert_to_tensor(g) for g in gradients]
    optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))


@pytest.mark.core
@pytest.mark.parametrize("epoch_end", [True, False])
def test_custom_training_loop(epoch_end):
    pruned = sparsity.prune_low_magnitude(dense(), sparsity.PolynomialDecay(0.2, 0.75, **FAST))
    optimizer = keras.optimizers.Adam()
    pruned.optimizer = optimizer
    callback = sparsity.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    for epoch in range(2):
        for _ in range(4):
            callback.on_train_batch_begin(batch=-1)
            step(pruned, optimizer)
        if epoch_end:
            callback.on_epoch_end(batch=-1)
            assert zeros(pruned)[0] > (0.5 if epoch == 0 else 0.74)
        again = sparsity.UpdatePruningStep()  # a second callback does not begin anew
        again.set_model(pruned)
        again.on_train_begin()
        callback = again
    assert zeros(sparsity.strip_pruning(pruned)) == pytest.approx(expected(pruned, 0.75))
    assert pruned.optimizer is optimizer


# -- compiling, saving, loading --------------------------------------------------------------------


def test_weights_are_sparse_after_every_step():
    model = compiled(sparsity.prune_low_magnitude(dense()))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            seen.append(zeros(self.model))

    fit(model, callbacks=[Look()])
    assert seen == [[0.5, 0.5]] * 8


def test_final_sparsity_is_reached_whatever_the_frequency():
    schedule = sparsity.PolynomialDecay(0.0, 0.75, 1, 7, frequency=5)
    model = compiled(sparsity.prune_low_magnitude(dense(), schedule))
    fit(model)
    assert zeros(model) == pytest.approx(expected(model, 0.75))


def test_ties_are_cut():
    model = dense()
    model.set_weights([np.ones_like(w) for w in model.get_weights()])
    model = compiled(sparsity.prune_low_magnitude(model), keras.optimizers.SGD(0.0))
    fit(model, 1)
    assert zeros(model) == [0.5, 0.5]


def make_scheduled(schedule):
    keras.utils.set_random_seed(3)
    return sparsity.prune_low_magnitude(
        keras.Sequential([keras.Input((12,)), kl.Dense(16), kl.Dense(4)]), schedule
    )


@pytest.mark.core
def test_compiling_again_goes_on():
    def trained(again):
        model = compiled(make_scheduled(sparsity.PolynomialDecay(0.2, 0.75, 0, 12, frequency=2)))
        sparsities = []
        for _ in range(4):
            fit(model, 1)
            sparsities.append(zeros(model))
            if again:
                before = model.get_weights()
                compiled(model, "sgd")
                for one, other in zip(before, model.get_weights(), strict=True):
                    np.testing.assert_array_equal(one, other)
        return sparsities

    assert trained(True) == trained(False)


def test_compiling_again_with_fewer_layers_goes_on():
    model = compiled(make_scheduled(sparsity.PolynomialDecay(0.2, 0.75, 0, 12, frequency=2)))
    fit(model, 2)
    model.layers[0].trainable = False
    compiled(model)
    (rule,) = find(model).projections
    assert rule.steps_taken(model.optimizer.iterations) == 8
    assert len(rule.weights) == 1
    fit(model, 1)
    assert zeros(model)[1] == pytest.approx(expected(model, 0.75)[1])


@pytest.mark.core
@pytest.mark.parametrize(
    ("file", "schedule"),
    [
        ("m.keras", Steps(6)),
        ("m.h5", sparsity.PolynomialDecay(0.2, 0.75, 0, 12, frequency=2)),
        ("m.weights.h5", sparsity.PolynomialDecay(0.2, 0.75, 0, 12, frequency=2)),
    ],
    ids=["keras", "h5", "weights"],
)
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_checkpoint_and_resume(schedule, file, tmp_path):
    straight = compiled(make_scheduled(schedule))
    fit(straight, 4)
    model = compiled(make_scheduled(schedule))
    fit(model, 2)
    if file == "m.weights.h5":
        model.save_weights(tmp_path / file)
        loaded = compiled(make_scheduled(schedule))
        loaded.load_weights(tmp_path / file)
    else:
        model.save(tmp_path / file)
        with sparsity.prune_scope():
            loaded = keras.models.load_model(tmp_path / file)
    assert zeros(loaded) == zeros(model)
    wrapper = loaded.layers[0]
    assert isinstance(wrapper, type(model.layers[0]))
    assert wrapper.pruning_schedule.get_config() == schedule.get_config()
    fit(loaded, 2)
    for one, other in zip(loaded.get_weights(), straight.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    compiled(loaded)
    fit(loaded, 1)
    target = 0.75 if not isinstance(schedule, Steps) else 0.6
    assert zeros(loaded) == pytest.approx(expected(loaded, target))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_uncompiled_model_is_saved(tmp_path):
    model = sparsity.prune_low_magnitude(branched())
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict(X, verbose=0), model.predict(X, verbose=0))
    fit(compiled(loaded))
    assert zeros(loaded) == [0.5, 0.5, 0.5]


@pytest.mark.filterwarnings("ignore:Model 'sequential.*' had a build config:UserWarning")
def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = keras.Sequential([kl.Dense(16), kl.Dense(4)])
        fit(compiled(sparsity.prune_low_magnitude(model)), 1)
        model = sparsity.prune_low_magnitude(model)
        fit(compiled(model), 1)
        assert zeros(model) == [0.5, 0.5]
    finally:
        keras.config.set_dtype_policy("float32")


def test_model_without_annotated_layers_is_untouched_by_compile():
    model = compiled(dense())
    assert find(model) is None
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert "get_compile_config" not in vars(model)
    sentei.prune(model, sentei.sparsity.ConstantSparsity(0.5))
    rules = list(find(model).projections)
    assert len(rules) == 1
    compiled(model)
    assert find(model) is None  # as `sentei.prune` says


# -- schedules ------------------------------------------------------------------------------------


def test_schedules_are_called():
    constant = sparsity.ConstantSparsity(0.6, 10, 20, 5)
    turn, share = constant(np.array([0, 10, 12, 15, 20, 25]))
    assert ops.convert_to_numpy(turn).tolist() == [False, True, False, True, True, False]
    assert float(ops.convert_to_numpy(share)) == pytest.approx(0.6)
    assert bool(sparsity.ConstantSparsity(0.6, 10)(1010)[0])
    decay = sparsity.PolynomialDecay(0.2, 0.8, 10, 20, power=3, frequency=2)
    for at, expected_share in [(0, 0.2), (10, 0.2), (15, 0.8 - 0.6 / 8), (20, 0.8), (30, 0.8)]:
        assert float(ops.convert_to_numpy(decay(at)[1])) == pytest.approx(expected_share)


@pytest.mark.parametrize(
    "schedule",
    [sparsity.ConstantSparsity(0.7, 10, 20, 10), sparsity.PolynomialDecay(0.1, 0.7, 10, 20, 3, 5)],
)
def test_schedules_are_saved_in_the_nested_form(schedule):
    config = schedule.get_config()
    assert set(config) == {"class_name", "config"}
    assert vars(type(schedule).from_config(config["config"])) == vars(schedule)
    with sparsity.prune_scope():
        loaded = keras.utils.deserialize_keras_object(config)
    assert vars(loaded) == vars(schedule)


@pytest.mark.parametrize("kind", [Steps, Plainly])
def test_schedule_of_ones_own(kind):
    model = compiled(sparsity.prune_low_magnitude(dense(), kind(3)))
    (rule,) = find(model).projections
    assert [rule.schedule(n) for n in range(9)] == pytest.approx(
        [0, 0, 0.1, 0.1, 0.2, 0.2, 0.3, 0.3, 0.3]
    )
    fit(model)
    assert zeros(model) == pytest.approx(expected(model, 0.3))


# -- the rest -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "call, match",
    [
        (lambda: sparsity.prune_low_magnitude(object()), "can only prune.*object"),
        (lambda: sparsity.prune_low_magnitude([3]), "wraps a Keras layer"),
        (
            lambda: sparsity.prune_low_magnitude(kl.Dense(2), block_pooling_type="SUM"),
            "Unsupported pooling type 'SUM'",
        ),
        (lambda: sparsity.prune_low_magnitude(kl.Dense(2), block_size=4), "two whole numbers"),
        (lambda: sparsity.prune_low_magnitude(kl.Dense(2), sparsity_m_by_n=(4, 2)), "m < n"),
        (
            lambda: sparsity.prune_low_magnitude(
                kl.Dense(2), block_size=(2, 2), sparsity_m_by_n=(2, 4)
            ),
            "exclude each other",
        ),
        (lambda: sparsity.prune_low_magnitude(kl.Dense(2), 0.5), "must be a PruningSchedule"),
        (lambda: sparsity.strip_pruning(kl.Dense(2)), r"keras\.Model"),
        (lambda: sparsity.ConstantSparsity(1.0, 0), r"target_sparsity must be in range \[0,1\)"),
        (lambda: sparsity.ConstantSparsity(0.5, -1), "begin_step should be >= 0"),
        (lambda: sparsity.ConstantSparsity(0.5, 0, -2), "end_step can be -1 or >= 0"),
        (lambda: sparsity.ConstantSparsity(0.5, 0, frequency=0), "frequency should be > 0"),
        (lambda: sparsity.PolynomialDecay(0.1, 0.5, 0, -1), "end_step cannot be -1"),
        (lambda: sparsity.PolynomialDecay(0.1, 0.5, 9, 3), "begin_step should be <= end_step"),
        (lambda: sparsity.PruningSummaries(""), "non-empty string"),
    ],
)
def test_wrong_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_wrapped_layers_stay_as_they_are():
    wrapper = sparsity.prune_low_magnitude(kl.Dense(4))
    again = sparsity.prune_low_magnitude(keras.Sequential([keras.Input((12,)), wrapper]))
    assert again.layers[0] is wrapper
    assert (wrapper.block_size, wrapper.block_pooling_type, wrapper.sparsity_m_by_n) == (
        (1, 1),
        "AVG",
        None,
    )
    assert wrapper.layer.units == 4


def test_policy_of_ones_own():
    class OnlyWide(sparsity.PruningPolicy):
        def allow_pruning(self, layer):
            return isinstance(layer, kl.Dense) and layer.units > 8

        def ensure_model_supports_pruning(self, model):
            if len(model.layers) > 3:
                raise ValueError("too deep")

    pruned = sparsity.prune_low_magnitude(dense(), pruning_policy=OnlyWide())
    fit(compiled(pruned))
    assert zeros(pruned) == [0.5, 0.0]
    with pytest.raises(ValueError, match="too deep"):
        sparsity.prune_low_magnitude(branched(), pruning_policy=OnlyWide())


def test_summaries(tmp_path):
    model = compiled(sparsity.prune_low_magnitude(dense()))
    fit(model, callbacks=[sparsity.PruningSummaries(str(tmp_path / "logs"), update_freq="batch")])
    (file,) = (tmp_path / "logs").iterdir()
    assert file.read_bytes().count(b"sparsity/all") == 8 + 2
    free = sparsity.prune_low_magnitude(dense())
    callback = sparsity.PruningSummaries(str(tmp_path / "free"))
    callback.set_model(free)
    callback.on_epoch_begin(epoch=-1)
    (file,) = (tmp_path / "free").iterdir()
    assert b"sparsity/all" in file.read_bytes()


def test_names():
    assert tfmot.sparsity.keras is sparsity
    for name in sparsity.__all__:
        assert getattr(sparsity, name).__doc__
