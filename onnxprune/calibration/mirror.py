"""Mirrored pictures as further samples, where the network itself says that they are such.

A few hundred pictures hold fewer directions than wide layers have inputs, and what is solved on
them fits them alone; pictures turned left to right are as many again. Whether they are in the
domain of a network needs no labels: one that says the same of mirrored pictures was trained on
things that have no left and right. One that reads digits or spectrograms does not, and gets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.agreement import Judge

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
#: Distance between what a network says of mirrored pictures and of the pictures, as a share of what
#: it tells apart, up to which they count as samples.
SAME = 0.15
#: Quantiles over places that stand for a map of values, and places that they are taken over.
QUANTILES = np.linspace(0, 1, 33)
PLACES = 16384


def mirrored(feed: Feed) -> dict[str, Array] | None:
    """Return a feed of pictures turned left to right; None where its input is no picture.

    A picture is a float input of four axes with one or three channels, before or behind rows and
    columns [N, C, H, W] or [N, H, W, C].
    """
    if len(feed) != 1:
        return None
    ((name, array),) = feed.items()
    axis = columns_of(array)
    return {name: np.ascontiguousarray(np.flip(array, axis))} if axis else None


def columns_of(array: Array) -> int:
    """The axis of a picture's columns, see :func:`mirrored`; 0 where it is no picture."""
    if array.ndim != 4 or array.dtype.kind != "f":
        return 0
    axis = 3 if array.shape[1] in (1, 3) else 2 if array.shape[3] in (1, 3) else 0
    return axis if axis and array.shape[axis] > 1 else 0


def same_answers(judge: Judge, turned: Sequence[Sequence[Array]]) -> bool:
    """Whether a network says the same of pictures that were turned or moved as of the pictures.

    Classes are to be the same. Of values that lie in places (the classes of pixels, boxes) the
    places change with the picture: only how their values are spread is to be the same.

    Args:
        judge: of the network's outputs for pictures.
        turned: its outputs for the same pictures turned or moved, a list a feed.
    """
    if "classes" in judge.kinds and judge.judge(turned).loss > SAME * judge.information:
        return False
    values = [index for index, kind in enumerate(judge.kinds) if kind == "value"]
    return all(_same_values([f[i] for f in judge.dense], [f[i] for f in turned]) for i in values)


def _same_values(dense: Sequence[Array], turned: Sequence[Array]) -> bool:
    """Whether values are spread alike, measured by how samples differ in that."""
    if any(
        a.shape != b.shape or not (a.ndim and a.size) for a, b in zip(dense, turned, strict=True)
    ):
        return False
    ours, theirs = ([_profile(a) for a in arrays] for arrays in (dense, turned))
    if len({p.shape[1:] for p in ours}) != 1:
        return False
    old, new = np.concatenate(ours), np.concatenate(theirs)
    if len(old) < 2:
        return False
    apart = old.var(axis=0, ddof=1).sum()
    return bool(((new - old) ** 2).mean(axis=0).sum() <= SAME * apart)


def _profile(array: Array) -> Array:
    """Quantiles over places of every feature of every sample [N, features, quantiles].

    Features lie along the shortest axis but the first; values of two axes have no places.
    """
    if array.ndim < 3:
        return array.astype(np.float64).reshape(len(array), -1, 1)
    axis = 1 + int(np.argmin(array.shape[1:]))
    rows = np.moveaxis(array, axis, 1).reshape(len(array), array.shape[axis], -1)
    some = rows[..., :: -(-rows.shape[2] // PLACES)].astype(np.float64)
    found: Array = np.moveaxis(np.quantile(some, QUANTILES, axis=2), 0, 2)
    return found
