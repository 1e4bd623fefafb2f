"""What a `.tflite` file holds, as typed data: subgraphs, tensors, operators, signatures."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from sentei.core.errors import CorruptFile
from sentei.litert import sparse

# name → (numpy dtype of one unpacked value, bits in the file). The names are the schema's in lower
# case; types whose values have no fixed size (string, resource, variant) have no data to show.
FORMATS: dict[str, tuple[Any, int]] = {
    "bfloat16": (ml_dtypes.bfloat16, 16),
    "bool": (np.bool_, 8),
    "complex128": (np.complex128, 128),
    "complex64": (np.complex64, 64),
    "float16": (np.float16, 16),
    "float32": (np.float32, 32),
    "float64": (np.float64, 64),
    "float8_e4m3fn": (ml_dtypes.float8_e4m3fn, 8),
    "float8_e5m2": (ml_dtypes.float8_e5m2, 8),
    "int16": (np.int16, 16),
    "int2": (np.int8, 2),
    "int32": (np.int32, 32),
    "int4": (np.int8, 4),
    "int64": (np.int64, 64),
    "int8": (np.int8, 8),
    "uint16": (np.uint16, 16),
    "uint32": (np.uint32, 32),
    "uint4": (np.uint8, 4),
    "uint64": (np.uint64, 64),
    "uint8": (np.uint8, 8),
}


@dataclass(frozen=True)
class Quantization:
    """How integers stand for real numbers: `real = scale * (integer - zero_point)`.

    Invariants: `scale` and `zero_point` are 1-D and equally long; one entry means the whole tensor,
    several mean one per index along `axis`.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0


@dataclass(frozen=True)
class Tensor:
    """One tensor of a subgraph.

    Attributes:
        name: Its name in the file.
        shape: The dense shape; the file's default where a dimension is dynamic.
        shape_signature: The same with -1 where a dimension is dynamic.
        dtype: The schema's type name in lower case, such as `"int8"` or `"int4"`.
        buffer: The constant's bytes as the file stores them, or None when it is computed.
        quantization: Scale and zero point, or None.
        sparsity: The layout of a sparse constant, or None when it is dense.
        is_variable: Whether it keeps its value from one run to the next.
    """

    name: str
    shape: tuple[int, ...]
    shape_signature: tuple[int, ...]
    dtype: str
    buffer: np.ndarray | None
    quantization: Quantization | None = None
    sparsity: sparse.Sparsity | None = None
    is_variable: bool = False

    @property
    def size(self) -> int:
        """Number of elements of the dense shape."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def nbytes(self) -> int:
        """Bytes of the stored constant, 0 when it is computed (sparse indices not counted)."""
        return 0 if self.buffer is None else int(self.buffer.size)

    @property
    def stored_bytes(self) -> int:
        """Bytes the file holds for it: the constant and, when it is sparse, its indices."""
        return self.nbytes + (0 if self.sparsity is None else self.sparsity.nbytes)

    def values(self) -> np.ndarray | None:
        """The values the file stores, flat and in its order; of a sparse tensor only those present.

        Returns:
            Array of shape `(stored,)` (sub-byte integers one to a byte), or None when the tensor is
            computed or its type has no fixed size.
        """
        if self.buffer is None or self.dtype not in FORMATS:
            return None
        numpy_type, bits = FORMATS[self.dtype]
        if bits >= 8:
            return self.buffer.view(numpy_type)
        unpacked = _unpack(self.buffer, bits, signed=self.dtype.startswith("int"))
        return unpacked if self.sparsity else unpacked[: self.size]

    def data(self) -> np.ndarray | None:
        """The constant as a dense array of shape `shape`, not dequantized, or None (as `values`).

        Raises:
            CorruptFile: A sparse tensor's layout contradicts itself.
        """
        values = self.values()
        if values is None:
            return None
        if self.sparsity is None:
            return values.reshape(self.shape)
        try:
            return sparse.expand(values, self.shape, self.sparsity)
        except CorruptFile as error:
            raise CorruptFile(f"Tensor {self.name!r} is damaged: {error}.") from None


@dataclass(frozen=True)
class Operator:
    """One operation: its name and the tensors (indices into its subgraph) it reads and writes.

    An absent optional input is -1; `options` is the schema's object, None when there are none.
    """

    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Any = None


@dataclass(frozen=True)
class Subgraph:
    """One graph: its tensors, its operators in running order, which tensors come in and go out."""

    name: str
    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """A named way to call a subgraph; `inputs` and `outputs` map names to tensor indices."""

    key: str
    subgraph: int
    inputs: dict[str, int]
    outputs: dict[str, int]


@dataclass(frozen=True)
class FlatModel:
    """A whole file; `tree` is the mutable schema object behind it, for passes that rewrite."""

    subgraphs: tuple[Subgraph, ...]
    signatures: tuple[Signature, ...]
    size: int
    tree: schema.ModelT = field(repr=False)

    def tensors(self) -> Iterator[Tensor]:
        """All tensors of all subgraphs."""
        for subgraph in self.subgraphs:
            yield from subgraph.tensors

    def census(self) -> Counter[str]:
        """How many operators of each name the file holds."""
        return Counter(op.name for subgraph in self.subgraphs for op in subgraph.operators)

    def dtype_census(self) -> Counter[str]:
        """How many tensors of each type the file holds."""
        return Counter(tensor.dtype for tensor in self.tensors())


def _unpack(packed: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """Splits bytes into values of `bits` bits, lowest bits first, as the runtime's kernels do."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = ((packed[:, None] >> shifts) & ((1 << bits) - 1)).astype(np.uint8).ravel()
    if not signed:
        return fields
    top = 8 - bits
    return (fields << top).view(np.int8) >> top
