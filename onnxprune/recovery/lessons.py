"""What a student is trained on: samples, new ones each time, and what the dense network says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune.calibration.agreement import ROUNDING
from onnxprune.calibration.stages import session
from onnxprune.calibration.variety import Variety
from onnxprune.errors import DataError
from onnxprune.recovery.distil_graph import shape_of

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
Crop = Sequence[Array | None]


class Teacher:
    """The dense network, asked for values inside."""

    def __init__(
        self,
        dense: onnx.ModelProto,
        names: Sequence[str],
        crops: Mapping[str, Crop] = {},
        *,
        threads: int = 0,
    ) -> None:
        """Open the network.

        Args:
            dense: the network.
            names: of float values in it.
            crops: by value, for every axis the coordinates to take, or None for all.
            threads: of one run, as many as there are cores when 0.

        Raises:
            DataError: onnxruntime does not take it.
        """
        model = onnx.ModelProto()
        model.CopyFrom(dense)
        del model.graph.output[:], model.graph.value_info[:]
        model.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names)
        self._names, self._crops = list(names), crops
        self._runner = session(model.SerializeToString(), threads)
        self._inputs = [i.name for i in self._runner.get_inputs()]

    def values(self, feed: Feed) -> dict[str, Array]:
        """Return the values for samples, by name.

        Raises:
            DataError: onnxruntime does not run it.
        """
        try:
            got = self._runner.run(self._names, {n: feed[n] for n in self._inputs})
        except Exception as error:  # onnxruntime raises its own types, one per status code
            told = " ".join(str(error).split())[:300]
            raise DataError(f"onnxruntime cannot run the samples: {told}") from error
        found = {}
        for name, value in zip(self._names, got, strict=True):
            array = np.asarray(value)
            for axis, kept in enumerate(self._crops.get(name, ())):
                if kept is not None:
                    array = np.take(array, kept, axis=axis)
            found[name] = array
        return found

    def spreads(self, feeds: Sequence[Feed]) -> dict[str, float]:
        """Return the variance of every value over samples; values that are not finite are left out.

        Raises:
            DataError: onnxruntime does not run it.
        """
        sums = {n: np.zeros(3) for n in self._names}
        for feed in feeds:
            for name, array in self.values(feed).items():
                wide = array.astype(np.float64)
                sums[name] += (wide.size, wide.sum(), (wide * wide).sum())
        return {
            n: float(max(c / a - (b / a) ** 2, ROUNDING * c / a))
            for n, (a, b, c) in sums.items()
            if a and np.isfinite(c)
        }


@dataclass
class Lessons:
    """Samples with the dense network's values, worked out when they are taken.

    Attributes:
        feeds: at least one feed of samples.
        teacher: the dense network.
        variety: what may be done to the samples.
        seed: the same seed gives the same lessons.
    """

    feeds: Sequence[Feed]
    teacher: Teacher
    variety: Variety = field(default_factory=Variety)
    seed: int = 0

    def __post_init__(self) -> None:
        alike: dict[Any, list[int]] = {}
        for index, feed in enumerate(self.feeds):
            alike.setdefault(shape_of(feed), []).append(index)
        self._alike = {i: group for group in alike.values() for i in group}

    def __len__(self) -> int:
        return len(self.feeds)

    def take(self, epoch: int, index: int) -> tuple[Feed, dict[str, Array]]:
        """Return samples made of those of feed ``index``, and the dense network's values.

        Raises:
            DataError: onnxruntime does not run it.
        """
        feed = self.feeds[index]
        if self.variety:
            rng = np.random.default_rng((self.seed, epoch, index))
            other = self.feeds[rng.choice(self._alike[index])]
            feed = self.variety.vary(feed, other, rng)
        return feed, self.teacher.values(feed)
