"""The errors a user can meet: each names the thing, says why, and says what to do."""


class SenteiError(ValueError):
    """Base of every error that sentei raises for a user's input."""


class CorruptFile(SenteiError):
    """A file is empty, truncated, damaged, or not of the format that was asked for."""


class UnsupportedModel(SenteiError):
    """A layer or model cannot be handled; the message names it and the reason."""


class ExportError(SenteiError):
    """The converter refused the model; the message holds its own words."""


class ExportMismatch(ExportError):
    """The written file does not compute what the Keras model computes."""
