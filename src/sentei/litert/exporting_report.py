"""What an export did, for people and for machines."""

from __future__ import annotations

import gzip
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sentei.litert.quantized import IntegerCheck
from sentei.litert.signature import TensorSpec
from sentei.litert.sparsify import Stored
from sentei.litert.verify import Verification


@dataclass(frozen=True)
class ExportReport:
    """What `sentei.export` wrote, and how far it is from Keras.

    Attributes:
        path: The file.
        bytes: Its size.
        operators: How many operators of each name it holds.
        dtypes: How many tensors of each dtype it holds.
        inputs: The names, shapes and dtypes of its inputs; `None` for an open batch.
        outputs: The same of its outputs.
        verification: How far its outputs are from Keras', or None when that was not asked for.
        seconds: The time of each step: "trace", "convert", "verify".
        sparse: What is stored sparse, or None when nothing is.
        integers: Of a quantized model, how far the file is from the simulation, tensor by tensor
            (`print(report.integers.table())`); None when not verified.
    """

    path: str
    bytes: int
    operators: dict[str, int]
    dtypes: dict[str, int]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    verification: Verification | None
    seconds: dict[str, float]
    sparse: Stored | None = None
    integers: IntegerCheck | None = None

    @property
    def gzip_bytes(self) -> int:
        """The file's size after `gzip -9`, measured when asked for."""
        return len(gzip.compress(Path(self.path).read_bytes(), compresslevel=9, mtime=0))

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON-ready data."""
        return asdict(self)

    def __str__(self) -> str:
        operators = sorted(self.operators.items(), key=lambda item: (-item[1], item[0]))
        rows = {
            "file": self.path,
            "size": f"{self.bytes:,} bytes",
            "inputs": ", ".join(map(str, self.inputs)),
            "outputs": ", ".join(map(str, self.outputs)),
            "operators": ", ".join(f"{count} {name}" for name, count in operators) or "none",
            "tensors": ", ".join(f"{count} {name}" for name, count in sorted(self.dtypes.items())),
            **({} if self.sparse is None else {"sparse": str(self.sparse)}),
            "against Keras": self._verdict(),
            "time": ", ".join(f"{name} {value:.2f} s" for name, value in self.seconds.items()),
        }
        width = max(map(len, rows))
        return "\n".join(f"{name:<{width}}  {text}" for name, text in rows.items())

    def _verdict(self) -> str:
        if self.integers is not None:
            return str(self.integers)
        check = self.verification
        if check is None:
            return "not verified"
        return (
            f"largest error {check.absolute_error:.2g} ({check.relative_error:.2g} relative) "
            f"over {check.samples} samples"
        )
