"""`tfmot.experimental`."""

from sentei.tfmot.experimental import combine

__all__ = ["combine"]
