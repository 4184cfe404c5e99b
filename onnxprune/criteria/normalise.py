"""How the scores of tensors and groups are made comparable.

A coupled channel owns slices of many tensors: its own filter, its batch-norm scale, the input slice
of every consumer. DepGraph (Fang et al., CVPR 2023) scores such a group by the sum of the norms of
its members. Plain sums let the largest tensor decide: in a network with batch norm the scale of a
filter bank is arbitrary, and a consumer with 10x the weights would outvote the rest. So each
member's norms are first divided by their mean over the units of the group: a member says how the
units compare, in units of its own average, and its vote does not depend on its scale or size. The
weighted average of the members then has mean 1 over the units whatever the tensors were, so groups
compare too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.criteria.base import Float32, Float64, Member, Role

VOTES: Mapping[Role, float] = {"out": 1.0, "bn_scale": 1.0, "in": 4.0}
"""How much a member's relative norm counts; roles that are not named do not vote.

What a unit's removal costs is what its consumers did with it, and its own filter says little about
that. Measured on the inner channels of three CIFAR ResNets (batch norm folded, 15 to 50 % removed,
nothing repaired): equal votes beat the filter norm alone on all three, the larger vote for ``in``
beat equal votes clearly on two and made no clear difference on the third. A large bias or running
mean does not make a unit matter (a very negative bias before a ReLU marks a dead one), so those do
not vote.
"""


def as_float32(weight: npt.NDArray[Any]) -> Float32:
    """Return ``weight`` as float32: itself if it is, else a copy (fp16, bf16, fp8 upcast)."""
    return weight.astype(np.float32, copy=False)


def nan_to_inf(scores: Float32) -> Float32:
    """Return ``scores`` with NaN replaced by +inf, in place; one pass when there is none."""
    if scores.size and np.isnan(scores.min()):
        scores[np.isnan(scores)] = np.inf
    return scores


def unit_count(members: Sequence[Member]) -> int:
    """Return the number of units the members agree on.

    Raises:
        ValueError: there are no members, or they disagree.
    """
    counts = {len(member.values) for member in members}
    if len(counts) != 1:
        described = ", ".join(f"{m.name} {m.values.shape}" for m in members)
        raise ValueError(f"members must be [n_units, m] of one n_units, got: {described or 'none'}")
    return counts.pop()


def relative(scores: Float64) -> Float64 | None:
    """Divide ``scores`` by their mean over the finite ones; NaN becomes +inf.

    Returns:
        None when the finite scores are all zero (or there are none): nothing to compare.
    """
    scores = np.where(np.isnan(scores), np.inf, scores)
    finite = np.isfinite(scores)
    largest = scores[finite].max(initial=0.0)
    if largest <= 0.0:
        return None
    scaled = scores / largest  # first: the sum of huge scores could overflow
    result: Float64 = scaled / scaled[finite].mean()
    return result


def vote(members: Sequence[Member], norm: Callable[[Float64], Float64]) -> Float64:
    """Average the members' relative norms over the units.

    Args:
        members: of one group; only those that tell something vote (see ``VOTES``).
        norm: [n_units, m] float64 -> [n_units] float64, not negative.

    Returns:
        float64 [n_units] of mean 1; all ones when no member has a say.

    Raises:
        ValueError: see :func:`unit_count`.
    """
    total = np.zeros(unit_count(members))
    votes = 0.0
    for member in members:
        weight = VOTES.get(member.role, 0.0)
        if not weight:
            continue
        share = relative(norm(member.values.astype(np.float64)))
        if share is not None:
            total += weight * share
            votes += weight
    return total / votes if votes else np.ones_like(total)
