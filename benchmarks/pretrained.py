"""Networks with the weights that others trained, and the pixels they expect.

`python benchmarks/pretrained.py` builds each and says how accurate it is.
"""

from __future__ import annotations

from collections.abc import Iterator

import data
import keras
import models
import numpy as np
from keras import layers

# Of ImageNet's training images; both sets of weights want pixels scaled by them.
_MEAN = np.array([0.485, 0.456, 0.406], "float32")
_DEVIATION = np.array([0.229, 0.224, 0.225], "float32")


def normalized(images: np.ndarray) -> np.ndarray:
    """Pixels as the pretrained networks expect them.

    Args:
        images: uint8 `(n, height, width, 3)`.

    Returns:
        float32 of the same shape.
    """
    return (images.astype("float32") / 255.0 - _MEAN) / _DEVIATION


def resnet(depth: int = 20) -> keras.Model:
    """A CIFAR-10 ResNet with akamaster's weights: 91.7 % (20) or 93.4 % (56) of the test images.

    Args:
        depth: 20 or 56.
    """
    model = models.resnet(depth)
    _load(model, data.resnet_weights(depth))
    return model


def mobilenet_v2() -> keras.Model:
    """MobileNetV2 (Sandler et al. 2018) with torchvision's ImageNet weights: 71.9 % top-1.

    Symmetric padding, as in torchvision, and logits as output.
    """
    model = models.mobilenet_v2()
    _load(model, data.mobilenet_weights())
    return model


def _load(model: keras.Model, state: dict[str, np.ndarray]) -> None:
    """Copies a PyTorch state dict whose entries come in the order of the model's layers."""
    entries = _modules(state)
    for layer in model.layers:
        if not layer.weights:
            continue
        entry = next(entries)
        if isinstance(layer, layers.BatchNormalization):
            names = ("weight", "bias", "running_mean", "running_var")
            layer.set_weights([entry[name] for name in names])
            continue
        kernel = entry["weight"]
        if isinstance(layer, layers.DepthwiseConv2D):
            kernel = kernel.transpose(2, 3, 0, 1)
        elif kernel.ndim == 4:
            kernel = kernel.transpose(2, 3, 1, 0)
        else:
            kernel = kernel.T
        layer.set_weights([kernel, *([entry["bias"]] if layer.use_bias else [])])
    if (left := next(entries, None)) is not None:
        raise ValueError(f"weights left over: {list(left)}")


def _modules(state: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """The entries of a state dict, module by module."""
    modules: dict[str, dict[str, np.ndarray]] = {}
    for name, value in state.items():
        module, _, kind = name.rpartition(".")
        modules.setdefault(module, {})[kind] = value
    yield from modules.values()


def main() -> None:
    """Says how accurate the networks are."""
    test = data.cifar10()
    for depth in (20, 56):
        scores = resnet(depth).predict(normalized(test.x_test[:2000]), batch_size=500, verbose=0)
        right = np.mean(scores.argmax(-1) == test.y_test[:2000])
        print(f"ResNet-{depth}: {right:.2%} of the first 2,000 test images of CIFAR-10")
    images, labels = data.photos()
    scores = mobilenet_v2().predict(normalized(images), verbose=0)
    print(f"MobileNetV2: {np.sum(scores.argmax(-1) == labels)} of {len(labels)} photos")


if __name__ == "__main__":
    main()
