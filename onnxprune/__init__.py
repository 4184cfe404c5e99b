"""onnxprune: prune ONNX models as ONNX graphs, and prove the result."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from onnxprune.errors import OnnxPruneError

if TYPE_CHECKING:
    from onnxprune.api import (
        PrunePlan,
        Recipe,
        Result,
        bench,
        export_plan,
        inspect,
        load,
        prune,
        save,
        sensitivity,
        validate,
    )

__version__ = "0.1.0"

__all__ = [
    "OnnxPruneError",
    "PrunePlan",
    "Recipe",
    "Result",
    "__version__",
    "bench",
    "export_plan",
    "inspect",
    "load",
    "prune",
    "save",
    "sensitivity",
    "validate",
]


def __getattr__(name: str) -> Any:
    # onnxruntime and scipy take most of a second to import; `onnxprune --help` needs neither.
    if name in __all__:
        from onnxprune import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
