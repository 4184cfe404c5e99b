"""Bias correction by centring: least squares with an intercept, without an extra input.

Solving on ``Hc = H - N mu mu^T`` and ``Gc = G - N mean(T) mu^T`` and then moving the bias by
``mean(T) - B mu`` is identical to solving with a free bias (methods.md 1.0).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from onnxprune.recovery.problem import F64


def centre(
    gram: F64,
    samples: float,
    mean_input: F64,
    cross: F64 | None = None,
    mean_target: F64 | None = None,
) -> tuple[F64, F64 | None]:
    """Remove the means from raw second moments.

    Args:
        gram: H = X X^T [d, d], a sum over ``samples`` columns.
        samples: N, the number of columns (positions, tokens) summed.
        mean_input: mu = mean of X [d].
        cross: G = T X^T [R, d], or None in the symmetric mode.
        mean_target: mean of T [R]; needed with ``cross``.

    Returns:
        (Hc, Gc or None).

    Raises:
        ValueError: ``cross`` without ``mean_target``.
    """
    centred = gram - samples * np.outer(mean_input, mean_input)
    if cross is None:
        return centred, None
    if mean_target is None:
        raise ValueError("a cross Gram cannot be centred without the mean of its target")
    return centred, cross - samples * np.outer(mean_target, mean_input)


def corrected_bias(
    bias: npt.ArrayLike | None,
    dense: F64,
    pruned: F64,
    mean_input: F64,
    mean_target: F64 | None = None,
) -> F64:
    """Bias [R] that gives the pruned layer the target's mean.

    Args:
        bias: the dense layer's bias [R]; None for zero.
        dense: W [R, d].
        pruned: B [R, d].
        mean_input: mean of the inputs the *pruned* layer sees [d].
        mean_target: mean of T without bias [R]; None in the symmetric mode, ``T = W X``.
    """
    start = np.zeros(dense.shape[0]) if bias is None else np.asarray(bias, dtype=np.float64)
    goal = dense @ mean_input if mean_target is None else mean_target
    moved: F64 = start + goal - pruned @ mean_input
    return moved
