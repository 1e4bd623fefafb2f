"""`tfmot.quantization.keras.collab_opts`."""

from sentei.tfmot.quantization.preserving import Default8BitPrunePreserveQuantizeScheme

__all__ = ["Default8BitPrunePreserveQuantizeScheme"]
