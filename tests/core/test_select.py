import keras
import pytest
from keras import layers as kl

from sentei.core.errors import SenteiError
from sentei.core.select import Axes, select, sublayers

pytestmark = pytest.mark.core


def paths(selected):
    return {s.weight.path for s in selected}


# layer, input shape, the weights taken by default with (positions, input, output) axes
LAYERS = [
    (lambda: kl.Dense(3), (4,), {"kernel": ((), (0,), (1,))}),
    (lambda: kl.Conv1D(3, 2), (8, 4), {"kernel": ((0,), (1,), (2,))}),
    (lambda: kl.Conv2D(3, 2), (8, 8, 4), {"kernel": ((0, 1), (2,), (3,))}),
    (lambda: kl.Conv2D(4, 2, groups=2), (8, 8, 4), {"kernel": ((0, 1), (2,), (3,))}),
    (lambda: kl.Conv3D(3, 2), (4, 4, 4, 2), {"kernel": ((0, 1, 2), (3,), (4,))}),
    (lambda: kl.Conv1DTranspose(3, 2), (8, 4), {"kernel": ((0,), (2,), (1,))}),
    (lambda: kl.Conv2DTranspose(3, 2), (8, 8, 4), {"kernel": ((0, 1), (3,), (2,))}),
    (lambda: kl.Conv3DTranspose(3, 2), (4, 4, 4, 2), {"kernel": ((0, 1, 2), (4,), (3,))}),
    (lambda: kl.SeparableConv1D(3, 2), (8, 4), {"pointwise_kernel": ((0,), (1,), (2,))}),
    (lambda: kl.SeparableConv2D(3, 2), (8, 8, 4), {"pointwise_kernel": ((0, 1), (2,), (3,))}),
    (lambda: kl.DepthwiseConv1D(3), (8, 4), {}),
    (lambda: kl.DepthwiseConv2D(3), (8, 8, 4), {}),
    (lambda: kl.EinsumDense("ab,bc->ac", 3), (4,), {"kernel": ((), (0,), (1,))}),
    (lambda: kl.EinsumDense("...b,bcd->...cd", (3, 2)), (4,), {"kernel": ((), (0,), (1, 2))}),
    (lambda: kl.EinsumDense("abc,bcd->abd", (3, 2)), (3, 4), {"kernel": ((0,), (1,), (2,))}),
    (lambda: kl.Embedding(7, 3), (4,), {"embeddings": ((), (1,), (0,))}),
    (lambda: kl.SimpleRNN(3), (5, 4), {"kernel": ((), (0,), (1,)), "recurrent_kernel": None}),
    (lambda: kl.LSTM(3), (5, 4), {"kernel": ((), (0,), (1,)), "recurrent_kernel": None}),
    (lambda: kl.GRU(3), (5, 4), {"kernel": ((), (0,), (1,)), "recurrent_kernel": None}),
    (lambda: kl.TimeDistributed(kl.Dense(3)), (5, 4), {"kernel": ((), (0,), (1,))}),
    (lambda: kl.BatchNormalization(), (4,), {}),
    (lambda: kl.LayerNormalization(), (4,), {}),
    (lambda: kl.PReLU(), (4, 4), {}),
]


@pytest.mark.parametrize(
    ("make", "shape", "expected"), LAYERS, ids=[make().name for make, *_ in LAYERS]
)
def test_the_kernels_of_every_kind_of_layer(make, shape, expected):
    model = keras.Sequential([keras.Input(shape), make()])
    found = {s.weight.path.rsplit("/", 1)[1]: s.weight for s in select(model)[0]}
    assert set(found) == set(expected)
    for name, axes in expected.items():
        if axes is not None:
            assert found[name].axes == Axes(*axes)
        variable = model.trainable_variables[found[name].index]
        assert variable.name == name
        assert tuple(variable.shape) == found[name].shape
        together = [*found[name].axes.position, *found[name].axes.input, *found[name].axes.output]
        assert sorted(together) == list(range(len(variable.shape)))


def test_attention_projections_and_wrapped_recurrent_layers():
    x = keras.Input((5, 4))
    y = kl.MultiHeadAttention(2, 3, name="attend")(x, x)
    y = kl.Bidirectional(kl.LSTM(3), name="both")(y)
    model = keras.Model(x, y)
    found = {s.weight.path: s.weight for s in select(model)[0]}
    projections = {p: w for p, w in found.items() if p.startswith("attend")}
    assert len(projections) == 4 and len(found) == 8
    assert {w.layer for w in found.values()} == {"attend", "both"}
    assert found["attend/query/kernel"].axes == Axes((), (0,), (1, 2))
    assert found["attend/attention_output/kernel"].axes == Axes((), (0, 1), (2,))


def _block_model():
    def block(name):
        x = keras.Input((4,))
        return keras.Model(x, kl.Dense(4, name="out")(kl.Dense(4, name="in")(x)), name=name)

    x = keras.Input((4,))
    y = kl.Dense(4, name="stem")(x)
    return keras.Model(x, block("block_2")(block("block_1")(y)))


@pytest.mark.parametrize(
    ("layers", "taken"),
    [
        ("stem", {"stem"}),
        (["stem", "block_1"], {"stem", "block_1/in", "block_1/out"}),
        (["in"], {"block_1/in", "block_2/in"}),
        (["block_2/in"], {"block_2/in"}),
        ([r"block_\d/out"], {"block_1/out", "block_2/out"}),
        ({"block_.*": None}, {"stem"}),
        ({"block_1/in": 0.5, "block_1": None}, {"stem", "block_1/in", "block_2/in", "block_2/out"}),
        (lambda layer: layer.name == "in", {"block_1/in", "block_2/in"}),
    ],
    ids=["one", "some", "inner", "path", "expression", "not", "first wins", "function"],
)
def test_layers_are_named_by_name_path_holder_expression_or_function(layers, taken):
    assert paths(select(_block_model(), layers)[0]) == {f"{name}/kernel" for name in taken}


def test_what_is_named_is_taken_whatever_its_kind():
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), kl.DepthwiseConv2D(3, name="deep"), kl.Conv2D(3, 1, name="point")]
    )
    assert paths(select(model)[0]) == {"point/kernel"}
    assert [s.reason for s in select(model)[1]] == [
        "no default kind (name it in `layers` to include it)"
    ]
    assert paths(select(model, ["deep"])[0]) == {"deep/kernel"}
    assert paths(select(model, ["deep/bias", "point"])[0]) == {"deep/bias", "point/kernel"}


def test_every_sublayer_once_also_where_layers_are_shared_or_hold_each_other():
    shared = kl.Dense(2)

    class Holder(kl.Layer):
        def __init__(self):
            super().__init__()
            self.parts = {"a": [shared, kl.Dense(2)], "b": (shared,)}

    first, second = Holder(), Holder()
    first.friend, second.friend = second, first
    found = [layer for layer, _ in sublayers(first)]
    assert len(found) == len({id(layer) for layer in found}) == 5
    assert found[0] is first and any(layer is shared for layer in found)


def test_a_name_that_fits_nothing_says_what_would():
    with pytest.raises(SenteiError, match=r"names 'stemm'.*Did you mean 'stem'\?"):
        select(_block_model(), ["stemm"])
    with pytest.raises(SenteiError, match=r"Received: 3 of type int"):
        select(_block_model(), {3: 0.5})


def test_frozen_weights_are_not_taken_and_positions_follow():
    model = _block_model()
    model.get_layer("stem").trainable = False
    selected, _ = select(model)
    assert len(selected) == 4
    for chosen in selected:
        variable = model.trainable_variables[chosen.weight.index]
        layer = model
        for name in chosen.weight.path.split("/")[:-1]:
            layer = layer.get_layer(name)
        assert variable is layer.kernel
