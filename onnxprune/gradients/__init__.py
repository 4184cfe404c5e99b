"""Reverse-mode derivatives of ONNX graphs, written as ONNX and run by stock onnxruntime."""

from onnxprune.gradients.backward import SIZES, NoGradient, backward
from onnxprune.gradients.emit import Emitter

__all__ = ["SIZES", "Emitter", "NoGradient", "backward"]
