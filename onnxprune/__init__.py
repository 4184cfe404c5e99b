"""onnxprune: prune ONNX models as ONNX graphs, and prove the result."""

from onnxprune.api import PrunePlan, Result, load, prune, save
from onnxprune.errors import OnnxPruneError

__version__ = "0.1.0"

__all__ = ["OnnxPruneError", "PrunePlan", "Result", "__version__", "load", "prune", "save"]
