"""The register of the graphs in this folder and what pruning must do with each."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import onnx

from .net import Net


@dataclasses.dataclass(frozen=True)
class Spec:
    """One graph and what structured channel pruning at one half must do with it.

    build: makes the model. shrinks: initializers that must lose coordinates (or be folded away
    into one that did). keeps: initializers
    whose shape must not change. mixing: exact only up to re-expressed statistics, so a proof may
    say so. runs: onnxruntime can load it. strict: passes the checker
    with full_check. finite: its outputs are finite. other: another size for
    each symbolic dim. note: which pitfall it is.
    """

    build: Callable[[], onnx.ModelProto]
    shrinks: tuple[str, ...] = ()
    keeps: tuple[str, ...] = ()
    mixing: bool = False
    runs: bool = True
    strict: bool = True
    finite: bool = True
    other: dict[str, int] = dataclasses.field(default_factory=dict)
    note: str = ""


SPECS: dict[str, Spec] = {}


def graph(
    *,
    shrinks: str = "",
    keeps: str = "",
    mixing: bool = False,
    runs: bool = True,
    strict: bool = True,
    finite: bool = True,
    other: dict[str, int] | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> Callable[[Callable[[Net], Any]], Callable[[Net], Any]]:
    """Register a function that fills a Net as the graph of the function's name.

    shrinks, keeps: space-separated initializer names; the other fields are those of Spec.
    """

    def register(fill: Callable[[Net], Any]) -> Callable[[Net], Any]:
        name = fill.__name__

        def build() -> onnx.ModelProto:
            net = Net(name, opset, ir_version)
            changed = fill(net)
            return changed if isinstance(changed, onnx.ModelProto) else net.model()

        if name in SPECS:
            raise ValueError(f"two test graphs are called {name}")
        note = (fill.__doc__ or "").strip()
        SPECS[name] = Spec(
            build,
            tuple(shrinks.split()),
            tuple(keeps.split()),
            mixing,
            runs,
            strict,
            finite,
            other or {},
            note,
        )
        return fill

    return register
