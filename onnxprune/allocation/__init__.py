"""How much to take from where, one file a strategy."""

from onnxprune.allocation.base import ALLOCATIONS, Allocation, Item, Strategy, round_keep
from onnxprune.allocation.budget import allocate
from onnxprune.allocation.level import solve_level
from onnxprune.allocation.overrides import resolve_overrides

__all__ = [
    "ALLOCATIONS",
    "Allocation",
    "Item",
    "Strategy",
    "allocate",
    "resolve_overrides",
    "round_keep",
    "solve_level",
]
