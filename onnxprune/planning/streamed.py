"""Masks of large weights, a slab at a time: nobody holds the scores of a whole layer.

N:M is chosen inside a slab. For single weights the threshold is one number for the layer: it is
bracketed from a sample, every slab is compared with the upper end of the bracket while what lies
inside is put aside, and the exact threshold is found among that. One reading of the weights; the
masks are those that :meth:`.patterns.base.Pattern.mask` lays.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.criteria import Criterion
from onnxprune.patterns import Pattern
from onnxprune.patterns.element import Element
from onnxprune.patterns.nm import NM
from onnxprune.patterns.select import keep_largest
from onnxprune.planning.bits import Bits
from onnxprune.planning.layers import Layer

Array = npt.NDArray[Any]
LARGE = 1 << 22
"""Weights from which a layer is handled in slabs."""
_SLAB = 1 << 20
_SAMPLE = 1 << 16
_MARGIN = 0.01  # of the layer, on both sides of where the sample has the threshold


def streams(layer: Layer, pattern: Pattern, criterion: Criterion) -> bool:
    """Return whether a layer's mask can be laid in slabs, and is large enough for that to help."""
    alone = isinstance(pattern, (Element, NM)) and criterion.local
    return alone and layer.size >= LARGE and not layer.stored.quantised


def stream_mask(
    layer: Layer, pattern: Pattern, criterion: Criterion, keep: int | None
) -> tuple[Bits, int]:
    """Lay the mask of a layer.

    Returns:
        Bits over its flattened weight, and how many of the weights that stay are zero.
    """
    if isinstance(pattern, Element) and keep is not None:
        found = _elements(layer, criterion, keep)
        if found is not None:
            return found
    elif isinstance(pattern, NM):
        step = _rows(layer, pattern.m)
        if step is not None:
            return _groups(layer, pattern, criterion, step)
    array = layer.numbers()
    mask = layer.unview(pattern.mask(criterion.elementwise(layer.view(array)), keep))
    return np.packbits(mask.reshape(-1)), int(np.count_nonzero((array == 0) & mask))


def _rows(layer: Layer, m: int) -> int | None:
    """Return how many rows of the stored weight make a slab of whole groups and whole bytes."""
    atoms = layer.atoms[0]
    if len(atoms) != 1:
        return None
    role = atoms[0][0]
    if any(r == role for axis in layer.atoms[1:] for r, n in axis if n > 1):
        return None
    least = math.lcm(8, m) if role == "i" else 8
    width = layer.size // layer.shape[0]
    return least * max(1, _SLAB // (least * width))


def _groups(layer: Layer, pattern: NM, criterion: Criterion, step: int) -> tuple[Bits, int]:
    """Choose in every group of M."""
    array = layer.numbers()
    role = layer.atoms[0][0][0]
    bits = np.empty(-(-layer.size // 8), np.uint8)
    done = hollow = 0
    for start in range(0, layer.shape[0], step):
        slab = array[start : start + step]
        if role == "i":
            # Groups run down the rows: as they are stored, each column like a kernel position.
            columns = criterion.elementwise(slab).reshape(1, 1, len(slab), -1)
            mask = pattern.mask(columns).reshape(slab.shape)
        else:
            part = replace(layer, atoms=(((role, len(slab)),), *layer.atoms[1:]))
            mask = part.unview(pattern.mask(criterion.elementwise(part.view(slab))))
        packed = np.packbits(mask.reshape(-1))
        bits[done : done + packed.size] = packed
        done += packed.size
        if np.count_nonzero(slab) < slab.size:
            hollow += int(np.count_nonzero((slab == 0) & mask))
    return bits, hollow


def _runs(flat: Array) -> Iterator[tuple[int, Array]]:
    for start in range(0, flat.size, _SLAB):
        yield start, flat[start : start + _SLAB]


def _bracket(flat: Array, criterion: Criterion, keep: int) -> tuple[np.float32, np.float32]:
    """Return two scores between which the threshold probably lies."""
    runs = min(256, max(1, flat.size // 256))
    starts = np.linspace(0, flat.size - 256, runs).astype(np.int64)
    sample = np.sort(criterion.elementwise(np.concatenate([flat[s : s + 256] for s in starts])))
    gone = 1 - keep / flat.size
    low = int((gone - _MARGIN) * sample.size)
    high = int(np.ceil((gone + _MARGIN) * sample.size))
    return (
        np.float32(-np.inf) if low < 0 else sample[low],
        np.float32(np.inf) if high >= sample.size else sample[high],
    )


def _elements(layer: Layer, criterion: Criterion, keep: int) -> tuple[Bits, int] | None:
    """Keep the largest; None when the bracket missed the threshold."""
    flat = layer.numbers().reshape(-1)
    low, high = _bracket(flat, criterion, keep)
    bits = np.empty(-(-flat.size // 8), np.uint8)
    above = 0
    places: list[Array] = []
    scores: list[Array] = []
    for start, piece in _runs(flat):
        score = criterion.elementwise(piece)
        sure = score > high
        above += int(np.count_nonzero(sure))
        packed = np.packbits(sure)
        bits[start // 8 : start // 8 + packed.size] = packed
        np.greater_equal(score, low, out=sure)
        sure &= score <= high
        inside = np.flatnonzero(sure)
        places.append(inside + start)
        scores.append(score[inside])
    where, held = np.concatenate(places), np.concatenate(scores)
    need = keep - above
    if not 0 <= need <= held.size:
        return None
    # Ties go to the lower index in the canonical view, as they do everywhere.
    kept = keep_largest(held, need)
    if 0 < need < held.size:
        tied = np.flatnonzero(held == held[kept].min())
        room = int(np.count_nonzero(kept[tied]))
        kept[tied] = False
        kept[tied[np.argsort(_canonical(layer, where[tied]), kind="stable")[:room]]] = True
    chosen = where[kept]
    np.bitwise_or.at(bits, chosen >> 3, (0x80 >> (chosen & 7)).astype(np.uint8))
    # What is above the bracket is not zero: scores are not negative.
    hollow = np.count_nonzero(flat[chosen] == 0) if low <= 0 else 0
    return bits, int(hollow)


def _canonical(layer: Layer, places: Array) -> Array:
    """Return where in the canonical view flat places of the stored weight are."""
    atoms = [(role, size) for axis in layer.atoms for role, size in axis]
    index = np.unravel_index(places, [size for _, size in atoms])
    order = sorted(range(len(atoms)), key=lambda i: ("goik".index(atoms[i][0]), i))
    sizes = [atoms[i][1] for i in order]
    found: Array = np.ravel_multi_index([index[i] for i in order], sizes)
    return found
