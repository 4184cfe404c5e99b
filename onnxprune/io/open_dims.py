"""Which sort of dimension an axis is whose size a model leaves open."""

from __future__ import annotations

import re
from collections.abc import Sequence

BATCH, SPATIAL, SEQUENCE, SOUND = "batch", "spatial", "sequence", "sound"

_BATCH_NAME = re.compile(r"batch", re.IGNORECASE)
_SHORT_BATCH_NAME = re.compile(r"^(n|b|bs)$", re.IGNORECASE)
_SOUND_NAME = re.compile(r"wav|audio|pcm|speech|sound", re.IGNORECASE)
_STATE_NAME = re.compile(r"state|hidden|cell|^[hc](n|_?\d|_in)?$", re.IGNORECASE)
_SPATIAL_NAME = re.compile(r"height|width|^(h|w|d|ih|iw)$", re.IGNORECASE)
_SEQUENCE_NAME = re.compile(r"seq|time|len|past|history|frame|token|^(t|l|s|u)$", re.IGNORECASE)


def role(dims: Sequence[int | str | None], axis: int, value: str = "") -> str:
    """Return which sort of dimension an axis of an input is: by its name, else by its place.

    The first axis counts samples, the second if it is a state of a recurrent network; of four
    axes or more, those behind the channels (wherever these are) are spatial; any other is a
    sequence. The last axis of one waveform per sample is sound.

    Args:
        dims: the input's sizes: known, named or neither.
        axis: which of them.
        value: the input's name.
    """
    name = _name(dims, axis)
    if _SEQUENCE_NAME.search(name):
        kind = SEQUENCE
    elif _SPATIAL_NAME.search(name):
        kind = SPATIAL
    elif _is_batch(dims, axis, value):
        kind = BATCH
    else:
        kind = SPATIAL if len(dims) >= 4 else SEQUENCE
    is_wave = axis == len(dims) - 1 and all(d == 1 for d in dims[1:-1])
    return SOUND if kind == SEQUENCE and is_wave and _SOUND_NAME.search(value) else kind


def _name(dims: Sequence[int | str | None], axis: int) -> str:
    name = dims[axis]
    return name if isinstance(name, str) else ""


def _is_batch(dims: Sequence[int | str | None], axis: int, value: str) -> bool:
    # ``N`` is a batch in [N, 3, H, W] and something else in [batch, N].
    for pattern in (_BATCH_NAME, _SHORT_BATCH_NAME):
        hits = [i for i in range(len(dims)) if pattern.search(_name(dims, i))]
        if hits:
            return axis in hits
    # ONNX's recurrent operators have their states as [directions, batch, features].
    is_state = len(dims) == 3 and isinstance(dims[0], int) and _STATE_NAME.search(value)
    return axis == (1 if is_state else 0)
