"""Hand-built ONNX graphs, one for every pitfall of structured pruning we know of.

`all_graphs()` gives builders by name; `SPECS` says in addition which initializers channel pruning
at one half must shrink and which it must leave alone. Weights are seeded, so a graph is the same
bytes every time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx

from . import (  # noqa: F401  (importing registers)
    concat_split,
    control,
    convs,
    frozen,
    layout,
    norms,
    plumbing,
    pointwise,
    recurrent,
    resize,
    shapes,
    sizes_out,
    slicing,
    weights,
)
from .register import SPECS, Spec

__all__ = ["SPECS", "Spec", "all_graphs"]


def all_graphs() -> Mapping[str, Callable[[], onnx.ModelProto]]:
    """Builders of all graphs, by name."""
    return {name: spec.build for name, spec in SPECS.items()}
