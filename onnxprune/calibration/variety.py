"""Samples that were not seen before, made of those that are there.

Where a network is trained to give the dense network's values, any input can be asked about: the
answer comes from the dense network, not from a label. A thousand samples shown ten times teach less
than ten thousand that differ, and pictures moved by a few pixels, turned left to right, or blended
with each other differ enough (function matching, Beyer et al. 2022; blends: mixup, Zhang et al.
2018). Whether pictures may be turned or moved, the network itself says: it says the same of them
(:func:`.mirror.same_answers`), or it does not. Whole numbers (tokens, users, items) cannot be
blended; there two samples are crossed, the beginning of one with the end of the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.mirror import columns_of, mirrored, same_answers
from onnxprune.errors import DataError

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
#: Pictures are moved by up to this share of their edge.
SHIFT = 1 / 8


@dataclass(frozen=True)
class Variety:
    """What may be done to the samples of a network.

    Attributes:
        turn: pictures may be turned left to right.
        move: pictures may be moved.
        blend: samples of the same shapes may be blended.
        cross: samples of whole numbers may be crossed.
    """

    turn: bool = False
    move: bool = False
    blend: bool = False
    cross: bool = False

    @staticmethod
    def of(
        feeds: Sequence[Feed],
        held: Sequence[Feed],
        judge: Judge,
        run: Callable[[Sequence[Feed]], Sequence[Sequence[Array]]],
    ) -> Variety:
        """Return what the dense network admits.

        Args:
            feeds: training samples.
            held: those that the judge knows.
            judge: of the dense outputs on ``held``.
            run: the dense network.

        Raises:
            DataError: from ``run``.
        """

        def admits(change: Callable[[Feed], Feed | None]) -> bool:
            turned = [change(feed) for feed in held]
            whole = [feed for feed in turned if feed is not None]
            return len(whole) == len(turned) > 0 and same_answers(judge, run(whole))

        def runs(changed: Sequence[Feed]) -> bool:
            try:
                outputs = run(changed)
            except DataError:  # whole numbers may depend on each other: lengths, places
                return False
            return all(
                np.isfinite(o).all() for given in outputs for o in given if o.dtype.kind == "f"
            )

        first = feeds[0]
        floats = [n for n, a in first.items() if np.asarray(a).dtype.kind == "f"]
        fixed = [n for n in first if n not in floats]
        same = all(np.array_equal(f[n], first[n]) for n in fixed for f in feeds)
        rng = np.random.default_rng(0)
        crossed = (
            [] if same else [Variety(cross=True).vary(f, _partner(f, held, rng), rng) for f in held]
        )
        return Variety(
            admits(mirrored),
            admits(_displaced),
            bool(floats) and same,
            bool(crossed) and runs(crossed),
        )

    def __bool__(self) -> bool:
        """Whether anything may be done."""
        return self.turn or self.move or self.blend or self.cross

    def vary(self, feed: Feed, other: Feed, rng: np.random.Generator) -> dict[str, Array]:
        """Return new samples.

        Args:
            feed: samples, along the first axis where arrays have one of the same length.
            other: samples of the same shapes to blend with, which may be the same ones.
            rng: where chance comes from.
        """
        found = {name: np.asarray(array) for name, array in feed.items()}
        beside = {name: np.asarray(array) for name, array in other.items()}
        if self.turn or self.move:  # there is one input
            ((name, array),) = found.items()
            found[name] = self._changed(array, rng)
            beside[name] = self._changed(beside[name], rng)
        if self.cross:
            found.update(_crossed(found, beside, rng))
        if self.blend:
            found.update(_blended(found, beside, rng))
        return found

    def _changed(self, array: Array, rng: np.random.Generator) -> Array:
        """Pictures each turned or moved at random."""
        out = np.empty_like(array)
        for place, picture in enumerate(array):
            if self.turn and rng.random() < 0.5:
                picture = np.flip(picture, columns_of(array) - 1)
            if self.move:
                picture = _moved(picture, columns_of(array) - 1, rng.uniform(-SHIFT, SHIFT, 2))
            out[place] = picture
        return out


def _blended(
    found: Mapping[str, Array], beside: Mapping[str, Array], rng: np.random.Generator
) -> dict[str, Array]:
    """Float arrays blended with rows of others, all of a sample alike."""
    floats = {n: a for n, a in found.items() if a.dtype.kind == "f"}
    lengths = {a.shape[0] if a.ndim else 1 for a in floats.values()}
    rows = lengths.pop() if len(lengths) == 1 else 1
    # Blends have less contrast than what the network will see: half of the samples stay whole.
    share = np.where(rng.random(rows) < 0.5, rng.random(rows), 1.0)
    order = rng.permutation(rows)
    for name, array in floats.items():
        other = beside[name]
        if rows > 1:
            other = other[order]
            part = share.reshape(rows, *[1] * (array.ndim - 1))
        else:
            part = share[0]
        mixed = part * array + (1 - part) * other
        floats[name] = np.ascontiguousarray(mixed, dtype=array.dtype)
    return floats


def _crossed(
    found: Mapping[str, Array], beside: Mapping[str, Array], rng: np.random.Generator
) -> dict[str, Array]:
    """Rows of whole numbers that go on as other rows from a place on.

    Arrays of the same shape (tokens and their mask) change rows at the same place. Numbers that
    stand alone (a user, an item) are drawn of either row, each for itself: the dense network
    answers for any pair.
    """
    places: dict[tuple[int, ...], tuple[Array, Array]] = {}
    crossed = {}
    for name, array in found.items():
        if array.dtype.kind not in "iu" or not array.ndim:
            continue
        rows, length = array.shape[0], int(np.prod(array.shape[1:]))
        if array.shape not in places or length == 1:
            cuts = rng.integers(0, length + 1, (rows, 1))
            begin = np.arange(length) < cuts
            places[array.shape] = begin.reshape(array.shape), rng.permutation(rows)
        begin, order = places[array.shape]
        crossed[name] = np.where(begin, array, beside[name][order])
    return crossed


def _partner(feed: Feed, feeds: Sequence[Feed], rng: np.random.Generator) -> Feed:
    """A feed of the same shapes, drawn at random; maybe the same one."""
    shapes = {n: np.shape(a) for n, a in feed.items()}
    alike = [f for f in feeds if {n: np.shape(a) for n, a in f.items()} == shapes]
    return alike[rng.integers(len(alike))]


def _moved(picture: Array, columns: int, by: npt.ArrayLike) -> Array:
    """A picture moved by shares of its edges; what comes in at the rim mirrors what is there."""
    down, right = np.asarray(by)
    for axis, share in ((columns - 1, down), (columns, right)):
        size = picture.shape[axis]
        places = np.abs(np.arange(size) + round(float(share) * size))
        places = np.where(places >= size, 2 * (size - 1) - places, places)
        picture = np.take(picture, np.clip(places, 0, size - 1), axis=axis)
    return picture


def _displaced(feed: Feed) -> Feed | None:
    """Pictures moved as far as they are on average."""
    if mirrored(feed) is None:
        return None
    ((name, array),) = feed.items()
    moved = [_moved(picture, columns_of(array) - 1, (SHIFT / 2, -SHIFT / 2)) for picture in array]
    return {name: np.ascontiguousarray(np.stack(moved))}
