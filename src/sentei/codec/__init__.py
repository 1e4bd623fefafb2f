"""The last mile: a lossless container in which models travel (docs/format.md)."""

from sentei.codec.packing import Packed, pack
from sentei.codec.unpacking import Unpacked, unpack, verify

__all__ = ["Packed", "Unpacked", "pack", "unpack", "verify"]
