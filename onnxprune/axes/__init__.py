"""Coordinates, links and units; knows no operator by name."""

from onnxprune.axes.carriers import solve
from onnxprune.axes.space import Bools, Composed, Ids, Partition, Product, Reason, Space
from onnxprune.axes.units import Group, Span, group_units

__all__ = [
    "Bools",
    "Composed",
    "Group",
    "Ids",
    "Partition",
    "Product",
    "Reason",
    "Space",
    "Span",
    "group_units",
    "solve",
]
