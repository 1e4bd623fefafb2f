"""Kinds of model that quantization must leave as they are when nothing is rounded."""

import keras
from keras import layers as kl
from keras import ops


@keras.saving.register_keras_serializable("tests")
class Penalized(kl.Layer):
    """Adds a loss of its own."""

    def call(self, x):
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


@keras.saving.register_keras_serializable("tests")
class Gated(kl.Layer):
    """A layer of layers, with a weight of its own and an argument `training`."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner, self.drop = kl.Dense(6, activation="tanh"), kl.Dropout(0.3)

    def build(self, shape):
        self.inner.build(shape)
        self.scale = self.add_weight(shape=(6,), initializer="ones", name="scale")

    def call(self, x, training=None):
        return self.scale * self.drop(self.inner(x), training=training)


def sequence(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def tokens(*layers):
    return keras.Sequential(
        [keras.Input((6,), dtype="int32"), kl.Embedding(9, 5, mask_zero=True), *layers]
    )


def residual():
    x = keras.Input((8, 8, 3))
    y = kl.Conv2D(4, 3, padding="same", use_bias=False)(x)
    y = kl.BatchNormalization()(y)
    y = z = kl.ReLU()(y)
    y = kl.Conv2D(4, 3, padding="same")(y)
    y = kl.Add()([kl.BatchNormalization()(y), z])
    return keras.Model(x, kl.Dense(3)(kl.GlobalAveragePooling2D()(kl.ReLU()(y))))


def shared():
    a, b = keras.Input((5,), name="a"), keras.Input((5,), name="b")
    tower = sequence((5,), kl.Dense(6, activation="relu"), kl.BatchNormalization(), kl.Dense(4))
    merged = kl.Concatenate()([tower(a), tower(b)])
    return keras.Model({"a": a, "b": b}, kl.Dense(3)(merged))


def operations():
    x = keras.Input((5,))
    y = ops.tanh(kl.Dense(6)(x)) * 2.0 + 1.0
    y = ops.concatenate([y, ops.maximum(y, 0.5)], axis=-1)
    return keras.Model(x, kl.Dense(3)(ops.reshape(y, (-1, 12))))


def attention(self_mask=True):
    x = keras.Input((6,), dtype="int32")
    y = kl.Embedding(9, 8, mask_zero=self_mask)(x)
    y = kl.LayerNormalization()(y + kl.MultiHeadAttention(2, 4, dropout=0.1)(y, y))
    return keras.Model(x, kl.Dense(3)(kl.GlobalAveragePooling1D()(y)))


def inner_frozen():
    x = keras.Input((5,))
    tower = sequence((5,), kl.Dense(6), kl.BatchNormalization(), kl.Dropout(0.5))
    return keras.Model(x, kl.Dense(3)(tower(x, training=False)))


def two_outputs():
    x = keras.Input((5,))
    y = kl.Dense(6, activation="gelu")(x)
    return keras.Model(x, [kl.Dense(3)(y), kl.Dense(3, activation="softmax")(y)])


def frozen():
    model = sequence((5,), kl.Dense(6, activation="relu"), kl.BatchNormalization(), kl.Dense(3))
    model.layers[0].trainable = model.layers[1].trainable = False
    return model


IMAGE, ROW, STEPS = (8, 8, 3), (5,), (6, 4)

# name → how to make it; what it is fed follows from its inputs.
KINDS = {
    "dense": lambda: sequence(ROW, kl.Dense(6, activation="relu"), kl.Dense(3)),
    "dropout": lambda: sequence(ROW, kl.Dense(9), kl.Dropout(0.5), kl.Dense(3)),
    "noise": lambda: sequence(ROW, kl.GaussianNoise(0.1), kl.Dense(6), kl.Dense(3)),
    "batch normalization": lambda: sequence(ROW, kl.Dense(6), kl.BatchNormalization(), kl.Dense(3)),
    "convolutions": lambda: sequence(
        IMAGE,
        kl.Conv2D(4, 3, padding="same"),
        kl.BatchNormalization(),
        kl.ReLU(),
        kl.DepthwiseConv2D(3, activation="relu6"),
        kl.MaxPooling2D(),
        kl.Flatten(),
        kl.Dense(3, activation="softmax"),
    ),
    "transposed": lambda: sequence(
        IMAGE, kl.Conv2DTranspose(4, 2, 2), kl.GlobalMaxPooling2D(), kl.Dense(3)
    ),
    "1-D": lambda: sequence(
        STEPS,
        kl.Conv1D(4, 3, padding="causal"),
        kl.AveragePooling1D(2),
        kl.DepthwiseConv1D(2),
        kl.Flatten(),
        kl.Dense(3),
    ),
    "residual": residual,
    "shared tower, named inputs": shared,
    "operations": operations,
    "attention, masked": attention,
    "attention": lambda: attention(False),
    "nested, training=False": inner_frozen,
    "two outputs": two_outputs,
    "frozen layers": frozen,
    "layer normalization": lambda: sequence(ROW, kl.Dense(6), kl.LayerNormalization(), kl.Dense(3)),
    "masked LSTM": lambda: tokens(kl.LSTM(4), kl.Dense(3)),
    "recurrent dropout": lambda: tokens(kl.GRU(4, recurrent_dropout=0.2, dropout=0.2), kl.Dense(3)),
    "bidirectional": lambda: tokens(
        kl.Bidirectional(kl.LSTM(3, return_sequences=True)), kl.SimpleRNN(3), kl.Dense(3)
    ),
    "time distributed": lambda: sequence(
        STEPS, kl.TimeDistributed(kl.Dense(5, activation="relu")), kl.GRU(4), kl.Dense(3)
    ),
    "masking layer": lambda: sequence(STEPS, kl.Masking(), kl.LSTM(4), kl.Dense(3)),
    "einsum": lambda: sequence(
        STEPS, kl.EinsumDense("abc,cd->abd", (None, 5)), kl.GlobalAveragePooling1D(), kl.Dense(3)
    ),
    "weight regularizer": lambda: sequence(
        ROW, kl.Dense(6, kernel_regularizer="l2", bias_regularizer="l1"), kl.Dense(3)
    ),
    "activity regularizer": lambda: sequence(
        ROW, kl.Dense(6, activity_regularizer="l2"), kl.Dense(3)
    ),
    "added loss": lambda: sequence(ROW, kl.Dense(6), Penalized(), kl.Dense(3)),
    "constraint": lambda: sequence(ROW, kl.Dense(6, kernel_constraint="max_norm"), kl.Dense(3)),
    "custom layer": lambda: sequence(ROW, Gated(), kl.Dense(3)),
    "mixed precision": lambda: sequence(
        ROW,
        kl.Dense(6, activation="relu", dtype="mixed_bfloat16"),
        kl.BatchNormalization(dtype="mixed_bfloat16"),
        kl.Dense(3, dtype="float32"),
    ),
}
