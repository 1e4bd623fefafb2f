"""Every class of `keras.layers`: how it exports, and the cases that show it.

`docs/layers.md` is made from this table: `python tests/litert/layer_table.py > docs/layers.md`.
"""

from __future__ import annotations

from typing import Any

import jax
import keras
import numpy as np
from keras import layers as kl
from keras import ops
from layer_case import (
    NO_GRAPH,
    REFUSED,
    Case,
    Row,
    cases,
    gaps,
    ids,
    mask,
    pixels,
    refused,
    rewrite,
    use,
    works,
    x,
)

IMAGE = pixels(8, 8, 3)
SPATIAL = (9, 7, 6)
RANKS = (1, 2, 3)


def channels_first(options: dict[str, Any]) -> dict[str, Any]:
    return {**options, "data_format": "channels_first"}


def activation(name: str, *has: str) -> tuple[Case, ...]:
    return cases(x(4, 6), has=has)({"activation": name})


def merging(layer: str, shapes: Any = ((4, 3), (1, 3)), **options: Any) -> tuple[Case, ...]:
    """Merging layers take their inputs as one list."""
    specs = tuple(x(*shape) for shape in shapes)
    return use(lambda *tensors: getattr(kl, layer)(**options)(list(tensors)), *specs)


def masked(layer: Any) -> tuple[Case, ...]:
    return use(lambda t: layer(kl.Masking()(t)), gaps(5, 4))


PLAIN_ACTIVATIONS = """
    celu exponential glu hard_shrink hard_sigmoid hard_tanh linear log_sigmoid log_softmax mish selu
    sigmoid soft_shrink softplus softsign sparse_plus sparse_sigmoid squareplus tanh tanh_shrink
""".split()  # noqa: SIM905 - a list would take twenty lines
ACTIVATIONS = [
    rewrite(
        "Activation",
        activation("gelu", "GELU"),
        activation("relu", "RELU"),
        activation("relu6", "RELU6"),
        activation("elu"),
        activation("softmax", "SOFTMAX"),
        activation("hard_silu", "HARD_SWISH"),
        activation("silu", "LOGISTIC", "MUL"),
        activation("leaky_relu", "LEAKY_RELU"),
        *(activation(name) for name in PLAIN_ACTIVATIONS),
        note="`gelu` is one op; `softplus` and `elu` are shorter; `sparsemax` sorts: refused",
    ),
    rewrite(
        "ELU", cases(x(4))({}, {"alpha": 0.3}), note="the branch that is not taken is not guarded"
    ),
    works("LeakyReLU", cases(x(4), has=("LEAKY_RELU",))({"negative_slope": 0.1})),
    works("PReLU", cases(x(4, 4, 3))({}, {"shared_axes": (1, 2)})),
    works(
        "ReLU",
        cases(x(4))(
            {}, {"max_value": 6.0}, {"max_value": 6.0, "negative_slope": 0.1, "threshold": 0.2}
        ),
    ),
    rewrite(
        "Softmax",
        cases(x(4, 3, 2), has=("SOFTMAX",))({}, {"axis": 1}, {"axis": (1, 2)}),
        use(lambda a, b: kl.Softmax()(a, mask=b), x(4, 3), mask(4, 3), has=("SOFTMAX",)),
        note="over other axes than the last: turned there and back",
    ),
]

CONVOLUTIONS = [
    *[
        (rewrite if rank == 1 else works)(
            f"Conv{rank}D",
            cases(x(*SPATIAL[:rank], 4), has=("CONV_3D" if rank == 3 else "CONV_2D",))(
                {"filters": 4, "kernel_size": 3, "activation": "relu"},
                {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"},
                {"filters": 4, "kernel_size": 3, "dilation_rate": 2},
                channels_first({"filters": 4, "kernel_size": 3, "use_bias": False}),
                *([{"filters": 4, "kernel_size": 3, "padding": "causal"}] if rank == 1 else []),
                *([{"filters": 4, "kernel_size": 3, "groups": 2}] if rank < 3 else []),
            ),
            **({"note": "2-D with height 1; bias and activation fused"} if rank == 1 else {}),
        )
        for rank in (1, 2)
    ],
    rewrite(
        "Conv3D",
        cases(x(*SPATIAL, 4), has=("CONV_3D",))(
            {"filters": 4, "kernel_size": 3, "activation": "relu"},
            {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"},
            {"filters": 4, "kernel_size": 3, "dilation_rate": 2},
            {"filters": 4, "kernel_size": 3, "groups": 2},
            channels_first({"filters": 4, "kernel_size": 3}),
        ),
        note="groups: one convolution each",
    ),
    *[
        rewrite(
            f"Conv{rank}DTranspose",
            cases(x(*(5, 4, 3)[:rank], 2), has=("CONV_3D" if rank == 3 else "TRANSPOSE_CONV",))(
                {"filters": 3, "kernel_size": 3, "strides": 2, "padding": "same"},
                {"filters": 3, "kernel_size": 3, "strides": 2},
                {"filters": 3, "kernel_size": 4, "strides": 2, "padding": "same"},
                {"filters": 3, "kernel_size": 2, "strides": 3, "padding": "same"},
                {
                    "filters": 3,
                    "kernel_size": 4,
                    "strides": 3,
                    "padding": "same",
                    "output_padding": 1,
                    "activation": "relu",
                },
                channels_first({"filters": 3, "kernel_size": 3, "strides": 2}),
            ),
            cases(x(*(5, 4, 3)[:rank], 2))(
                {"filters": 3, "kernel_size": 3, "padding": "same"},
                {"filters": 3, "kernel_size": 3, "padding": "same", "dilation_rate": 2},
            ),
            note="CONV_3D over the image with zeros between its points"
            if rank == 3
            else "TRANSPOSE_CONV, cut to size where the converter gets the padding wrong",
        )
        for rank in RANKS
    ],
    *[
        (rewrite if rank == 1 else works)(
            f"DepthwiseConv{rank}D",
            cases(x(*SPATIAL[:rank], 4), has=("DEPTHWISE_CONV_2D",))(
                {"kernel_size": 3, "activation": "relu"},
                {"kernel_size": 3, "strides": 2, "padding": "same"},
                {"kernel_size": 3, "dilation_rate": 2},
                {"kernel_size": 3, "depth_multiplier": 2},
            ),
            **({"note": "2-D with height 1; bias and activation fused"} if rank == 1 else {}),
        )
        for rank in (1, 2)
    ],
    *[
        (rewrite if rank == 1 else works)(
            f"SeparableConv{rank}D",
            cases(x(*SPATIAL[:rank], 4), has=("DEPTHWISE_CONV_2D", "CONV_2D"))(
                {"filters": 5, "kernel_size": 3, "activation": "relu"},
                {"filters": 5, "kernel_size": 3, "strides": 2, "padding": "same"},
                {"filters": 5, "kernel_size": 3, "dilation_rate": 2},
                {"filters": 5, "kernel_size": 3, "depth_multiplier": 2},
            ),
            **({"note": "2-D with height 1; bias and activation fused"} if rank == 1 else {}),
        )
        for rank in (1, 2)
    ],
]

POOLING = [
    *[
        rewrite(
            f"{kind}Pooling{rank}D",
            cases(x(*SPATIAL[:rank], 3), has=(f"{kind.upper()}_POOL_2D",))(
                {"pool_size": 2},
                {"pool_size": 3, "strides": 2, "padding": "same"},
                channels_first({"pool_size": 2}),
            ),
            note="2-D pooling"
            if rank < 3
            else "2-D pooling twice: over height and width, then depth",
        )
        for kind in ("Average", "Max")
        for rank in RANKS
    ],
    *[
        works(
            f"Global{kind}Pooling{rank}D",
            cases(x(*SPATIAL[:rank], 3))({}, {"keepdims": True}, channels_first({})),
        )
        for kind in ("Average", "Max")
        for rank in RANKS
    ],
    *[
        rewrite(
            f"Adaptive{kind}Pooling{rank}D",
            cases(x(*(7, 6, 5)[:rank], 3), has=(f"{kind.upper()}_POOL_2D",))({"output_size": 3}),
            cases(x(*(4, 6, 8)[:rank], 3))({"output_size": 2}),
            note="2-D pooling with two window lengths, and a choice among them",
        )
        for kind in ("Average", "Max")
        for rank in RANKS
    ],
]

RECURRENT = [
    rewrite(
        "LSTM",
        cases(x(5, 4), has=("FULLY_CONNECTED",))(
            {"units": 3},
            {"units": 3, "return_sequences": True, "return_state": True, "go_backwards": True},
            {"units": 3, "dropout": 0.3, "recurrent_dropout": 0.3},
        ),
        masked(kl.LSTM(3, return_sequences=True)),
        use(lambda t, h, c: kl.LSTM(3)(t, initial_state=[h, c]), x(5, 4), x(3), x(3)),
        note="written out step by step, input products at once; `stateful=True` is refused",
    ),
    rewrite(
        "GRU",
        cases(x(5, 4))(
            {"units": 3},
            {"units": 3, "reset_after": False, "return_sequences": True},
            {"units": 3, "return_state": True, "go_backwards": True},
        ),
        masked(kl.GRU(3, return_sequences=True)),
        note="as LSTM",
    ),
    rewrite(
        "SimpleRNN",
        cases(x(5, 4))({"units": 3}, {"units": 3, "unroll": True, "activation": "gelu"}),
        note="as LSTM",
    ),
    rewrite(
        "RNN",
        use(lambda t: kl.RNN([kl.LSTMCell(3), kl.GRUCell(3)], return_sequences=True)(t), x(5, 4)),
        use(
            lambda t: kl.RNN(kl.GRUCell(3), zero_output_for_mask=True, return_sequences=True)(
                kl.Masking()(t)
            ),
            gaps(5, 4),
        ),
        note="as LSTM; any cell",
    ),
    rewrite(
        "StackedRNNCells",
        use(
            lambda t: kl.RNN(kl.StackedRNNCells([kl.SimpleRNNCell(3), kl.GRUCell(2)]))(
                kl.Masking()(t)
            ),
            gaps(5, 4),
        ),
        note="as LSTM",
    ),
    works("SimpleRNNCell", use(lambda t, h: kl.SimpleRNNCell(3)(t, [h]), x(4), x(3))),
    works("GRUCell", use(lambda t, h: kl.GRUCell(3)(t, [h]), x(4), x(3))),
    works("LSTMCell", use(lambda t, h, c: kl.LSTMCell(3)(t, [h, c]), x(4), x(3), x(3))),
    rewrite(
        "Bidirectional",
        use(lambda t: kl.Bidirectional(kl.LSTM(3, return_sequences=True))(t), x(5, 4)),
        use(lambda t: kl.Bidirectional(kl.GRU(3), merge_mode="sum")(t), x(5, 4)),
        use(lambda t: kl.Bidirectional(kl.GRU(3, return_state=True), merge_mode=None)(t), x(5, 4)),
        masked(kl.Bidirectional(kl.GRU(3, return_sequences=True))),
        note="as LSTM",
    ),
    *[
        rewrite(
            f"ConvLSTM{rank}D",
            cases(x(3, *(5, 4, 3)[:rank], 2), has=("CONV_3D" if rank == 3 else "CONV_2D",))(
                {"filters": 2, "kernel_size": 2},
                {
                    "filters": 2,
                    "kernel_size": 2,
                    "padding": "same",
                    "return_sequences": True,
                    "go_backwards": True,
                },
            ),
            note="as LSTM",
        )
        for rank in RANKS
    ],
    rewrite(
        "TimeDistributed",
        use(lambda t: kl.TimeDistributed(kl.Conv2D(2, 3))(t), x(4, 5, 5, 3), has=("CONV_2D",)),
        use(lambda t: kl.TimeDistributed(kl.Dense(2))(t), x(4, 5)),
        use(lambda t: kl.TimeDistributed(kl.TimeDistributed(kl.LSTM(2)))(t), x(2, 2, 3, 2)),
        use(lambda t, m: kl.TimeDistributed(kl.LSTM(2))(t, mask=m), x(3, 4, 2), mask(3, 4)),
        note="all time steps as one batch",
    ),
    works(
        "Masking",
        use(lambda t: kl.Masking()(t), gaps(5, 4)),
        use(lambda t: kl.GlobalAveragePooling1D()(kl.Masking()(t)), gaps(5, 4)),
    ),
]

ATTENTION = [
    rewrite(
        "Attention",
        use(lambda q, v: kl.Attention()([q, v]), x(4, 3), x(5, 3), has=("SOFTMAX",)),
        merging("Attention", ((4, 3), (5, 3)), use_scale=True, score_mode="concat"),
        use(
            lambda q, v, a, b: kl.Attention()([q, v], mask=[a, b]),
            x(4, 3),
            x(5, 3),
            mask(4),
            mask(5),
        ),
        use(lambda q, v: kl.Attention()([q, v], use_causal_mask=True), x(4, 3), x(4, 3)),
        note="a causal mask is a constant",
    ),
    works("AdditiveAttention", merging("AdditiveAttention", ((4, 3), (5, 3)))),
    rewrite(
        "MultiHeadAttention",
        use(
            lambda q, v: kl.MultiHeadAttention(2, 3)(q, v),
            x(4, 6),
            x(5, 6),
            has=("BATCH_MATMUL", "SOFTMAX", "FULLY_CONNECTED"),
        ),
        use(
            lambda q, v, m: kl.MultiHeadAttention(2, 3)(q, v, attention_mask=m),
            x(4, 6),
            x(5, 6),
            mask(4, 5),
        ),
        use(
            lambda q: kl.MultiHeadAttention(2, 3)(q, q, use_causal_mask=True),
            x(4, 6),
            has=("SOFTMAX",),
        ),
        use(
            lambda q, v: kl.MultiHeadAttention(2, 3, value_dim=4, output_shape=5)(
                q, v, return_attention_scores=True
            ),
            x(4, 6),
            x(5, 6),
        ),
        use(
            lambda q: kl.MultiHeadAttention(2, 3, attention_axes=(1, 2))(q, q),
            x(2, 3, 6),
            has=("SOFTMAX",),
        ),
        note="one SOFTMAX, also over several axes",
    ),
    rewrite(
        "GroupQueryAttention",
        use(lambda q, v: kl.GroupQueryAttention(4, 4, 2)(q, v), x(4, 6), x(5, 6), has=("SOFTMAX",)),
        use(
            lambda q: kl.GroupQueryAttention(4, 4, 2)(q, q, use_causal_mask=True),
            x(4, 6),
            has=("SOFTMAX",),
        ),
        note="one SOFTMAX; heads repeated by RESIZE_NEAREST_NEIGHBOR",
    ),
]

NORMALIZATION = [
    works(
        "BatchNormalization", cases(x(4, 3, 2))({}, {"axis": 1}), note="folded into convolutions"
    ),
    rewrite(
        "LayerNormalization",
        cases(x(4, 6))({}, {"axis": (1, 2)}, {"center": False, "scale": False}),
        note="the centred input is computed once",
    ),
    rewrite(
        "GroupNormalization",
        cases(x(4, 4, 6))({"groups": 2}, {"groups": -1}),
        note="as LayerNormalization",
    ),
    works("RMSNormalization", cases(x(4, 6))()),
    works("UnitNormalization", cases(x(4, 6))()),
    works(
        "SpectralNormalization",
        use(lambda t: kl.SpectralNormalization(kl.Dense(3))(t), x(6), has=("FULLY_CONNECTED",)),
        use(lambda t: kl.SpectralNormalization(kl.Conv2D(3, 3))(t), x(6, 6, 3), has=("CONV_2D",)),
        note="the normalized kernel",
    ),
]

SHAPES = [
    works("Flatten", cases(x(4, 3))({}, channels_first({}))),
    works("Permute", cases(x(4, 3))({"dims": (2, 1)})),
    works("Reshape", cases(x(4, 3))({"target_shape": (2, 6)}, {"target_shape": (-1, 2)})),
    works("RepeatVector", cases(x(4))({"n": 3})),
    *[works(f"Cropping{n}D", cases(x(*(5, 4, 3)[:n], 2))({"cropping": 1})) for n in RANKS],
    *[works(f"ZeroPadding{n}D", cases(x(*(5, 4, 3)[:n], 2))({"padding": 1})) for n in RANKS],
    *[
        rewrite(
            f"UpSampling{rank}D",
            cases(x(*(5, 4, 3)[:rank], 2), has=("RESIZE_NEAREST_NEIGHBOR",))(
                {"size": 2}, *([channels_first({"size": (2, 3)})] if rank == 2 else [])
            ),
            cases(x(4, 5, 3), has=("RESIZE_BILINEAR",))(
                *[{"size": (2, 3), "interpolation": "bilinear"}] * (rank == 2)
            )
            if rank == 2
            else (),
            cases(x(4, 5, 3), has=("FULLY_CONNECTED",))(
                {"size": (2, 3), "interpolation": "bicubic"},
                {"size": (2, 3), "interpolation": "lanczos5"},
            )
            if rank == 2
            else (),
            note="RESIZE_NEAREST_NEIGHBOR"
            + (", RESIZE_BILINEAR; other methods as matrix products" if rank == 2 else ""),
        )
        for rank in RANKS
    ],
]

MERGING = [
    *[
        works(kind, merging(kind))
        for kind in ("Add", "Average", "Maximum", "Minimum", "Multiply", "Subtract")
    ],
    works(
        "Concatenate",
        merging("Concatenate", ((4, 3), (4, 2))),
        merging("Concatenate", ((4, 3), (2, 3)), axis=1),
    ),
    works(
        "Dot",
        merging("Dot", ((4, 3), (5, 3)), axes=(2, 2), normalize=True),
        merging("Dot", ((4,), (4,)), axes=1),
    ),
]

CORE = [
    rewrite(
        "Dense",
        cases(x(5, 4), has=("FULLY_CONNECTED",))({"units": 3}),
        cases(x(5, 4), has=("FULLY_CONNECTED", "GELU"))({"units": 3, "activation": "gelu"}),
        note="activations as in Activation",
    ),
    works(
        "EinsumDense",
        cases(x(4, 3))(
            {"equation": "abc,cd->abd", "output_shape": (None, 5), "bias_axes": "d"},
            {"equation": "abc,cde->abde", "output_shape": (None, 2, 5), "bias_axes": "de"},
            {"equation": "abc,bd->adc", "output_shape": (5, 3)},
        ),
    ),
    rewrite(
        "Embedding",
        cases(ids(2, 3), has=("EMBEDDING_LOOKUP",))({"input_dim": 10, "output_dim": 4}),
        use(lambda i: kl.LSTM(3)(kl.Embedding(10, 4, mask_zero=True)(i)), ids(5, high=4)),
        note="EMBEDDING_LOOKUP; a row that the table lacks is an error of the runtime, not NaN",
    ),
    rewrite(
        "ReversibleEmbedding",
        use(lambda i: reversible(i), ids(5), has=("EMBEDDING_LOOKUP", "FULLY_CONNECTED")),
        note="as Embedding",
    ),
    works("Lambda", use(lambda t: kl.Lambda(lambda v: ops.sin(v) * 2)(t), x(4), has=("SIN",))),
    works("Identity", cases(x(4, 3))()),
    works("InputLayer", use(lambda t: kl.Identity()(t), x(4)), note="an input of the file"),
    works(
        "Layer",
        use(lambda t: Scaled()(t), x(4)),
        note="custom layers: whatever their code traces to; refused by name where LiteRT lacks it",
    ),
    works(
        "Wrapper",
        use(lambda t: Wrapped(kl.Dense(3))(t), x(4)),
        note="custom wrappers, as custom layers",
    ),
    Row("InputSpec", NO_GRAPH, (), "describes inputs; nothing to export"),
    works(
        "JaxLayer",
        use(
            lambda t: kl.JaxLayer(
                lambda params, inputs: jax.nn.relu(inputs @ params), params=np.ones((4, 3), "f")
            )(t),
            x(4),
        ),
    ),
    Row("FlaxLayer", "untested", (), "a JaxLayer around Flax, which the tests do not install"),
    refused(
        "TFSMLayer",
        reason="SavedModel",
        note="runs a TensorFlow SavedModel: convert that itself",
    ),
    refused(
        "TorchModuleWrapper",
        reason="PyTorch",
        note="runs a PyTorch module: convert that itself",
    ),
]


class Scaled(keras.layers.Layer):
    """A custom layer with a sublayer and a weight."""

    def build(self, shape: Any) -> None:
        self.inner = kl.Dense(3)
        self.scale = self.add_weight(shape=(3,), name="scale")

    def call(self, tensor: Any) -> Any:
        return self.inner(tensor) * self.scale


class Wrapped(keras.layers.Wrapper):
    """A custom wrapper."""

    def call(self, tensor: Any) -> Any:
        return ops.tanh(self.layer(tensor))


def reversible(numbers: Any) -> Any:
    """A language model's first and last layer, with shared weights."""
    table = kl.ReversibleEmbedding(10, 4)
    return table(kl.Dense(4)(table(numbers)), reverse=True)


RESIZED = (
    {"height": 6, "width": 9},
    {"height": 6, "width": 9, "crop_to_aspect_ratio": True},
    {"height": 6, "width": 9, "pad_to_aspect_ratio": True},
    channels_first({"height": 6, "width": 9}),
)
PREPROCESSING = [
    rewrite(
        "Resizing",
        cases(pixels(8, 7, 3), has=("RESIZE_BILINEAR",))(*RESIZED),
        cases(pixels(8, 7, 3), has=("RESIZE_NEAREST_NEIGHBOR",))(
            {"height": 6, "width": 9, "interpolation": "nearest"}
        ),
        cases(pixels(8, 7, 3), has=("FULLY_CONNECTED",))(
            {"height": 6, "width": 9, "interpolation": "bicubic"},
            {"height": 6, "width": 9, "interpolation": "lanczos3"},
            {"height": 6, "width": 9, "interpolation": "lanczos5"},
            {"height": 6, "width": 9, "antialias": True},
        ),
        note="RESIZE_BILINEAR, RESIZE_NEAREST_NEIGHBOR; other methods as matrix products",
    ),
    rewrite(
        "CenterCrop",
        cases(IMAGE)({"height": 4, "width": 5}, {"height": 10, "width": 5}),
        note="smaller images are resized, as by Resizing",
    ),
    works("Rescaling", cases(IMAGE)({"scale": 1 / 255, "offset": 0.1})),
    works(
        "Normalization",
        cases(x(4, 3))(
            {"mean": [0.1, 0.2, 0.3], "variance": [1.0, 2.0, 3.0]},
            {"mean": [0.1, 0.2, 0.3], "variance": [1.0, 2.0, 3.0], "invert": True},
        ),
    ),
    rewrite(
        "Discretization",
        cases(x(4))(
            {"bin_boundaries": [-0.5, 0.0, 0.7]},
            {"bin_boundaries": [-0.5, 0.0, 0.7], "output_mode": "multi_hot"},
            {"bin_boundaries": [-0.5, 0.0, 0.7], "output_mode": "count"},
        ),
        note="counts the boundaries passed",
    ),
    works(
        "CategoryEncoding",
        cases(ids(1, high=5))({"num_tokens": 5, "output_mode": "one_hot"}),
        cases(ids(3, high=5))(
            {"num_tokens": 5, "output_mode": "multi_hot"},
            {"num_tokens": 5, "output_mode": "count"},
        ),
        use(lambda a, b: kl.CategoryEncoding(5, "count")(a, count_weights=b), ids(3, high=5), x(3)),
    ),
    rewrite(
        "MelSpectrogram",
        cases(x(256), has=("RFFT2D",))(
            {"fft_length": 64, "sequence_stride": 16, "num_mel_bins": 8}
        ),
        cases(x(256))({"fft_length": 50, "sequence_stride": 16, "num_mel_bins": 8}),
        note="RFFT2D; other lengths than powers of two as matrix products, up to 1024",
    ),
    works(
        "STFTSpectrogram",
        cases(x(128, 2))(
            *(
                {"mode": mode, "frame_length": 32, "frame_step": 16, "fft_length": 64}
                for mode in ("log", "magnitude", "psd", "real", "imag", "angle", "stft")
            )
        ),
    ),
    rewrite(
        "Pipeline",
        use(
            lambda t: kl.Pipeline([kl.Rescaling(1 / 255), kl.RandomFlip(), kl.Resizing(4, 5)])(t),
            IMAGE,
            has=("RESIZE_BILINEAR",),
        ),
        note="as its layers",
    ),
    refused(
        "MaxNumBoundingBoxes",
        use(lambda i, b, k: bounded(i, b, k), IMAGE, x(5, 4), ids(5)),
        reason="prepares labels",
        note="prepares labels for training; Keras cannot compile it on JAX",
    ),
    rewrite("AutoContrast", cases(IMAGE)(), note="as LayerNormalization"),
    works("Equalization", cases(IMAGE, subclassed=True)()),
    rewrite(
        "ContrastLimitedAdaptiveHistogramEqualization",
        cases(IMAGE)({"tile_grid_size": (2, 2)}),
        note="constants computed at export",
    ),
    rewrite(
        "IntegerLookup",
        cases(ids(3), needs="tensorflow")(
            {"vocabulary": [3, 5, 7]},
            {"vocabulary": [3, 5, 7, 9, 8, 6, 4, 2, 1, 0], "num_oov_indices": 0},
            {"vocabulary": [3, 5, 7], "num_oov_indices": 2, "mask_token": 0},
            {"vocabulary": [3, 5, 7], "output_mode": "multi_hot"},
            {"vocabulary": [3, 5, 7], "output_mode": "count"},
        ),
        note="compares with each word; `tf_idf` and `invert` are refused",
    ),
    *[
        refused(
            layer,
            use(function, *inputs, needs="tensorflow"),
            reason=reason,
            note=f"{reason}: apply it before the model",
        )
        for layer, reason, function, inputs in (
            ("Hashing", "hashes text", lambda t: kl.Hashing(5)(t), (ids(3),)),
            (
                "HashedCrossing",
                "hashes text",
                lambda a, b: kl.HashedCrossing(5)([a, b]),
                (ids(1), ids(1)),
            ),
            (
                "StringLookup",
                "works on strings",
                lambda t: kl.StringLookup(vocabulary=["a"], invert=True)(t),
                (ids(3, high=2),),
            ),
        )
    ],
    refused(
        "TextVectorization",
        reason="works on strings",
        note="works on strings: apply it before the model",
    ),
]


def bounded(images: Any, boxes: Any, labels: Any) -> Any:
    """Object detection's boxes, cut to three."""
    data = {"images": images, "bounding_boxes": {"boxes": boxes, "labels": labels}}
    return kl.MaxNumBoundingBoxes(3, bounding_box_format="xyxy")(data)["bounding_boxes"]


def training_only(layer: str, *inputs: Any, draws: bool = False, **options: Any) -> Row:
    """A layer that passes its input on at inference; `draws`: not without drawing numbers."""
    found = cases(*(inputs or (IMAGE,)))(options)
    if draws:
        return rewrite(layer, found, note="acts in training only; what it draws is thrown away")
    return works(layer, found, note="acts in training only")


TRAINING = [
    training_only("ActivityRegularization", x(4), l1=0.1),
    training_only("AlphaDropout", x(4, 3), rate=0.5),
    training_only("Dropout", x(4, 3), rate=0.5),
    training_only("GaussianDropout", x(4, 3), rate=0.5),
    training_only("GaussianNoise", x(4, 3), stddev=1.0),
    training_only("SpatialDropout1D", x(4, 3), rate=0.5),
    training_only("SpatialDropout2D", x(4, 4, 3), rate=0.5),
    training_only("SpatialDropout3D", x(4, 4, 4, 3), rate=0.5),
    training_only("AugMix"),
    training_only("CutMix"),
    training_only("MixUp", draws=True),
    training_only("RandAugment"),
    training_only("RandomBrightness", factor=0.2),
    training_only("RandomColorDegeneration", draws=True, factor=0.2),
    training_only("RandomColorJitter"),
    training_only("RandomContrast", factor=0.2),
    training_only("RandomCrop", height=5, width=6),
    training_only("RandomElasticTransform"),
    training_only("RandomErasing"),
    training_only("RandomFlip"),
    training_only("RandomGaussianBlur"),
    training_only("RandomGrayscale", draws=True),
    training_only("RandomHue", draws=True, factor=0.2),
    training_only("RandomInvert"),
    training_only("RandomPerspective"),
    training_only("RandomPosterization", draws=True, factor=4),
    training_only("RandomRotation", factor=0.2),
    training_only("RandomSaturation", draws=True, factor=0.2),
    training_only("RandomSharpness", draws=True, factor=0.2),
    training_only("RandomShear", x_factor=0.2),
    training_only("RandomTranslation", height_factor=0.2, width_factor=0.2),
    training_only("RandomZoom", height_factor=0.2),
    training_only("Solarization"),
]

TABLE: tuple[Row, ...] = (
    *CORE,
    *ACTIVATIONS,
    *CONVOLUTIONS,
    *POOLING,
    *RECURRENT,
    *ATTENTION,
    *NORMALIZATION,
    *SHAPES,
    *MERGING,
    *PREPROCESSING,
    *TRAINING,
)


def names(cls: type) -> list[str]:
    """The names under which `keras.layers` has a class."""
    return [name for name in dir(kl) if getattr(kl, name) is cls]


INTRODUCTION = """
Every class of `keras.layers`, as the tests find it (`tests/litert/layer_table.py`): exported in
float32, run in the LiteRT interpreter with XNNPACK and held against Keras to 1e-4 of the largest
output. *Works*: the plain trace converts, to the same operators. *Works with rewrite*: it would
fail, or run operators that are slower or missing in the runtime; the rules in
`sentei/litert/rewrites` see to it. They look at what a model computes, not at the class, so they
work inside custom layers and `keras.ops`, too. *Refused*: `sentei.export` raises
`UnsupportedModel` with the layer's name and the reason.
"""


def markdown() -> str:
    """The table as `docs/layers.md`."""
    lines = [
        "# Which Keras layers can be exported to LiteRT",
        "",
        *INTRODUCTION.strip().splitlines(),
        "",
        "| layer | export | |",
        "|---|---|---|",
    ]
    for row in sorted(TABLE, key=lambda row: row.layer):
        others = [name for name in names(getattr(kl, row.layer)) if name != row.layer]
        layer = ", ".join(f"`{name}`" for name in (row.layer, *others))
        lines.append(f"| {layer} | {row.verdict} | {row.note} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")

__all__ = ["REFUSED", "TABLE", "markdown", "names"]
