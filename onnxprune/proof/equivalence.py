"""The proof: two models, the same inputs, the same outputs.

A structured prune is proved against the dense model in which the removed units count for nothing:
both must give the same outputs in onnxruntime. Outputs behind a softmax or a sigmoid can saturate
and then prove little, so a few values inside the network are compared too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from onnxprune.errors import ProofError

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]
LIMIT = 1e-3


@dataclass(frozen=True)
class Proof:
    """What the proof found.

    Attributes:
        passed: every error is within ``limit``.
        max_rel_error: the largest error of any compared value; see :func:`relative_error`.
        limit: the bound.
        kind: what was compared with what.
        values: error by value name.
        samples: how many feeds were run.
        noisy: values off by more than the limit, but by no more than the dense model differs from
            itself when onnxruntime optimises it differently: name -> (error, that difference).
            A nearly saturated sigmoid does this. They do not count.
    """

    passed: bool
    max_rel_error: float
    limit: float
    kind: str
    values: dict[str, float] = field(default_factory=dict)
    samples: int = 0
    noisy: dict[str, tuple[float, float]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for reports."""
        return {
            "passed": self.passed,
            "max_rel_error": self.max_rel_error,
            "limit": self.limit,
            "kind": self.kind,
            "values": self.values,
            "samples": self.samples,
            "noisy": {name: list(pair) for name, pair in self.noisy.items()},
        }


def relative_error(reference: Array, other: Array) -> float:
    """Return the largest deviation in units of the reference's spread.

    The unit is the standard deviation of the reference, but at least a hundredth of its largest
    magnitude: behind a saturated sigmoid the spread is rounding noise, and the values watched
    inside the network do the proving. For integers, strings and booleans it is the fraction of
    elements that differ. Shapes that differ, NaN and infinity in other places, and a reference
    without a single finite number give infinity.
    """
    if reference.shape != other.shape:
        return float("inf")
    if reference.size == 0:
        return 0.0
    if reference.dtype.kind not in "fV" and str(reference.dtype) != "bfloat16":
        return float(np.mean(reference != other))
    a, b = reference.astype(np.float64), other.astype(np.float64)
    finite = np.isfinite(a)
    if not np.array_equal(finite, np.isfinite(b)) or not np.array_equal(
        a[~finite], b[~finite], equal_nan=True
    ):
        return float("inf")
    a, b = a[finite], b[finite]
    if not a.size:
        return float("inf")
    unit = max(float(a.std()), 1e-2 * float(np.abs(a).max()), 1e-30)
    return float(np.abs(a - b).max()) / unit


def forgive_noise(proof: Proof, noise: Mapping[str, float], times: float = 4.0) -> Proof:
    """Set aside values whose error is explained by the rounding noise of the reference itself.

    Args:
        proof: the comparison as it came out.
        noise: by value name, the :func:`relative_error` between two runs of the reference model
            that differ only in the order of floating-point operations.
        times: how many times the noise an error may be.
    """
    noisy = {
        name: (error, noise[name])
        for name, error in proof.values.items()
        if error > proof.limit and error <= times * noise.get(name, 0.0)
    }
    worst = max((e for name, e in proof.values.items() if name not in noisy), default=0.0)
    return replace(proof, passed=worst <= proof.limit, max_rel_error=worst, noisy=noisy)


# How onnxruntime says that it lacks an operator, known domain or not.
_UNKNOWN_OPERATOR = (
    "is not a registered function/op",
    "No opset import for domain",
    "No Op regist",
)


def open_session(
    model: bytes | str, threads: int = 0, *, optimize: bool = True, lean: bool = False
) -> ort.InferenceSession:
    """Open a session on the CPU provider, quietly.

    Args:
        model: bytes or path.
        threads: to run on, 0 for onnxruntime's choice.
        optimize: whether to let onnxruntime rewrite the graph.
        lean: spend as little memory as possible; weights beside the model stay mapped.

    Raises:
        ProofError: onnxruntime does not take the model.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = threads
    # On processors without VNNI onnxruntime adds products of uint8 and int8 in 16 bits, which
    # saturate depending on which channels are neighbours. This makes it compute them exactly.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if lean:
        options.enable_mem_pattern = False  # a plan for all activations at once, beside the arena
        options.add_session_config_entry("session.disable_prepacking", "1")
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime raises its own types, one per status code
        told = _short(error)
        if any(sign in str(error) for sign in _UNKNOWN_OPERATOR):
            told += " (an operator of another library: --no-proof prunes without running the model)"
        raise ProofError(f"onnxruntime cannot load the model: {told}") from error


def compare(
    reference: Sequence[Sequence[Array]],
    other: Sequence[Sequence[Array]],
    names: Sequence[str],
    kind: str,
    crop: Callable[[str, Array], Array] = lambda name, array: array,
    limit: float = LIMIT,
) -> Proof:
    """Compare outputs feed by feed; ``crop`` takes the kept coordinates of a reference value."""
    errors = dict.fromkeys(names, 0.0)
    for want, have in zip(reference, other, strict=True):
        for name, a, b in zip(names, want, have, strict=True):
            error = relative_error(crop(name, np.asarray(a)), np.asarray(b))
            errors[name] = max(errors[name], error)
    worst = max(errors.values(), default=0.0)
    return Proof(worst <= limit, worst, limit, kind, errors, len(reference))


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
