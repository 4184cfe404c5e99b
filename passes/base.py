"""What a pass is.

A pass is a frozen dataclass whose fields are its options; ``name`` is how the command line and
recipes spell it. ``run(model, context)`` edits ``model`` in place and says what it did. The model
is valid before and after, not during; a second run reports ``modified=False``.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import onnx_ir as ir

from onnxprune.errors import UsageError
from onnxprune.registry import Registry


@dataclass(frozen=True)
class PassResult:
    """What a pass leaves behind.

    Attributes:
        model: the model, edited in place.
        modified: whether anything changed.
        stats: numbers and lists for the report, JSON-serialisable.
    """

    model: ir.Model
    modified: bool
    stats: dict[str, Any] = field(default_factory=dict)


@dataclass
class Context:
    """What passes share during one run.

    Attributes:
        seed: for everything random.
        progress: called with (pass name, fraction done in 0..1).
        facts: results that later passes read, by pass name.
    """

    seed: int = 0
    progress: Callable[[str, float], None] = lambda name, done: None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Pass(ABC):
    """Base of every pass; subclasses are frozen dataclasses and register in :data:`PASSES`."""

    name: ClassVar[str] = ""

    @abstractmethod
    def run(self, model: ir.Model, context: Context) -> PassResult:
        """Rewrite ``model`` in place."""

    def options(self) -> dict[str, Any]:
        """Return the options as plain data, for recipes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Pass:
        """Build the pass from a recipe entry.

        Raises:
            UsageError: an option the pass does not have.
        """
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(options) - known)
        if unknown:
            raise UsageError(
                f"pass {cls.name!r} has no option {unknown[0]!r}; it has: "
                + (", ".join(sorted(known)) or "none")
            )
        return cls(**options)


PASSES: Registry[type[Pass]] = Registry("pass", "onnxprune.passes")
