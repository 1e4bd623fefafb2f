"""Which technique to use: what there is, what fits, and how the candidates measure up."""

from sentei.advice.advise import Advice, advise
from sentei.advice.choices import CHOICES, HARDWARE, Choice

__all__ = ["CHOICES", "HARDWARE", "Advice", "Choice", "advise"]
