"""What the provider decided about each node of a session, and how long each step took."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any

from onnxprune.errors import UsageError
from onnxprune.runtime import library


@dataclass(frozen=True)
class Decision:
    """One node of the model as the provider saw it, after onnxruntime's first optimisations.

    Attributes:
        node: its name, or its output's where it has none.
        op: operator type.
        claimed: the sparse provider runs it; otherwise the CPU provider does.
        kernel: what computes it; empty when not claimed.
        reason: one sentence.
        group: nodes of one fused group share a number; None when not claimed.
        sparsity: fraction of zeros of its constant weight; None where it has none.
        predicted_us: predicted time of this node on the sparse provider, microseconds.
        cpu_us: the same on the CPU provider.
        kernel_bytes: memory its kernel holds, weights and generated code; None until input sizes
            are known, and for nodes without a weight.
        code_bytes: how much of it is generated code.
        build_us: time that making the kernel took, microseconds.
    """

    node: str
    op: str
    claimed: bool
    kernel: str
    reason: str
    group: int | None
    sparsity: float | None
    predicted_us: float | None
    cpu_us: float | None
    kernel_bytes: int | None
    code_bytes: int | None
    build_us: float | None


@dataclass(frozen=True)
class StepTime:
    """Measured time of one step of a claimed group (session option ``profile``).

    Attributes:
        step: the nodes it computes, or "layout of ..." for moving their output between layouts.
        kernel: what ran.
        group: the fused group it belongs to.
        calls: how often it ran.
        total_us: microseconds of all calls together.
        best_us: microseconds of the fastest call.
    """

    step: str
    kernel: str
    group: int
    calls: int
    total_us: float
    best_us: float


_keys: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def remember(session: Any, key: str) -> None:
    """Tie a session to its log, which is dropped together with it."""
    _keys[session] = key
    weakref.finalize(session, library.forget_session, key)


def explain(session: Any) -> list[Decision]:
    """Return the provider's decision on every node, in the order it met them.

    A session that was made without the provider (``fallback=True`` on a machine that lacks it) has
    no decisions.

    Raises:
        UsageError: the session was not made by :func:`onnxprune.runtime.session`.
    """
    return [Decision(**entry) for entry in _log(session).get("decisions", [])]


def profile(session: Any) -> list[StepTime]:
    """Return times per step, if the session was made with ``profile=True``; else an empty list.

    Raises:
        UsageError: the session was not made by :func:`onnxprune.runtime.session`.
    """
    return [StepTime(**entry) for entry in _log(session).get("profile", [])]


def _log(session: Any) -> dict[str, Any]:
    key = _keys.get(session)
    if key is None:
        raise UsageError(
            "this session was not made by onnxprune.runtime.session; only those keep a log"
        )
    return (library.session_log(key) if key else None) or {}
