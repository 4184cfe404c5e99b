"""Reverse-mode derivatives of ONNX graphs, written as ONNX and run by stock onnxruntime.

Where our runtime library can be used, a few of its operators take the place of many nodes.
"""

from onnxprune.gradients.backward import SIZES, NoGradient, backward
from onnxprune.gradients.emit import Emitter

__all__ = ["SIZES", "Emitter", "NoGradient", "backward"]
