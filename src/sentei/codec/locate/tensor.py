"""A tensor in a file."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tensor:
    """Where a tensor lies in a file and what it is.

    Attributes:
        name: Its name.
        dtype: Its type, such as `"int8"`.
        shape: Its shape; that of the dense tensor even where only its non-zeros are stored.
        offset: Where its bytes begin.
        size: How many there are.
        indices: Whether they list places of a sparse tensor.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    size: int
    indices: bool = False
