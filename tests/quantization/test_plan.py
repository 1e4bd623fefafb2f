"""The plan on graphs: what is fused, which tensors share a grid, what stays float."""

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import sentei
from sentei.core.errors import SenteiError, UnsupportedModel
from sentei.core.graph import Tensor, graph_of
from sentei.quantization import Custom, quantized, quantizers

pytestmark = pytest.mark.core


def plan_of(x, y, **options):
    return quantized(sentei.quantize(keras.Model(x, y), **options)).plan


def grids(plan):
    """The label of each named tensor's grid."""
    return {plan.graph.nodes[t.node].name: label for t, label in plan.of_tensor.items()}


def groups(plan):
    return [[plan.graph.nodes[i].name for i in group.nodes] for group in plan.groups]


def test_convolution_batch_norm_and_relu_are_one_and_so_are_add_and_relu():
    x = keras.Input((8, 8, 3), name="x")
    y = kl.Conv2D(4, 3, padding="same", name="conv")(x)
    y = z = kl.ReLU(name="relu")(kl.BatchNormalization(name="bn")(y))
    y = kl.BatchNormalization(name="bn2")(kl.Conv2D(4, 3, padding="same", name="conv2")(y))
    y = kl.Activation("relu", name="sum_relu")(kl.Add(name="add")([y, z]))
    y = kl.Conv2D(4, 3, activation="relu6", name="conv3")(y)
    plan = plan_of(x, kl.GlobalAveragePooling2D(name="mean")(y))
    assert groups(plan) == [["conv", "bn", "relu"], ["conv2", "bn2"], ["add", "sum_relu"]]
    rounded = ["x", "relu", "bn2", "sum_relu", "conv3", "mean"]
    assert grids(plan) == {name: name for name in rounded}
    assert not plan.floats and not plan.hidden


def test_what_is_read_twice_or_is_an_output_is_not_fused():
    x = keras.Input((8, 8, 3), name="x")
    y = kl.Conv2D(4, 3, padding="same", name="conv")(x)
    z = kl.ReLU(name="relu")(y)
    plan = plan_of(x, [kl.Add(name="add")([y, z]), kl.ReLU(name="relu2")(z)])
    assert not groups(plan)
    assert set(grids(plan)) == {"x", "conv", "relu", "add", "relu2"}


def test_same_scale_operations_share_the_grid():
    x = keras.Input((8, 8, 3), name="x")
    a = kl.Conv2D(4, 3, padding="same", name="a")(x)
    b = kl.MaxPooling2D(1, name="pool")(kl.Conv2D(4, 3, padding="same", name="b")(x))
    y = kl.Concatenate(name="cat")([a, kl.Dropout(0.5, name="drop")(b)])
    plan = plan_of(x, kl.Flatten(name="flat")(y))
    labels = grids(plan)
    assert len({labels[name] for name in ("a", "b", "pool", "drop", "cat", "flat")}) == 1
    assert labels["x"] != labels["a"]
    rounded = {plan.graph.nodes[t.node].name for t in plan.rounded}
    assert "drop" not in rounded and "pool" in rounded  # dropout is not there at inference
    sources = {plan.graph.nodes[t.node].name for t in plan.sources[labels["a"]]}
    assert sources == {"a", "b"}


def test_a_fixed_grid_is_moved_before_a_concatenation():
    x = keras.Input((5,), name="x")
    a = kl.Dense(3, activation="softmax", name="a")(x)
    b = kl.Dense(3, name="b")(x)
    plan = plan_of(x, kl.Concatenate(name="cat")([a, b]))
    labels = grids(plan)
    assert labels["a"] == "a" and labels["b"] == labels["cat"] != "a"
    assert list(plan.requantized.values()) == [labels["cat"]]
    assert plan.activations["a"].fixed == (1 / 256, -128)


@pytest.mark.parametrize(
    ("activation", "fixed"),
    [("softmax", (1 / 256, -128)), ("sigmoid", (1 / 256, -128)), ("tanh", (1 / 128, 0))],
)
def test_fixed_outputs_have_a_grid_before_the_function_too(activation, fixed):
    x = keras.Input((5,), name="x")
    plan = plan_of(x, kl.Dense(3, activation=activation, name="d")(x))
    assert plan.activations["d"].fixed == fixed
    assert plan.hidden == {(1, "activation"): "d/activation"}
    plan = plan_of(x, getattr(ops, activation)(kl.Dense(3, name="d")(x)))
    assert [a.fixed for a in plan.activations.values()] == [None, None, fixed]


def test_shared_layers_have_one_weight_grid_and_an_output_grid_per_call():
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    dense = kl.Dense(4, name="dense")
    tower = keras.Sequential([keras.Input((4,)), kl.Dense(3, name="inner")], name="tower")
    y = kl.Add(name="add")([tower(dense(a)), tower(dense(b))])
    plan = plan_of([a, b], y)
    assert [weight.label for weight in plan.weights] == ["dense/kernel", "tower/inner/kernel"]
    names = ["a", "b", "dense", "dense:1", "tower/inner", "tower/inner:1", "add"]
    assert grids(plan) == {name: name for name in names}


def test_an_embedding_is_on_its_tables_grid():
    x = keras.Input((6,), dtype="int32", name="x")
    model = keras.Model(x, kl.Dense(3)(kl.Flatten(name="flat")(kl.Embedding(9, 4, name="e")(x))))
    layer = quantized(sentei.quantize(model))
    assert layer.quantizer_of(grids(layer.plan)["flat"]) is layer.quantizers["e/embeddings"]
    assert "x" not in grids(layer.plan)


def test_what_stays_float_is_listed_and_strict_refuses_it():
    x = keras.Input((6, 4), name="x")
    model = keras.Model(x, kl.Dense(3)(kl.LSTM(4, name="memory")(x)))
    plan = quantized(sentei.quantize(model)).plan
    assert [(found.name, found.reason) for found in plan.floats] == [
        ("memory", "LSTM has no integer form in LiteRT")
    ]
    assert any("recurrent_kernel" in weight.label for weight in plan.weights)
    with pytest.raises(UnsupportedModel, match="'memory': LSTM has no integer form"):
        sentei.quantize(model, strict=True)


def test_layers_by_name_stay_float_or_get_their_own_bits():
    x = keras.Input((5,), name="x")
    y = kl.Dense(4, name="second")(kl.Dense(4, name="first")(x))
    model = keras.Model(x, y)
    wide = Custom(weight_bits=4)
    found = dict(quantizers(sentei.quantize(model, layers={"first": None, "sec.*": wide})))
    assert "first/kernel" not in found and found["second/kernel"].kind.bits == 4
    with pytest.raises(SenteiError, match=r"names 'secnd', which fits no layer.*'second'"):
        sentei.quantize(model, layers={"secnd": None})


def test_channel_axes():
    x = keras.Input((8, 8, 4), name="x")
    y = kl.DepthwiseConv2D(3, depth_multiplier=2, name="depthwise")(x)
    y = kl.SeparableConv2D(5, 2, name="separable")(y)
    y = kl.Conv2DTranspose(3, 2, name="transposed")(y)
    y = kl.Dense(6, name="dense")(kl.Flatten()(kl.Conv2D(7, 1, name="conv")(y)))
    found = quantizers(sentei.quantize(keras.Model(x, y)))
    scales = {n: q.grid().scale.size for n, q in found if "kernel" in n}
    assert scales == {
        "depthwise/kernel": 4,
        "separable/depthwise_kernel": 8,
        "separable/pointwise_kernel": 5,
        "transposed/kernel": 3,
        "conv/kernel": 7,
        "dense/kernel": 6,
    }


def test_the_graph_computes_what_the_model_does():
    a, b = keras.Input((5,), name="a"), keras.Input((4, 3), name="b")
    inner_x, inner_y = keras.Input((5,)), keras.Input((12,))
    inner = keras.Model(
        [inner_x, inner_y], {"s": ops.concatenate([inner_x, inner_y], -1), "t": inner_x}
    )
    found = inner([a, kl.Flatten()(b)])
    pieces = ops.split(found["s"], [3, 8], axis=-1)
    model = keras.Model({"a": a, "b": b}, {"p": pieces[1] - found["t"], "q": [pieces[2]]})
    graph = graph_of(model)
    assert isinstance(graph.outputs["p"], Tensor)
    x = {
        name: np.random.default_rng(0).normal(size=(2, *s))
        for name, s in {"a": (5,), "b": (4, 3)}.items()
    }
    x = {name: value.astype("float32") for name, value in x.items()}
    qmodel = sentei.quantize(model, calibration=x)
    for _, quantizer in quantizers(qmodel):
        quantizer.identity = True
    for ours, plain in zip(
        keras.tree.flatten(qmodel.predict(x, verbose=0)),
        keras.tree.flatten(model.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, plain)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([kl.LSTM(3, stateful=True, name="memory")], "'memory' is a stateful recurrent layer"),
        (
            [kl.SpectralNormalization(kl.Dense(3), name="spectral")],
            "'spectral'.*assigns its weight",
        ),
    ],
)
def test_layers_that_would_lose_state_are_refused(layers, message):
    model = keras.Sequential([keras.Input(batch_shape=(2, 4, 3)), *layers])
    with pytest.raises(UnsupportedModel, match=message):
        sentei.quantize(model)
