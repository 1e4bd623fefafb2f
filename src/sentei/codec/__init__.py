"""The last mile: a lossless container in which models travel (docs/format.md)."""

from sentei.codec.packing import Packed, pack
from sentei.codec.reading import PackedFile, PackedTensor, open
from sentei.codec.streaming import Decoder
from sentei.codec.unpacking import Unpacked, unpack, verify

__all__ = [
    "Decoder",
    "Packed",
    "PackedFile",
    "PackedTensor",
    "Unpacked",
    "open",
    "pack",
    "unpack",
    "verify",
]
