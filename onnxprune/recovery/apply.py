"""A dense network with its calibration samples: what reconstruction works on, and is judged by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune import io
from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.grams import Statistics, Sums
from onnxprune.calibration.judged import judged_values
from onnxprune.calibration.mirror import mirrored
from onnxprune.calibration.operands import BiasSite, Operand, find_operand
from onnxprune.calibration.residual import shortcut_of
from onnxprune.calibration.samples import rows_of
from onnxprune.calibration.stages import Stages, Stream, tensor_of
from onnxprune.calibration.variety import Variety
from onnxprune.planning import find_layers
from onnxprune.recovery.effort import macs_of, measurable
from onnxprune.recovery.journal import Journal, digest_of
from onnxprune.recovery.pairs import Pairs, ahead
from onnxprune.recovery.saliency import ALIKE, Saliency
from onnxprune.rules.analysis import Analyzer

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
Progress = Callable[[str, float], None]
#: One feed in this many is held out: no solver sees it, decisions are judged on it.
HOLD_OUT = 6
#: With fewer samples too few are held out to judge on (:mod:`.cross_check`), and how strong an
#: input is on them says little: ridges are the same for all inputs, and may be strong.
FEW = 48
#: Columns per layer, as a multiple of d; more, up to a number, where products are cheap.
COLUMNS_PER_INPUT = 48
MOST_COLUMNS = 49152
CHEAP_FLOPS = 8e9
#: Numbers unfolded beyond COLUMNS_PER_INPUT, over all groups of a convolution.
UNFOLDED = 4e7


@dataclass
class Recovered:
    """New values for a mask plan.

    Attributes:
        masks: by tensor name, what is kept.
        weights: by tensor name, the new values, zero off the mask.
        biases: vectors that moved.
        report: JSON-ready account: agreement before and after, and what each layer did.
        analyzer: of the model that the values are for, where that is a reordered copy.
        orders: then, the old unit at each new place, by group.
        holes: the dense network gives numbers that are not finite.
    """

    masks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    biases: list[tuple[BiasSite, Array]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    analyzer: Analyzer | None = None
    orders: dict[str, list[int]] = field(default_factory=dict)
    holes: bool = False


def held_out(index: int, feeds: int) -> bool:
    """Whether feed ``index`` of ``feeds`` is held out: the last of each six, or of all."""
    step = min(HOLD_OUT, max(feeds, 2))
    return index % step == step - 1


def columns_wanted(size: int, groups: int) -> int:
    """Return how many columns the statistics of groups of ``size`` inputs are made of."""
    work = groups * size
    cheap = min(MOST_COLUMNS, int(CHEAP_FLOPS / (2 * work * size)), int(UNFOLDED / work))
    return max(COLUMNS_PER_INPUT * size, cheap)


def few_columns(size: int, groups: int) -> int:
    """Return how many columns are enough to tell one trial from another."""
    return max(COLUMNS_PER_INPUT // 2 * size, min(8192, int(UNFOLDED / (groups * size))))


def quiet(stage: str, done: float) -> None:
    """Progress callback that does nothing."""


class Reconstruction:
    """One analyzed dense model with its calibration samples, ready to be pruned in several ways."""

    def __init__(
        self,
        analyzer: Analyzer,
        feeds: Sequence[Feed],
        *,
        held: Sequence[bool] | None = None,
        journal: Journal | None = None,
        seed: int = 0,
    ) -> None:
        """Prepare.

        Args:
            analyzer: of the dense model, which must not be changed while this is used.
            feeds: at least one feed.
            held: which feeds are held out; one in six when None.
            journal: where answers are kept and taken from.
            seed: for the draw of positions.

        Raises:
            DataError: onnxruntime does not run the model on the feeds.
        """
        self.analyzer = analyzer
        self.seed = seed
        self.stages = Stages(analyzer.model)
        self.stages.end_in(judged_values(self.stages, feeds[0]))
        self.feeds = feeds
        self.held = list(held or (held_out(i, len(feeds)) for i in range(len(feeds))))
        self.journal = journal or Journal()
        self.copies = 1  # times that every sample is there
        self.layers = {layer.value.name or "": layer for layer in find_layers(analyzer)}
        tokens = all(np.asarray(v).dtype.kind in "iu" for v in feeds[0].values())
        self.tokens = tokens
        self.columns = columns_wanted  # may be replaced where trials are to be quick
        self._last: tuple[Any, Statistics, Statistics | None] | None = None
        self._variety: Variety | None = None
        self._saliency: tuple[int, Saliency] | None = None

    def of(self, analyzer: Analyzer) -> Reconstruction:
        """Return the same samples for another model with the same inputs and outputs."""
        told = "reordered", digest_of(io.to_bytes(analyzer.model), ())
        journal = self.journal.of(told)
        other = Reconstruction(
            analyzer, self.feeds, held=self.held, journal=journal, seed=self.seed
        )
        other.copies, other._variety = self.copies, self._variety  # the same network, reordered
        other._saliency = self._saliency
        return other

    def widen(self, judge: Judge) -> bool:
        """Add mirrored pictures to the feeds where they are samples as well.

        Args:
            judge: of the held-out feeds.

        Returns:
            Whether there are more feeds now; then the judge is to be asked for anew.

        Raises:
            DataError: onnxruntime does not run the model on them.
        """
        if not self.variety(judge).turn:
            return False
        turned = [(mirrored(f), held) for f, held in zip(self.feeds, self.held, strict=True)]
        more = [(feed, held) for feed, held in turned if feed is not None]
        self.feeds = [*self.feeds, *(feed for feed, _ in more)]
        self.held = [*self.held, *(held for _, held in more)]
        self.copies = 2
        return True

    @property
    def held_feeds(self) -> list[Feed]:
        """The feeds that decide; all where none is held out."""
        found = [f for f, held in zip(self.feeds, self.held, strict=True) if held]
        return found or list(self.feeds)

    @property
    def training(self) -> list[Feed]:
        """The feeds that solvers see; all where every one is held out."""
        found = [f for f, held in zip(self.feeds, self.held, strict=True) if not held]
        return found or list(self.feeds)

    @property
    def few(self) -> bool:
        """Whether there are fewer samples than :data:`FEW`."""
        return sum(map(rows_of, self.feeds)) // self.copies < FEW

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the dense network for one sample of these feeds' sizes."""
        return macs_of(self.analyzer, self.feeds)

    def measurable(self, trials: int, wanted: int) -> int:
        """Return on how many held-out samples trials can be run; 0 where that says nothing."""
        there = sum(map(rows_of, self.held_feeds))
        return measurable(self.macs, trials, min(wanted, there))

    def variety(self, judge: Judge) -> Variety:
        """Return what may be done to the samples.

        Args:
            judge: of the held-out feeds.

        Raises:
            DataError: onnxruntime does not run the model on what was made of them.
        """
        if self._variety is None:
            stages = self.stages
            self._variety = Variety.of(
                self.training, self.held_feeds, judge, lambda feeds: Stream(stages, feeds).finish()
            )
        return self._variety

    def judge(self) -> Judge:
        """Return the judge on the held-out feeds."""
        dense = Stream(self.stages, self.held_feeds).finish()
        wide = Stream(self.stages, self.feeds).finish() if self.few else None
        return Judge(dense, tokens=self.tokens, spread=wide)

    def agreement(
        self, judge: Judge, weights: Mapping[str, Array], biases: Sequence[tuple[BiasSite, Array]]
    ) -> Agreement:
        """Return the held-out agreement of the network with other weights and biases."""
        stream = Stream(self.stages, self.held_feeds)
        self.dress(stream, weights, biases)
        return judge.judge(stream.finish())

    def dress(
        self,
        stream: Stream,
        weights: Mapping[str, Array],
        biases: Sequence[tuple[BiasSite, Array]],
    ) -> None:
        """Give a stream other weights and biases."""
        for name, array in weights.items():
            stream.weights[name] = tensor_of(array, self.layers[name].tensor, name)
        for site, array in biases:
            self.edit(stream, site, array)

    def bias_name(self, site: BiasSite) -> str:
        """Name of the vector that :meth:`edit` puts at a site."""
        return f"onnxprune_bias_{self.stages.place(site.node.outputs[0].name or '')}"

    def masked(self, masks: Mapping[str, npt.NDArray[np.bool_]]) -> dict[str, Array]:
        """Return the dense weights with zeros where a mask says so."""
        found = {}
        for name, mask in masks.items():
            layer = self.layers[name]
            found[name] = layer.stored.masked(mask, np.asarray(layer.tensor.numpy()))
        return found

    def edit(self, stream: Stream, site: BiasSite, array: Array) -> None:
        """Give a stream another vector at a bias site."""
        place = self.stages.place(site.node.outputs[0].name or "")
        if place is None:
            return
        node = onnx.NodeProto()
        node.CopyFrom(stream.edits.get(place, self.stages.nodes[place]))
        name = self.bias_name(site)
        while len(node.input) <= site.index:
            node.input.append("")
        node.input[site.index] = name
        stream.edits[place] = node
        like = site.node.inputs[site.index] if site.index < len(site.node.inputs) else None
        tensor = None if like is None else self.analyzer.tensor(like)
        if tensor is None:
            tensor = next(x.tensor for x in self.layers.values() if x.node is site.node)
        stream.weights[name] = tensor_of(array, tensor, name)

    def pairs(
        self, operand: Operand, dense: Stream, pruned: Stream, *, weighed: bool = False
    ) -> Pairs:
        """A layer's columns and targets, from streams that have come to it."""
        size = int(np.prod(operand.layer.view_shape[2:]))
        columns = self.columns(size, operand.layer.view_shape[0])
        shortcut = shortcut_of(self.analyzer, operand)
        return Pairs(
            operand,
            dense,
            pruned,
            shortcut,
            columns,
            self.seed,
            self.saliency if weighed else ALIKE,
        )

    @property
    def saliency(self) -> Saliency:
        """How much the columns of layers count on the feeds as they are."""
        if self._saliency is None or self._saliency[0] != len(self.feeds):
            found = (find_operand(self.analyzer, layer) for layer in self.layers.values())
            operands = [operand for operand in found if not isinstance(operand, str)]
            macs = self.macs * sum(map(rows_of, self.feeds))
            self._saliency = (
                len(self.feeds), Saliency.of(self.stages, operands, self.feeds, macs)
            )  # fmt: skip
        return self._saliency[1]

    def statistics(
        self, operand: Operand, dense: Stream, pruned: Stream
    ) -> tuple[Statistics, Statistics | None]:
        """Collect training and held-out moments of a layer."""
        return self.moments(self.pairs(operand, dense, pruned))

    def forget_moments(self) -> None:
        """Let go of the last layer's moments, which a layer of the same inputs would take over."""
        self._last = None

    def moments(self, pairs: Pairs) -> tuple[Statistics, Statistics | None]:
        """Return training and held-out moments of a layer's columns; None if none are held out."""
        operand = pairs.operand
        alike = pairs.same and not pairs.weighed
        if alike and self._last is not None and self._last[0] == operand.key:
            return self._last[1], self._last[2]
        sums = (Sums(), Sums())

        def unfolded(index: int) -> tuple[Any, Any]:
            return pairs.of(index, aim=False)[:2]

        for index, (columns, target) in enumerate(ahead(unfolded, pairs.count)):
            sums[self.held[index]].add(columns, target, pairs.weights(index))
        other = sums[1].result() if sums[1].columns else None
        train = sums[0].result() if sums[0].columns else other
        assert train is not None
        if alike:
            self._last = (operand.key, train, other)
        return train, other
