"""Which sort of dimension an axis is whose size a model leaves open."""

from __future__ import annotations

import re
from collections.abc import Sequence

BATCH, SPATIAL, SEQUENCE = "batch", "spatial", "sequence"

_BATCH_NAME = re.compile(r"batch|^(n|b|bs)$", re.IGNORECASE)
_SPATIAL_NAME = re.compile(r"height|width|^(h|w|d|ih|iw)$", re.IGNORECASE)
_SEQUENCE_NAME = re.compile(r"seq|time|len|past|history|frame|token|^(t|l|s|u)$", re.IGNORECASE)


def role(dims: Sequence[int | str | None], axis: int) -> str:
    """Return which sort of dimension an axis of an input is: by its name, else by its place.

    The first axis counts samples; of four axes or more, those behind the channels (wherever these
    are) are spatial; any other is a sequence.
    """
    name = dims[axis]
    if isinstance(name, str):
        for pattern, kind in (
            (_SEQUENCE_NAME, SEQUENCE),
            (_BATCH_NAME, BATCH),
            (_SPATIAL_NAME, SPATIAL),
        ):
            if pattern.search(name):
                return kind
    if axis == 0:
        return BATCH
    return SPATIAL if len(dims) >= 4 else SEQUENCE
