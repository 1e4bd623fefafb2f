"""Looking on while a model calls its layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def seen(layers: Sequence[Any], see: Callable[..., Any]) -> Iterator[None]:
    """Calls `see(layer, call, *args)` in place of `layer.call(*args)` while the context lasts.

    Args:
        layers: The layers, each once.
        see: What is called; it gives what `layer.call` would.

    Yields:
        Nothing.
    """
    before = [(layer, vars(layer).get("call"), layer.call) for layer in layers]
    try:
        for layer, _, call in before:
            layer.call = _Through(see, layer, call)
        yield
    finally:
        for layer, own, _ in before:
            if own is None:
                del layer.call
            else:
                layer.call = own


class _Through:
    """A layer's `call` by way of a function."""

    def __init__(self, see: Callable[..., Any], layer: Any, call: Callable[..., Any]) -> None:
        self._see, self._layer, self._call = see, layer, call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._see(self._layer, self._call, *args, **kwargs)
