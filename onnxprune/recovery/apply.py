"""Reconstruction on a graph: layer by layer against dense targets.

Layers are solved in graph order. A layer's inputs come from the network whose earlier layers are
already pruned and re-solved, its targets from the dense network, so that every layer also makes up
for what the ones before it lost (methods.md 1.0, asymmetric mode; 6.4 for what it brings).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune import io
from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.grams import Statistics, Sums
from onnxprune.calibration.judged import judged_values
from onnxprune.calibration.mirror import mirrored
from onnxprune.calibration.operands import BiasSite, Operand, find_operand, find_shared
from onnxprune.calibration.residual import shortcut_of
from onnxprune.calibration.samples import rows_of
from onnxprune.calibration.stages import Stages, Stream, tensor_of
from onnxprune.calibration.variety import Variety
from onnxprune.patterns import Pattern
from onnxprune.planning import find_layers
from onnxprune.recovery.apply_layer import Solved, solve_layer
from onnxprune.recovery.apply_shared import solve_shared
from onnxprune.recovery.effort import Effort, macs_of, measurable
from onnxprune.recovery.journal import Journal, digest_of, digest_of_masks
from onnxprune.recovery.pairs import Pairs, ahead
from onnxprune.recovery.problem import Mask
from onnxprune.recovery.rectified import bounds_of, rectified
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

    def run(
        self,
        masks: Mapping[str, npt.NDArray[np.bool_]],
        pattern: Pattern,
        *,
        method: str = "auto",
        progress: Progress = quiet,
        until: int | None = None,
        shared_bias: bool = True,
        weighed: bool = False,
    ) -> Recovered:
        """Reconstruct all layers that have a mask, and those without one behind the first of them.

        What comes to a layer that stays whole is no longer what it was trained on: its own least
        squares solution makes up for part of that. Depth-wise layers, which patterns along inputs
        leave alone, matter most (MobileNetV2 at 2:4: held-out divergence 2.35 to 1.87).

        Args:
            masks: by tensor name; what is kept, or where masks are searched only how much of it.
            pattern: the pattern of the masks.
            method: ``given`` to solve on these masks, ``auto`` or a mask search to look for better
                ones with as many units.
            progress: called with (stage, fraction done).
            until: stop after this many layers, for trials.
            shared_bias: give a layer whose bias other nodes read too one of its own; otherwise
                such a bias stays, and that of transposed convolutions.
            weighed: let columns count by :attr:`saliency`.

        Raises:
            DataError: onnxruntime cannot run the model on the samples, or statistics that are not
                finite.
        """
        result = Recovered(masks=dict(masks), weights=self.masked(masks))
        dense = Stream(self.stages, self.feeds)
        pruned = dense.fork()
        rows: list[dict[str, Any]] = []
        todo: list[tuple[int, Operand]] = []
        shared: dict[str, list[Operand]] = {}
        for name in masks:
            layer = self.layers[name]
            found = find_operand(self.analyzer, layer)
            place = self.stages.place_of(layer.node)
            if isinstance(found, str) or place is None:
                together = find_shared(self.analyzer, layer)
                if not isinstance(together, str) and place is not None:
                    shared[name] = together
                    continue
                why = found if isinstance(found, str) else "the node computes a constant"
                rows.append({"layer": layer.name, "method": "none", "why": why})
                pruned.weights[name] = tensor_of(result.weights[name], layer.tensor, name)
            else:
                odd = layer.node.op_type == "ConvTranspose" or (found.bias and found.bias.shared)
                if not shared_bias and odd:
                    found = replace(found, bias=None)
                todo.append((place, found))
        todo += self._behind(masks, min((place for place, _ in todo), default=None))
        todo.sort(key=lambda pair: pair[0])
        self._last = None
        effort = self._effort([operand for _, operand in todo], masks)
        told = (
            pattern.text,
            method,
            shared_bias,
            self.copies,
            self.columns.__name__,
            "whole layers, cut off",
            weighed,
        )
        asked = "solve " + digest_of_masks(masks, *told) if self.journal.folder else ""
        for operand, solved in solve_shared(self, shared, masks, pattern, method, asked):
            self._take(operand, solved, result, pruned)
            rows.append({"layer": operand.layer.name, **solved.account})
        todo, coming = todo[:until], None
        with one_thread(), ThreadPoolExecutor(1) as beside:
            for number, (place, operand) in enumerate(todo):
                progress("recover", number / len(todo))
                name = operand.layer.value.name or ""
                known = self.journal.get(f"{asked} {name}")
                if known is not None:
                    solved = Solved.of_arrays(known)
                    self._take(operand, solved, result, pruned)
                    rows.append({"layer": operand.layer.name, **solved.account})
                    continue
                if coming is not None:
                    coming.result()
                dense.advance(place)
                pruned.advance(place)
                started = time.perf_counter()
                bounds = bounds_of(self.analyzer, operand)
                pairs: Pairs | None = self.pairs(operand, dense, pruned, weighed=weighed)
                assert pairs is not None
                train, other = self._moments(pairs)
                pairs = None if bounds is None else pairs  # which holds values of the streams
                collected = time.perf_counter()
                # Solvers leave cores idle: the dense network goes on meanwhile.
                coming = beside.submit(dense.advance, todo[min(number + 1, len(todo) - 1)][0])
                weight = np.asarray(operand.layer.tensor.numpy()).astype(np.float64)
                mask = masks.get(name)
                solved = solve_layer(
                    operand, weight, train, other, pattern,
                    np.ones(weight.shape, np.bool_) if mask is None else mask,
                    method=method if mask is not None else "given", even=self.few, effort=effort,
                )  # fmt: skip
                if pairs is not None and bounds is not None:
                    solved = rectified(pairs, solved, train, self.held, bounds, even=self.few)
                self._take(operand, solved, result, pruned)
                self.journal.put(f"{asked} {name}", solved.as_arrays())
                rows.append(
                    {
                        "layer": operand.layer.name,
                        **solved.account,
                        "columns": round(train.columns),
                        "seconds": [
                            round(collected - started, 3),
                            round(time.perf_counter() - collected, 3),
                        ],
                    }
                )
        result.report["layers"] = rows
        return result

    def _effort(
        self, operands: Sequence[Operand], masks: Mapping[str, npt.NDArray[np.bool_]]
    ) -> Effort:
        """What each of these layers may take to be searched and solved."""

        def kept(operand: Operand) -> Sequence[Mask]:
            layer = operand.layer
            mask = masks.get(layer.value.name or "")
            whole = np.ones(layer.tensor.shape.numpy(), np.bool_) if mask is None else mask
            found: Mask = operand.matrix(whole)
            return [*found]

        return Effort.of(kept(operand) for operand in operands)

    def _behind(
        self, masks: Mapping[str, npt.NDArray[np.bool_]], first: int | None
    ) -> list[tuple[int, Operand]]:
        """Layers without a mask behind pruned ones: they can make up for some of what is lost."""
        found = []
        for name, layer in self.layers.items():
            place = self.stages.place_of(layer.node)
            if name in masks or first is None or place is None or place < first:
                continue
            operand = find_operand(self.analyzer, layer)
            if not isinstance(operand, str) and (operand.bias is None or not operand.bias.shared):
                found.append((place, operand))
        return found

    def _take(self, operand: Operand, solved: Solved, result: Recovered, pruned: Stream) -> None:
        layer = operand.layer
        name = layer.value.name or ""
        dtype = np.asarray(layer.tensor.numpy()).dtype
        mask = operand.unmatrix(solved.mask)
        array = operand.unmatrix(solved.weights).astype(dtype)
        array[~mask] = 0
        if name in result.masks:
            result.masks[name] = mask
        result.weights[name] = array
        pruned.weights[name] = tensor_of(array, layer.tensor, name)
        if solved.shift is not None and operand.bias is not None:
            vector = operand.bias.moved(solved.shift.reshape(-1))
            result.biases.append((operand.bias, vector))
            self.edit(pruned, operand.bias, vector)

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
        return self._moments(self.pairs(operand, dense, pruned))

    def _moments(self, pairs: Pairs) -> tuple[Statistics, Statistics | None]:
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
