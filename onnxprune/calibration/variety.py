"""Samples that were not seen before, made of those that are there.

Where a network is trained to give the dense network's values, any input can be asked about: the
answer comes from the dense network, not from a label. A thousand samples shown ten times teach less
than ten thousand that differ, and pictures moved by a few pixels, turned left to right, or blended
with each other differ enough (function matching, Beyer et al. 2022; blends: mixup, Zhang et al.
2018). Whether pictures may be turned or moved, the network itself says: it gives them the same
classes, or it does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.mirror import columns_of, mirrored, same_classes

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
    """

    turn: bool = False
    move: bool = False
    blend: bool = False

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
            return len(whole) == len(turned) > 0 and same_classes(judge, run(whole))

        first = feeds[0]
        floats = [n for n, a in first.items() if np.asarray(a).dtype.kind == "f"]
        fixed = [n for n in first if n not in floats]
        same = all(np.array_equal(f[n], first[n]) for n in fixed for f in feeds)
        return Variety(admits(mirrored), admits(_displaced), bool(floats) and same)

    def __bool__(self) -> bool:
        """Whether anything may be done."""
        return self.turn or self.move or self.blend

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
        if not self.blend:
            return found
        lengths = {a.shape[0] if a.ndim else 1 for a in found.values() if a.dtype.kind == "f"}
        rows = lengths.pop() if len(lengths) == 1 else 1
        # Blends have less contrast than what the network will see: half of the samples stay whole.
        share = np.where(rng.random(rows) < 0.5, rng.random(rows), 1.0)
        order = rng.permutation(rows)
        for name, array in found.items():
            if array.dtype.kind != "f":
                continue
            partner = beside[name]
            if rows > 1:
                partner = partner[order]
                part = share.reshape(rows, *[1] * (array.ndim - 1))
            else:
                part = share[0]
            mixed = part * array + (1 - part) * partner
            found[name] = np.ascontiguousarray(mixed, dtype=array.dtype)
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
