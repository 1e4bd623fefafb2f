"""Pruning: which weights go, when, in which pattern."""

from sentei.core.schedule import ConstantSparsity, PolynomialDecay, Schedule
from sentei.sparsity.allocate import distribute
from sentei.sparsity.dynamic import DynamicSparsity
from sentei.sparsity.kept import KeptZeros
from sentei.sparsity.log import Log
from sentei.sparsity.patterns import Block, Element, NofM, Pattern
from sentei.sparsity.prune import prune, pruning
from sentei.sparsity.ready import xnnpack_ready
from sentei.sparsity.report import report
from sentei.sparsity.rule import Pruning
from sentei.sparsity.saliency import MovementPruning, OneShot
from sentei.sparsity.sensitivity import Sensitivity, sensitivity

__all__ = [
    "Block",
    "ConstantSparsity",
    "DynamicSparsity",
    "Element",
    "KeptZeros",
    "Log",
    "MovementPruning",
    "NofM",
    "OneShot",
    "Pattern",
    "PolynomialDecay",
    "Pruning",
    "Schedule",
    "Sensitivity",
    "distribute",
    "prune",
    "pruning",
    "report",
    "sensitivity",
    "xnnpack_ready",
]
