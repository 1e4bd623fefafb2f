"""Small networks that run sparse with XNNPACK, or that one thing keeps from it.

Each row says what the runtime does with the network when its 1x1 convolutions (and its head) are
80 % zero: seen with the real runtime on a processor without AVX, see `run_without_avx`.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
from keras import layers as kl

import sentei


@dataclass(frozen=True)
class Options:
    """What a network is built with; the defaults run sparse."""

    stem_padding: object = 1
    stem_stride: int = 2
    stem_kernel: int = 3
    channels: int = 3
    activation: object = kl.ReLU
    depth_kernel: int = 3
    depth_stride: int = 2
    depth_padding: object = "symmetric"
    dilation: int = 1
    multiplier: int = 1
    pointwise_stride: int = 1
    groups: int = 1
    join: str = "add"
    attention: bool = False
    resize: str | None = None
    end: str = "average"
    head: int | None = 10
    also_out: bool = False
    share: float = 0.8
    head_share: float = 0.8


def build(options: Options) -> keras.Model:
    """A stem, a block with a stride, a block with a shortcut, an end, a head."""
    o = options
    inputs = keras.Input((32, 32, o.channels), name="image")
    x = kl.ZeroPadding2D(o.stem_padding)(inputs) if o.stem_padding != "same" else inputs
    padding = "same" if o.stem_padding == "same" else "valid"
    x = kl.Conv2D(16, o.stem_kernel, o.stem_stride, padding, name="stem")(x)
    x = o.activation()(x)
    x = kl.Conv2D(32, 1, o.pointwise_stride, groups=o.groups, name="expand")(x)
    x = o.activation()(x)
    x = _depthwise(x, o)
    x = o.activation()(x)
    x = shortcut = kl.Conv2D(16, 1, name="project")(x)
    x = o.activation()(kl.Conv2D(48, 1, name="second_expand")(x))
    x = kl.DepthwiseConv2D(3, padding="same", name="second_depth")(x)
    if o.attention:
        gate = kl.GlobalAveragePooling2D(keepdims=True)(x)
        gate = kl.Conv2D(48, 1, activation="sigmoid", name="gate")(gate)
        x = kl.Multiply()([x, gate])
    x = kl.Conv2D(16, 1, name="second_project")(x)
    if o.join != "none":
        join = {"add": kl.Add, "concatenate": kl.Concatenate, "maximum": kl.Maximum}[o.join]
        x = join()([x, shortcut])
    if o.resize is not None:
        x = kl.UpSampling2D(2, interpolation=o.resize)(x)
    x = last = o.activation()(kl.Conv2D(64, 1, name="last")(x))
    x = {
        "average": kl.GlobalAveragePooling2D(),
        "maximum": kl.GlobalMaxPooling2D(),
        "flatten": kl.Flatten(),
        "image": kl.Activation("linear"),
    }[o.end](x)
    if o.head is not None:
        x = kl.Dense(o.head, name="head")(x)
    model = keras.Model(inputs, [x, last] if o.also_out else x)
    prune(model, o)
    return model


def _depthwise(x, o):
    size = (o.depth_kernel - 1) * o.dilation // 2
    if o.depth_padding == "symmetric":
        x = kl.ZeroPadding2D(size)(x)
    return kl.DepthwiseConv2D(
        o.depth_kernel,
        o.depth_stride if o.dilation == 1 else 1,
        "valid" if o.depth_padding == "symmetric" else o.depth_padding,
        o.multiplier,
        dilation_rate=o.dilation,
        name="depth",
    )(x)


def prune(model, o):
    """Zeros in the 1x1 convolutions and the head."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        if layer.name == "head" or getattr(layer, "kernel_size", None) == (1, 1):
            share = o.head_share if layer.name == "head" else o.share
            values = keras.ops.convert_to_numpy(layer.kernel)
            order = random.permutation(values.size).reshape(values.shape)
            layer.kernel.assign(np.where(order < round(share * values.size), 0.0, values))


# name → (options, whether the runtime runs 1x1 convolutions sparse, words of the doctor if not)
NETWORKS: dict[str, tuple[Options, bool, str]] = {
    "as it should be": (Options(), True, ""),
    "no head": (Options(head=None), True, ""),
    "dense head that is small": (Options(head_share=0.0, head=2), True, ""),
    "dense head that is large": (Options(head_share=0.0, head=100), False, "Prune them"),
    "too few zeros": (Options(share=0.6, head_share=0.6), False, "Prune them"),
    "exactly enough": (Options(share=0.67, head_share=0.68), True, ""),
    "stem padded as TensorFlow does": (Options(stem_padding="same"), False, "stem: it is padded"),
    "stem padded on two sides": (
        Options(stem_padding=((0, 1), (0, 1))), False, "stem: it is padded by 'same'"
    ),
    "stem without stride": (Options(stem_stride=1), False, "stem: its stride is 1x1, not 2"),
    "stem of 5x5": (Options(stem_kernel=5, stem_padding=2), False, "its kernel is 5x5, not 1x1"),
    "image of four channels": (Options(channels=4), False, "stem: it is a 3x3 convolution on 4 ch"),
    "gray image": (Options(channels=1), False, "stem: its depth multiplier is 16"),
    "depthwise padded as TensorFlow does": (
        Options(depth_padding="same"), False, "depth: it is padded by 'same'"
    ),
    "depthwise without padding": (Options(depth_padding="valid"), False, "depth: it is padded"),
    "depthwise of stride 1, padded as TensorFlow does": (
        Options(depth_padding="same", depth_stride=1), True, ""
    ),
    "depthwise of 5x5": (Options(depth_kernel=5), True, ""),
    "depthwise of 7x7": (Options(depth_kernel=7), False, "depth: its kernel is 7x7"),
    "depthwise dilated": (Options(dilation=2, depth_padding="same"), False, "its dilation is 2x2"),
    "depthwise with a multiplier": (Options(multiplier=2), False, "its depth multiplier is 2"),
    "1x1 with a stride": (Options(pointwise_stride=2), False, "expand: its stride is 2x2"),
    "1x1 in groups": (Options(groups=2), False, "expand: it has groups"),
    "swish": (Options(activation=lambda: kl.Activation("swish")), True, ""),
    "hard swish": (Options(activation=lambda: kl.Activation("hard_swish")), True, ""),
    "leaky relu": (Options(activation=kl.LeakyReLU), True, ""),
    "gelu": (Options(activation=lambda: kl.Activation("gelu")), True, ""),
    "prelu": (
        Options(activation=lambda: kl.PReLU("random_normal", shared_axes=(1, 2))),
        False,
        "one operand is a constant",
    ),
    "concatenation": (Options(join="concatenate"), False, "CONCATENATION has no kernel"),
    "maximum of two": (Options(join="maximum"), False, "MAXIMUM has no kernel"),
    "squeeze and excite": (Options(attention=True), True, ""),
    "bilinear resizing": (Options(resize="bilinear"), True, ""),
    "nearest resizing": (Options(resize="nearest"), False, "RESIZE_NEAREST_NEIGHBOR"),
    "maximum at the end": (Options(end="maximum"), False, "nothing ends a sparse part"),
    "flattened": (Options(end="flatten"), False, "nothing ends a sparse part"),
    "an image at the end": (Options(end="image", head=None), False, "nothing ends a sparse part"),
    "a second output": (Options(also_out=True), False, "it is an output of the model"),
}  # fmt: skip


# Runs in the emulated processor, where importing Keras would take a minute.
_ASK = """
import json, os, sys, types
import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType
profiling = types.ModuleType("profiling")
sys.modules["profiling"] = profiling
source = open(sys.argv[1]).read().partition("if __name__ ==")[0].replace("_RUNS = 30", "_RUNS = 1")
exec(compile(source, sys.argv[1], "exec"), profiling.__dict__)
found = []
for path in sys.argv[2:]:
    names = [row.name for row in profiling.parse(profiling._answer(path, 1))]
    results = []
    for kernels in (OpResolverType.BUILTIN, OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES):
        interpreter = Interpreter(path, experimental_op_resolver_type=kernels)
        interpreter.allocate_tensors()
        detail = interpreter.get_input_details()[0]
        image = np.random.default_rng(0).normal(size=detail["shape"]).astype("float32")
        interpreter.set_tensor(detail["index"], image)
        interpreter.invoke()
        results.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
    error = float(np.abs(results[0] - results[1]).max() / np.abs(results[1]).max())
    found.append([names, error])
print(json.dumps(found), flush=True)
os._exit(0)
"""


def emulator() -> str | None:
    """The program that runs x86 code on a processor without AVX (Debian: qemu-user), or None."""
    return shutil.which("qemu-x86_64")


@dataclass(frozen=True)
class Ran:
    """What XNNPACK does on a processor on which it runs sparse.

    Attributes:
        sparse: How many multiplications by a sparse matrix it makes ("SPMM").
        error: The largest difference from the runtime's own kernels, over the largest output.
    """

    sparse: int
    error: float


def run_without_avx(paths: list[Path]) -> list[Ran]:
    """Runs files with XNNPACK on an emulated x86 processor without AVX."""
    source = Path(sentei.__file__).parent / "litert" / "profiling.py"
    python = str(Path(sys.executable).resolve())
    packages = next(p for p in map(Path, sys.path) if (p / "ai_edge_litert").is_dir())
    done = subprocess.run(
        [emulator(), "-cpu", "Nehalem", python, "-c", _ASK, str(source), *map(str, paths)],
        env={"PYTHONPATH": str(packages), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        check=True,
        timeout=900,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    return [Ran(sum("SPMM" in name for name in names), error) for names, error in found]
