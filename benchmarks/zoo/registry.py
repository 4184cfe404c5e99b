"""What a zoo entry is, and the list of all of them.

A *case* is one network definition plus the way it is exported. One definition may be exported in
several ways (`variants`): another exporter, another opset, batch norms left unfolded, optimized by
onnxruntime. A variant is a case of its own, named `<name>.<variant>`, with the same `arch`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

#: How a feed for an input is drawn: "normal", "uniform", "ones", or an int n: integers in [0, n).
Fill = str | int

#: A builder returns the module and the example arguments it is traced with.
Builder = Callable[[], tuple[Any, tuple[Any, ...]]]

KINDS = (
    "cnn",
    "segmentation",
    "detector",
    "superres",
    "generative",
    "audio",
    "video",
    "transformer",
    "mixer",
    "rnn",
)


@dataclasses.dataclass(frozen=True)
class Case:
    """One ONNX file of the zoo: a network definition and how it is exported.

    name: file stem.
    arch: name of the network, shared by its variants.
    family: e.g. "resnet"; kind: one of KINDS.
    build: makes the module and its example arguments.
    inputs, outputs: ONNX names, in order.
    dynamic: per input name, axis -> symbolic name.
    exporter: "script" (torch.onnx.export, dynamo=False) or "dynamo" (dynamo=True).
    opset: ai.onnx opset asked for.
    unfolded: keep BatchNormalization and constants as written (no folding by the exporter).
    post: rewrites applied afterwards, in order; see post.py.
    fill: per input name how a feed is drawn.
    other: per symbolic name another size the exported file must run with.
    norm: "calibrate" randomises norms and weights (randomize.py); "keep" leaves them as built.
    """

    name: str
    arch: str
    family: str
    kind: str
    build: Builder
    inputs: tuple[str, ...] = ("input",)
    outputs: tuple[str, ...] = ("output",)
    dynamic: Mapping[str, Mapping[int, str]] = dataclasses.field(default_factory=dict)
    exporter: str = "script"
    opset: int = 17
    unfolded: bool = False
    post: tuple[str, ...] = ()
    fill: Mapping[str, Fill] = dataclasses.field(default_factory=dict)
    other: Mapping[str, int] = dataclasses.field(default_factory=dict)
    norm: str = "calibrate"


CASES: dict[str, Case] = {}

#: Dynamic-axis shorthands.
BATCH: Mapping[str, Mapping[int, str]] = {"input": {0: "batch"}}
BHW: Mapping[str, Mapping[int, str]] = {"input": {0: "batch", 2: "height", 3: "width"}}
HW: Mapping[str, Mapping[int, str]] = {"input": {2: "height", 3: "width"}}


def _add(case: Case) -> None:
    if case.name in CASES:
        raise ValueError(f"two zoo cases are named {case.name!r}; names must be unique")
    if case.kind not in KINDS:
        raise ValueError(f"zoo case {case.name!r}: kind {case.kind!r} is not one of {KINDS}")
    CASES[case.name] = case


def case(
    name: str,
    *,
    family: str,
    kind: str = "cnn",
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    **fields: Any,
) -> Callable[[Builder], Builder]:
    """Register a builder as the case `name`, and as `name.<variant>` with changed fields.

    `fields` are fields of `Case`; `variants` maps a suffix to the fields that differ. Raises
    ValueError when a name is taken or a kind is unknown, TypeError for an unknown field.
    """

    def register(build: Builder) -> Builder:
        base = Case(name=name, arch=name, family=family, kind=kind, build=build, **fields)
        _add(base)
        for suffix, changed in (variants or {}).items():
            _add(dataclasses.replace(base, name=f"{name}.{suffix}", **changed))
        return build

    return register
