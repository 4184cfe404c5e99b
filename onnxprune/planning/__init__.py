"""From scores to a plan: what stays and what goes, as plain data.

``layers`` weights in their canonical view, ``cost`` what a choice costs, ``structure`` and
``masks`` the two kinds of choice, ``plan`` the data they end in.
"""

from onnxprune.planning.layers import Layer, find_layers
from onnxprune.planning.options import SelectOptions
from onnxprune.planning.plan import PrunePlan

__all__ = ["Layer", "PrunePlan", "SelectOptions", "find_layers"]
