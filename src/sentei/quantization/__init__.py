"""Quantization: a model that computes as its integers will, calibrated and trained."""

from sentei.quantization.adaround import adaround
from sentei.quantization.calibrate import calibrate
from sentei.quantization.correction import correct_bias
from sentei.quantization.equalize import equalize
from sentei.quantization.grid import Grid, Kind
from sentei.quantization.layer import QuantizedModel
from sentei.quantization.observers import OBSERVERS
from sentei.quantization.own_code import OwnCode
from sentei.quantization.plan import Plan
from sentei.quantization.quantize import quantize, quantized, quantizers
from sentei.quantization.quantizer import Quantizer
from sentei.quantization.rate.coarse import round_batch_norm
from sentei.quantization.rate.log import RateLog, RateReport, rate_report
from sentei.quantization.rate.target import RateTarget
from sentei.quantization.report import Report, report
from sentei.quantization.scheme import SCHEMES, Custom, Int4, Int8, Int16x8

__all__ = [
    "OBSERVERS",
    "SCHEMES",
    "Custom",
    "Grid",
    "Int4",
    "Int8",
    "Int16x8",
    "Kind",
    "OwnCode",
    "Plan",
    "QuantizedModel",
    "Quantizer",
    "RateLog",
    "RateReport",
    "RateTarget",
    "Report",
    "adaround",
    "calibrate",
    "correct_bias",
    "equalize",
    "quantize",
    "quantized",
    "quantizers",
    "rate_report",
    "report",
    "round_batch_norm",
]
