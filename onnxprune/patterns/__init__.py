"""Which masks are allowed, one file a pattern.

A pattern cuts a weight into *units*: the sets of weights that live or die together. Patterns see a
weight only as its canonical view, an array ``[G, O, I, *K]``: groups, outputs per group, inputs
per group (the axis the product contracts over), kernel positions. A matrix product has G = 1 and
no K. Masks are boolean in the same shape and say what is KEPT.
"""

from onnxprune.patterns.base import PATTERNS, FloatArray, Mask, Pattern, parse_pattern
from onnxprune.patterns.select import keep_largest

__all__ = ["PATTERNS", "FloatArray", "Mask", "Pattern", "keep_largest", "parse_pattern"]
