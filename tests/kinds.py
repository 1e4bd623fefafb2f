"""Small models of every kind, by name: one table for every battery of tests."""

import keras
from keras import layers as kl
from keras import ops


@keras.saving.register_keras_serializable("sentei_tests")
class Subclassed(keras.Model):
    """A subclassed model with a list of layers and a nested one."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [kl.Dense(6, activation="relu"), kl.Dense(6)]
        self.head = keras.Sequential([kl.Dense(5), kl.Dense(3)], name="head")

    def call(self, x):
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@keras.saving.register_keras_serializable("sentei_tests")
class Scaled(kl.Layer):
    """A custom layer with a matrix of its own, which it declares."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], 4), name="matrix")
        self.hidden = self.add_weight(shape=(4, 4), name="hidden")

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.matrix), self.hidden)

    def get_prunable_variables(self):
        return [self.matrix]


@keras.saving.register_keras_serializable("sentei_tests")
class Attention(kl.Layer):
    """A custom block of built-in layers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attend = kl.MultiHeadAttention(2, 3)
        self.norm = kl.LayerNormalization()
        self.feed = kl.EinsumDense("abc,cd->abd", output_shape=(None, 6))

    def build(self, shape):
        self.attend.build(shape, shape)
        self.norm.build(shape)
        self.feed.build(shape)

    def call(self, x):
        return self.feed(self.norm(x + self.attend(x, x)))


def _functional():
    x = keras.Input((5,))
    y = kl.Dense(6, activation="relu")(x)
    y = kl.Add()([kl.Dense(6)(y), y])
    return keras.Model(x, kl.Dense(3)(ops.tanh(y)))


def _shared():
    a, b = keras.Input((5,)), keras.Input((5,))
    tower = keras.Sequential([kl.Dense(6, activation="relu"), kl.Dense(4)], name="tower")
    merged = kl.Concatenate()([tower(a), tower(b)])
    return keras.Model([a, b], kl.Dense(3)(merged))


def _sequential(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


# name → how to make it, shapes of its inputs
KINDS = {
    "dense": (lambda: _sequential((5,), kl.Dense(6, activation="relu"), kl.Dense(3)), [(5,)]),
    "functional": (_functional, [(5,)]),
    "shared tower": (_shared, [(5,), (5,)]),
    "subclassed": (Subclassed, [(5,)]),
    "custom layer": (lambda: _sequential((5,), Scaled(), kl.Dense(3)), [(5,)]),
    "custom block": (
        lambda: _sequential((4, 6), Attention(), kl.GlobalAveragePooling1D(), kl.Dense(3)),
        [(4, 6)],
    ),
    "convolutions": (
        lambda: _sequential(
            (6, 6, 2),
            kl.Conv2D(4, 3, padding="same"),
            kl.BatchNormalization(),
            kl.ReLU(),
            kl.DepthwiseConv2D(3),
            kl.SeparableConv2D(4, 2),
            kl.Conv2DTranspose(3, 2),
            kl.GlobalAveragePooling2D(),
            kl.Dense(3),
        ),
        [(6, 6, 2)],
    ),
    "recurrent": (
        lambda: _sequential(
            (4, 3),
            kl.Bidirectional(kl.LSTM(3, return_sequences=True)),
            kl.TimeDistributed(kl.Dense(4)),
            kl.GRU(3, return_sequences=True),
            kl.SimpleRNN(3),
        ),
        [(4, 3)],
    ),
    "nested": (
        lambda: _sequential((5,), _sequential((5,), kl.Dense(4), _functional_4()), kl.Dense(3)),
        [(5,)],
    ),
}


def _functional_4():
    x = keras.Input((4,))
    return keras.Model(x, kl.Dense(4, activation="relu")(x))
