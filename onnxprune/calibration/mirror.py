"""Mirrored pictures as further samples, where the network itself says that they are such.

A few hundred pictures hold fewer directions than wide layers have inputs, and what is solved on
them fits them alone; pictures turned left to right are as many again. Whether they are in the
domain of a network needs no labels: one that tells classes apart and gives mirrored pictures the
same classes was trained on things that have no left and right. One that reads digits or
spectrograms does not, and gets none.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.agreement import Judge

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
#: Divergence of the classes of mirrored pictures from those of the pictures, as a share of what
#: the network tells apart, up to which they count as samples.
SAME = 0.15


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


def same_classes(judge: Judge, turned: Sequence[Sequence[Array]]) -> bool:
    """Whether a network gives mirrored pictures the classes of the pictures.

    Args:
        judge: of the network's outputs for pictures.
        turned: its outputs for the same pictures mirrored, a list a feed.
    """
    if any(kind != "classes" for kind in judge.kinds):
        return False
    return judge.judge(turned).loss <= SAME * judge.information
