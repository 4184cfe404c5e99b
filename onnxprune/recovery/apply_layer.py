"""One layer of a graph: its groups' matrices and statistics to masks, weights and a bias shift."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.grams import Statistics
from onnxprune.calibration.operands import Operand
from onnxprune.errors import DataError
from onnxprune.patterns import Pattern
from onnxprune.recovery.auto import SearchInfo, SearchResult, quick_search, search_mask
from onnxprune.recovery.damping import HeldOut
from onnxprune.recovery.effort import Effort
from onnxprune.recovery.problem import F64, Mask

Array = npt.NDArray[Any]
#: Layers of more groups than this choose no damping of their own a group.
MANY_GROUPS = 16
GROUPED_DAMPING = 1e-3
#: Tried in turn where a Gram matrix is not positive definite.
STRONG_DAMPING = (1e-2, 1.0)


@dataclass(frozen=True)
class Solved:
    """A layer's mask and weights [G, R, d], and by how much its output mean has to move [G, R]."""

    mask: Mask
    weights: F64
    shift: F64 | None
    account: dict[str, Any]

    def as_arrays(self) -> dict[str, Array]:
        """Return all of it as plain arrays."""
        told = {
            "mask": self.mask,
            "weights": self.weights,
            "account": np.array(json.dumps(self.account)),
        }
        return told if self.shift is None else {**told, "shift": self.shift}

    @staticmethod
    def of_arrays(held: Mapping[str, Array]) -> Solved:
        """Inverse of :meth:`as_arrays`."""
        account = json.loads(str(held["account"]))
        return Solved(held["mask"], held["weights"], held.get("shift"), account)


def solve_layer(
    operand: Operand,
    weight: Array,
    train: Statistics,
    other: Statistics | None,
    pattern: Pattern,
    mask: Mask,
    *,
    method: str = "auto",
    even: bool = False,
    effort: Effort | None = None,
) -> Solved:
    """Find a layer's mask and weights.

    Args:
        operand: the layer.
        weight: dense weights in the layout of the tensor.
        train: moments of its columns.
        other: moments of held-out columns.
        pattern: the mask's pattern.
        mask: what is kept, in the layout of the tensor; where masks are searched only how much.
        method: ``given`` to keep the mask, ``auto`` or a mask search to look for a better one, or
            ``quick`` for SparseGPT at a fixed damping, which tells levels apart at a fraction of
            the cost.
        even: samples are few: see :class:`~onnxprune.recovery.damping.HeldOut`.
        effort: what may be spent on the layer.
    """
    quick = method == "quick"
    shape = operand.layer.view_shape
    dense = operand.matrix(weight).astype(np.float64)
    given = operand.matrix(mask)
    if operand.bias is None:
        train, other = train.raw(), None if other is None else other.raw()
    elif even and other is not None:
        other = other.around(train)
    groups = shape[0]
    keep: list[int | None] = [None] * groups
    search = (
        method != "given" and not given.all()
    )  # a layer that stays dense has nothing to look for
    if search and groups > 1:
        counts = _per_group(dense, train, pattern, shape, given)
        if isinstance(counts, np.ndarray):
            given, search = operand_mask(counts), False
        else:
            keep = counts
    elif search and pattern.fixed_density is None:
        keep = [_units(pattern, given, shape)]
    if groups > MANY_GROUPS and given.all():
        return _settled(operand, dense, train, given)
    masks, weights = np.empty_like(given), np.empty_like(dense)
    errors, dampings, methods = [], set(), set()
    for g in range(groups):
        held = None
        if other is not None and groups <= MANY_GROUPS:
            held = HeldOut(other.gram[g], None if other.cross is None else other.cross[g], even)
        if quick and search:
            result = _quick(dense[g], train.gram[g], given[g], held, pattern, shape[1:], keep[g])
        else:
            result = _search(
                dense[g],
                train.gram[g],
                None if train.cross is None else train.cross[g],
                given[g],
                held,
                pattern=pattern,
                shape=shape[1:],
                keep=keep[g],
                damping=None if groups <= MANY_GROUPS and not quick else GROUPED_DAMPING,
                method="auto" if method in ("quick", "given") else method,
                mask=None if search else given[g],
                effort=None if effort is None else effort.of_each(groups),
            )
        masks[g], weights[g] = result.mask, result.weights
        errors.append(result.info.error)
        dampings.add(result.info.damping)
        methods.add(result.info.method)
    account = {
        "method": "+".join(sorted(methods)),
        "damping": sorted(dampings)[-1],
        "error": float(np.mean(errors)),
        "kept": int(np.count_nonzero(masks)),
        "weights": int(masks.size),
    }
    return Solved(masks, weights, _shift(operand, dense, weights, train), account)


def _shift(operand: Operand, dense: F64, weights: F64, train: Statistics) -> F64 | None:
    """By how much the mean of the outputs has to move [G, R]; None where it cannot."""
    shift = None
    if operand.bias is not None:
        aim = np.einsum("grd,gd->gr", dense, train.mean) if train.target is None else train.target
        shift = aim - np.einsum("grd,gd->gr", weights, train.mean)
    return shift


def _settled(operand: Operand, dense: F64, train: Statistics, mask: Mask) -> Solved:
    """Solve many small groups that keep every weight, all at once."""
    weights = dense
    if train.cross is not None:
        diagonal = np.einsum("gdd->gd", train.gram)
        usual = np.maximum(diagonal.mean(axis=1, keepdims=True), 1e-30)
        ridge = GROUPED_DAMPING * np.maximum(diagonal, 1e-3 * usual)
        gram = train.gram + ridge[:, :, None] * np.eye(ridge.shape[1])
        # From the dense weights on, so that the ridge pulls towards them.
        rest = train.cross - np.matmul(dense, train.gram)
        weights = dense + np.linalg.solve(gram, rest.transpose(0, 2, 1)).transpose(0, 2, 1)
    account = {"method": "given", "damping": GROUPED_DAMPING, "error": 0.0,
               "kept": int(mask.size), "weights": int(mask.size)}  # fmt: skip
    return Solved(mask, weights, _shift(operand, dense, weights, train), account)


def _search(
    dense: F64, gram: F64, cross: F64 | None, given: Mask, held: HeldOut | None, **how: Any
) -> SearchResult:
    """Search with as little damping as the statistics allow.

    Few or constant samples leave the Gram matrix singular however it is rounded; then the damping
    rises, and where nothing helps the dense weights stay on the mask.
    """
    try:
        return search_mask(dense, gram, cross, held_out=held, **how)
    except DataError:
        for damping in STRONG_DAMPING:
            try:
                return search_mask(dense, gram, cross, **(how | {"damping": damping}))
            except DataError:
                continue
    return _unsolved(dense, given)


def _quick(dense: F64, gram: F64, given: Mask, held: HeldOut | None, *how: Any) -> SearchResult:
    """As SparseGPT leaves it; the dense weights on the mask given where that is not possible."""
    try:
        return quick_search(dense, gram, held, *how)
    except DataError:
        return _unsolved(dense, given)


def _unsolved(dense: F64, given: Mask) -> SearchResult:
    info = SearchInfo("none", 0.0, 0.0, None, ())
    return SearchResult(given, np.where(given, dense, 0.0), info)


def operand_mask(mask: Array) -> Mask:
    """The mask [G, R, d] of one in the canonical view."""
    return mask.reshape(mask.shape[0], mask.shape[1], -1).astype(np.bool_)


def _units(pattern: Pattern, mask: Array, shape: tuple[int, ...]) -> int:
    found = pattern.unit_scores(np.asarray(mask).reshape(shape).astype(np.float32))
    return int(np.count_nonzero(found))


def _per_group(
    dense: F64, train: Statistics, pattern: Pattern, shape: tuple[int, ...], given: Array
) -> list[int | None] | Mask:
    """Divide a grouped layer's units over its groups by ``w^2 diag(H)`` (OBD).

    Returns:
        Units a group, or a whole mask where a pattern's units do not lie within groups.
    """
    if pattern.fixed_density is not None:
        return [None] * shape[0]
    saliency = dense**2 * np.einsum("gdd->gd", train.gram)[:, None, :]
    mask = pattern.mask(saliency.reshape(shape), _units(pattern, given, shape))
    if pattern.grid(shape)[0] != shape[0]:
        return mask
    kept = pattern.unit_scores(mask.astype(np.float32)) > 0
    counts = kept.reshape(shape[0], -1).sum(axis=1)
    return [int(n) for n in counts]
