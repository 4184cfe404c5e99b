"""One layer of a graph: its groups' matrices and statistics to masks, weights and a bias shift."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.grams import Statistics
from onnxprune.calibration.operands import Operand
from onnxprune.errors import DataError
from onnxprune.patterns import Pattern
from onnxprune.recovery.auto import SearchInfo, SearchResult, search_mask
from onnxprune.recovery.damping import HeldOut
from onnxprune.recovery.effort import Effort
from onnxprune.recovery.problem import F64, Mask
from onnxprune.recovery.quick import quick_search

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
        method: ``given`` to keep the mask, ``auto`` or a mask search to look for a better one.
        even: samples are few: see :class:`~onnxprune.recovery.damping.HeldOut`.
        effort: what may be spent on the layer.
    """
    dense, train, other = _moments(operand, weight, train, other, even)
    asked = _Asked.of(operand, dense, train, pattern, mask, search=method != "given")
    groups = len(dense)
    if groups > MANY_GROUPS and asked.mask.all():
        return _settled(operand, dense, train, asked.mask)
    results = [
        _search(
            dense[g],
            train.gram[g],
            None if train.cross is None else train.cross[g],
            asked.mask[g],
            _held(other, g, groups, even),
            pattern=pattern,
            shape=operand.layer.view_shape[1:],
            keep=asked.keep[g],
            damping=None if groups <= MANY_GROUPS else GROUPED_DAMPING,
            method="auto" if method == "given" else method,
            mask=None if asked.search else asked.mask[g],
            effort=None if effort is None else effort.of_each(groups),
        )
        for g in range(groups)
    ]
    masks = np.stack([result.mask for result in results])
    weights = np.stack([result.weights for result in results])
    account = {
        "method": "+".join(sorted({result.info.method for result in results})),
        "damping": max(result.info.damping for result in results),
        "error": float(np.mean([result.info.error for result in results])),
        "kept": int(np.count_nonzero(masks)),
        "weights": int(masks.size),
    }
    return Solved(masks, weights, _shift(operand, dense, weights, train), account)


def solve_levels(
    operand: Operand,
    weight: Array,
    train: Statistics,
    other: Statistics | None,
    pattern: Pattern,
    masks: Sequence[Mask],
    *,
    even: bool = False,
) -> list[Solved]:
    """Find masks and weights of one layer at several levels, good enough to tell these apart.

    Args:
        operand: the layer.
        weight: dense weights in the layout of the tensor.
        train: moments of its columns, with its own outputs as targets.
        other: moments of held-out columns.
        pattern: the masks' pattern.
        masks: how much is kept at each level, in the layout of the tensor.
        even: samples are few: see :class:`~onnxprune.recovery.damping.HeldOut`.
    """
    dense, train, other = _moments(operand, weight, train, other, even)
    shape = operand.layer.view_shape
    asked = [_Asked.of(operand, dense, train, pattern, mask, search=True) for mask in masks]
    kept = [np.empty(dense.shape, np.bool_) for _ in masks]
    weights = [np.empty(dense.shape) for _ in masks]
    searched = [at for at, level in enumerate(asked) if level.search]
    for g, matrix in enumerate(dense):
        gram, held = train.gram[g], _held(other, g, len(dense), even)
        for at in set(range(len(asked))) - set(searched):
            kept[at][g] = mask = asked[at].mask[g]
            how = {"pattern": pattern, "shape": shape[1:], "mask": mask, "damping": GROUPED_DAMPING}
            weights[at][g] = _search(matrix, gram, None, mask, held, **how).weights
        levels = [asked[at] for at in searched]
        found = _quick(matrix, gram, levels, g, held, pattern, shape[1:]) if levels else []
        for at, (mask, values) in zip(searched, found, strict=True):
            kept[at][g], weights[at][g] = mask, values
    return [
        Solved(mask, values, _shift(operand, dense, values, train), {})
        for mask, values in zip(kept, weights, strict=True)
    ]


def _moments(
    operand: Operand, weight: Array, train: Statistics, other: Statistics | None, even: bool
) -> tuple[F64, Statistics, Statistics | None]:
    """The dense matrices [G, R, d], and moments as the layer's bias can make up for means."""
    dense = operand.matrix(weight).astype(np.float64)
    if operand.bias is None:
        return dense, train.raw(), None if other is None else other.raw()
    return dense, train, other.around(train) if even and other is not None else other


@dataclass(frozen=True)
class _Asked:
    """What a layer's groups keep.

    Attributes:
        mask: a mask [G, R, d] of as many weights.
        search: whether a better mask is looked for.
        keep: then, units of the pattern a group; None where it fixes its density.
    """

    mask: Mask
    search: bool
    keep: Sequence[int | None]

    @staticmethod
    def of(
        operand: Operand,
        dense: F64,
        train: Statistics,
        pattern: Pattern,
        mask: Mask,
        *,
        search: bool,
    ) -> _Asked:
        shape = operand.layer.view_shape
        given = operand.matrix(mask)
        nothing: list[int | None] = [None] * len(dense)
        if not search or given.all():  # a layer that stays dense has nothing to look for
            return _Asked(given, False, nothing)
        if len(dense) > 1:
            counts = _per_group(dense, train, pattern, shape, given)
            if isinstance(counts, np.ndarray):
                return _Asked(operand_mask(counts), False, nothing)
            return _Asked(given, True, counts)
        fixed = pattern.fixed_density is not None
        return _Asked(given, True, nothing if fixed else [_units(pattern, given, shape)])


def _held(other: Statistics | None, group: int, groups: int, even: bool) -> HeldOut | None:
    """Held-out moments of a group, where groups are few enough to be judged one by one."""
    if other is None or groups > MANY_GROUPS:
        return None
    return HeldOut(other.gram[group], None if other.cross is None else other.cross[group], even)


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


def _quick(
    dense: F64,
    gram: F64,
    levels: Sequence[_Asked],
    group: int,
    held: HeldOut | None,
    pattern: Pattern,
    shape: Sequence[int],
) -> list[tuple[Mask, F64]]:
    """As SparseGPT leaves it; the dense weights on the masks given where that is not possible."""
    keeps = [level.keep[group] for level in levels]
    try:
        found = quick_search(dense, gram, held, pattern, shape, keeps)
    except DataError:
        unsolved = [_unsolved(dense, level.mask[group]) for level in levels]
        return [(one.mask, one.weights) for one in unsolved]
    return [(one.mask, one.weights) for one in found]


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
