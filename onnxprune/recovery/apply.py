"""Reconstruction on a graph: layer by layer against dense targets, and kept only if it helps.

Layers are solved in graph order. A layer's inputs come from the network whose earlier layers are
already pruned and re-solved, its targets from the dense network, so that every layer also makes up
for what the ones before it lost (methods.md 1.0, asymmetric mode; 6.4 for what it brings).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.blas import one_thread
from onnxprune.calibration.grams import Statistics, Sums
from onnxprune.calibration.operands import BiasSite, Operand, find_operand
from onnxprune.calibration.residual import rows_like, shortcut_of
from onnxprune.calibration.stages import Stages, Stream, tensor_of
from onnxprune.errors import DataError
from onnxprune.patterns import Pattern, parse_pattern
from onnxprune.patterns.nm import NM
from onnxprune.planning import PrunePlan, find_layers
from onnxprune.planning.layers import Layer
from onnxprune.recovery.apply_layer import Solved, solve_layer
from onnxprune.rules.analysis import Analyzer

Array = npt.NDArray[Any]
Feed = Mapping[str, Array]
Progress = Callable[[str, float], None]
#: One feed in this many is held out: no solver sees it, decisions are judged on it.
HOLD_OUT = 6
#: Columns per layer, as a multiple of d; more, up to a number, where products are cheap.
COLUMNS_PER_INPUT = 48
MOST_COLUMNS = 131072
CHEAP_FLOPS = 2e10


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
    """

    masks: dict[str, npt.NDArray[np.bool_]] = field(default_factory=dict)
    weights: dict[str, Array] = field(default_factory=dict)
    biases: list[tuple[BiasSite, Array]] = field(default_factory=list)
    report: dict[str, Any] = field(default_factory=dict)
    analyzer: Analyzer | None = None
    orders: dict[str, list[int]] = field(default_factory=dict)


def held_out(index: int, feeds: int) -> bool:
    """Whether feed ``index`` of ``feeds`` is held out: every sixth, the last of each six."""
    step = min(HOLD_OUT, max(feeds, 2))
    return index % step == step - 1


def columns_wanted(size: int) -> int:
    """Return how many columns the statistics of a layer of ``size`` inputs are made of."""
    cheap = min(MOST_COLUMNS, int(CHEAP_FLOPS / (2 * size * size)))
    return max(COLUMNS_PER_INPUT * size, cheap)


def few_columns(size: int) -> int:
    """Return how many columns are enough to tell one trial from another."""
    return max(8192, COLUMNS_PER_INPUT // 2 * size)


def quiet(stage: str, done: float) -> None:
    """Progress callback that does nothing."""


class Reconstruction:
    """One analyzed dense model with its calibration samples, ready to be pruned in several ways."""

    def __init__(self, analyzer: Analyzer, feeds: Sequence[Feed], *, seed: int = 0) -> None:
        """Prepare.

        Args:
            analyzer: of the dense model, which must not be changed while this is used.
            feeds: at least one feed; one in six is held out.
            seed: for the draw of positions.

        Raises:
            DataError: onnxruntime does not run the model on the feeds.
        """
        self.analyzer = analyzer
        self.seed = seed
        self.stages = Stages(analyzer.model)
        self.feeds = feeds
        self.held = [held_out(i, len(feeds)) for i in range(len(feeds))]
        self.layers = {layer.value.name or "": layer for layer in find_layers(analyzer)}
        tokens = all(np.asarray(v).dtype.kind in "iu" for v in feeds[0].values())
        self.held_feeds = [f for f, h in zip(feeds, self.held, strict=True) if h] or list(feeds)
        self.dense = Stream(self.stages, feeds)
        self.tokens = tokens
        self.columns = columns_wanted  # may be replaced where trials are to be quick
        self._last: tuple[Any, Statistics, Statistics | None] | None = None

    def judge(self) -> Judge:
        """Return the judge on the held-out feeds."""
        return Judge(Stream(self.stages, self.held_feeds).finish(), tokens=self.tokens)

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
    ) -> Recovered:
        """Reconstruct all layers that have a mask.

        Args:
            masks: by tensor name; what is kept, or where masks are searched only how much of it.
            pattern: the pattern of the masks.
            method: ``given`` to solve on these masks, ``auto`` or a mask search to look for better
                ones with as many units.
            progress: called with (stage, fraction done).
            until: stop after this many layers, for trials.
            shared_bias: give a layer whose bias other nodes read too one of its own; otherwise
                such a bias stays, and that of transposed convolutions.

        Raises:
            DataError: onnxruntime cannot run the model on the samples, or statistics that are not
                finite.
        """
        result = Recovered(masks=dict(masks), weights=self.masked(masks))
        dense = Stream(self.stages, self.feeds)
        pruned = dense.fork()
        rows: list[dict[str, Any]] = []
        todo: list[tuple[int, Operand]] = []
        for name in masks:
            layer = self.layers[name]
            found = find_operand(self.analyzer, layer)
            place = self.stages.place(layer.node.outputs[0].name or "")
            if isinstance(found, str) or place is None:
                why = found if isinstance(found, str) else "the node computes a constant"
                rows.append({"layer": layer.name, "method": "none", "why": why})
                pruned.weights[name] = tensor_of(result.weights[name], layer.tensor, name)
            else:
                odd = layer.node.op_type == "ConvTranspose" or (found.bias and found.bias.shared)
                if not shared_bias and odd:
                    found = replace(found, bias=None)
                todo.append((place, found))
        todo.sort(key=lambda pair: pair[0])
        self._last = None
        with one_thread():
            for number, (place, operand) in enumerate(todo[:until]):
                progress("recover", number / max(len(todo), 1))
                dense.advance(place)
                pruned.advance(place)
                name = operand.layer.value.name or ""
                started = time.perf_counter()
                train, other = self.statistics(operand, dense, pruned)
                collected = time.perf_counter()
                weight = np.asarray(operand.layer.tensor.numpy()).astype(np.float64)
                solved = solve_layer(
                    operand, weight, train, other, pattern, masks[name], method=method
                )
                self._take(operand, solved, result, pruned)
                rows.append(
                    {
                        "layer": operand.layer.name,
                        **solved.account,
                        "columns": train.columns,
                        "seconds": [
                            round(collected - started, 3),
                            round(time.perf_counter() - collected, 3),
                        ],
                    }
                )
        result.report["layers"] = rows
        return result

    def _take(self, operand: Operand, solved: Solved, result: Recovered, pruned: Stream) -> None:
        layer = operand.layer
        name = layer.value.name or ""
        dtype = np.asarray(layer.tensor.numpy()).dtype
        result.masks[name] = operand.unmatrix(solved.mask)
        array = operand.unmatrix(solved.weights).astype(dtype)
        array[~result.masks[name]] = 0
        result.weights[name] = array
        pruned.weights[name] = tensor_of(array, layer.tensor, name)
        if solved.shift is not None and operand.bias is not None:
            vector = operand.bias.moved(solved.shift.reshape(-1))
            result.biases.append((operand.bias, vector))
            self.edit(pruned, operand.bias, vector)

    def statistics(
        self, operand: Operand, dense: Stream, pruned: Stream
    ) -> tuple[Statistics, Statistics | None]:
        """Collect training and held-out moments of a layer."""
        source = operand.source
        total = sum(operand.count(v[source]) for v in pruned.values)
        size = int(np.prod(operand.layer.view_shape[2:]))
        share = min(1.0, self.columns(size) / max(total, 1))
        beside = shortcut_of(self.analyzer, operand)
        if beside is not None and any(beside not in v for v in (dense.values[0], pruned.values[0])):
            beside = None
        same = all(
            a[name] is b[name]
            for name in (source, *([beside] if beside else []))
            for a, b in zip(dense.values, pruned.values, strict=True)
        )
        if self._last is not None and self._last[0] == operand.key and same:
            return self._last[1], self._last[2]
        weight = np.asarray(operand.layer.tensor.numpy())
        matrix = operand.matrix(weight).astype(np.float32)
        sums = (Sums(), Sums())
        for index, (clean, thin) in enumerate(zip(dense.values, pruned.values, strict=True)):
            array = thin[source]
            limit = max(1, int(np.ceil(operand.count(array) * share)))
            chosen = operand.positions(array, limit, np.random.default_rng((self.seed, index)))
            columns = operand.columns(array, chosen)
            target = None
            if not same:
                target = np.matmul(matrix, operand.columns(clean[source], chosen))
                if beside is not None:
                    target += rows_like(operand, clean[beside] - thin[beside], chosen)
            sums[self.held[index]].add(columns, target)
        other = sums[1].result() if sums[1].columns else None
        train = sums[0].result() if sums[0].columns else other
        assert train is not None
        if same:
            self._last = (operand.key, train, other)
        return train, other


def apply_recovered(analyzer: Analyzer, recovered: Recovered) -> dict[str, Layer]:
    """Write the new weights and biases into the analyzed model.

    Returns:
        Names of biases that did not exist before, with the layer they were added to.
    """
    from onnxprune.passes.shrink import set_constant
    from onnxprune.rules.rewriter import Constants

    layers = {layer.value.name or "": layer for layer in find_layers(analyzer)}
    constants = Constants(analyzer.graph)
    created: dict[str, Layer] = {}
    for site, vector in recovered.biases:
        node, index = site.node, site.index
        old = node.inputs[index] if index < len(node.inputs) else None
        like = next((x.tensor for x in layers.values() if x.node is node), None)
        tensor = analyzer.tensor(old) if old is not None else like
        dtype = np.float32 if tensor is None else np.asarray(tensor.numpy()).dtype
        array = vector.astype(dtype)
        if old is not None:
            constants.replace(node, index, array)
            continue
        base = f"{node.name or node.outputs[0].name}_bias"
        if index >= len(node.inputs):
            node.resize_inputs(index + 1)
        bias = constants.add(base, array)
        node.replace_input_with(index, bias)
        owner = next((x for x in layers.values() if x.node is node), None)
        if owner is not None:
            created[bias.name or ""] = owner
    for name, array in recovered.weights.items():
        set_constant(layers[name].value, array)
    return created


def recover_masks(
    analyzer: Analyzer,
    plan: PrunePlan,
    feeds: Sequence[Feed],
    *,
    pattern: str,
    method: str = "auto",
    measured: bool = False,
    permute: bool = True,
    train: bool = True,
    fixed: Collection[str] = (),
    seed: int = 0,
    progress: Progress = quiet,
) -> Recovered:
    """Return the best values found for a mask plan; ``analyzer``'s model is not changed.

    Plain masking and sequential reconstruction are compared on the held-out feeds, and the one
    that agrees better with the dense network is returned.

    Args:
        analyzer: of the dense model.
        plan: masks; where masks are searched they only say how many units each layer keeps.
        feeds: calibration samples.
        pattern: spelling of the masks' pattern.
        method: see :meth:`Reconstruction.run`.
        measured: also try the division of the same number of weights over layers that a measured
            sensitivity table asks for.
        permute: for N:M, also try other orders of coupled channels.
        train: also train what was found, block-wise, with its masks fixed.
        fixed: names of layers whose number of weights stays as it is then.
        seed: for the draw of positions.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model on the feeds.
    """
    work = Reconstruction(analyzer, feeds, seed=seed)
    judge = work.judge()
    plain = Recovered(masks=dict(plan.masks), weights=work.masked(plan.masks))
    before = work.agreement(judge, plain.weights, [])
    masks: Mapping[str, npt.NDArray[np.bool_]] = plan.masks
    search = method != "given"
    if search and not measured:
        masks = spared(work, masks, parse_pattern(pattern), fixed)
    left_dense = [
        work.layers[name].name
        for name, mask in masks.items()
        if mask.all() and not plan.masks[name].all()
    ]
    found = work.run(masks, parse_pattern(pattern), method=method, progress=progress)
    best, least = plain, before.loss
    steps: list[dict[str, Any]] = [{"step": "mask", **before.as_dict(), "kept": True}]
    rows = found.report["layers"]
    tried = [("reconstruct", found)]
    kind = parse_pattern(pattern)
    if measured and search and kind.fixed_density is None:
        from onnxprune.recovery.apply_levels import divided_masks

        masks = divided_masks(work, plan.masks, kind, fixed=fixed, progress=progress)
        tried.append(("allocate", work.run(masks, kind, method=method, progress=progress)))
    for step, candidate in tried:
        after = work.agreement(judge, candidate.weights, candidate.biases)
        kept = after.loss <= least
        steps.append({"step": step, **after.as_dict(), "kept": kept})
        if kept:
            best, least, rows = candidate, after.loss, candidate.report["layers"]
    orders: dict[str, Any] = {}
    if permute and search and isinstance(kind, NM):
        other, orders = permuted(work, masks, kind, method, judge, progress)
        if other is not None:
            kept = orders["loss"] < least
            steps.append({"step": "permute", **orders, "kept": kept})
            if kept:
                best, least, rows = other, orders["loss"], other.report["layers"]
                assert other.analyzer is not None
                work = Reconstruction(other.analyzer, feeds, seed=seed)
    if train and (search or best is not plain):
        best, told = trained(work, judge, best, least, progress)
        steps.append(told)
    best.report = {
        "samples": int(sum(rows_of(f) for f in feeds)),
        "held_out": int(sum(rows_of(f) for f in work.held_feeds)),
        "steps": steps,
        "layers": rows,
        "spared": left_dense if rows is found.report["layers"] else [],
    }
    return best


def permuted(
    work: Reconstruction,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    pattern: NM,
    method: str,
    judge: Judge,
    progress: Progress,
) -> tuple[Recovered | None, dict[str, Any]]:
    """Reconstruct a reordered copy; None where no order of channels is better."""
    from onnxprune.recovery.apply_orders import as_rows, reorder

    found = reorder(work.analyzer, pattern, masks, work.feeds, seed=work.seed, progress=progress)
    if found is None:
        return None, {}
    other = Reconstruction(found.analyzer, work.feeds, seed=work.seed)
    result = other.run(masks, pattern, method=method, progress=progress)
    result.analyzer = found.analyzer
    result.orders = {o.group: list(o.order) for o in found.orders}
    after = other.agreement(judge, result.weights, result.biases)
    return result, {
        **after.as_dict(),
        "orders": as_rows(found),
        "refused": list(found.refused),
        "max_rel_error": found.proof["max_rel_error"],
    }


def trained(
    work: Reconstruction, judge: Judge, best: Recovered, least: float, progress: Progress
) -> tuple[Recovered, dict[str, Any]]:
    """Train what was found, masks fixed; return it if it helped, and the account of the step."""
    from onnxprune.gradients import NoGradient
    from onnxprune.recovery.train_masks import train_masks

    try:
        moved, after, account = train_masks(work, judge, best, progress=progress)
    except (NoGradient, DataError) as stop:  # what was found stands without
        return best, {"step": "train", "loss": least, "top1": None, "kept": False, "why": str(stop)}
    kept = after.loss < least
    step = {"step": "train", **after.as_dict(), "kept": kept, **account}
    return (moved if kept else best), step


def spared(
    work: Reconstruction,
    masks: Mapping[str, npt.NDArray[np.bool_]],
    pattern: Pattern,
    fixed: Collection[str] = (),
) -> dict[str, npt.NDArray[np.bool_]]:
    """Return masks of as many weights in which depth-wise layers stay dense.

    With one input channel a group, nothing is there to make up for a weight that goes, and there is
    little to gain: the layers are spared where they hold at most a tenth of the weights, and the
    others lose that much more. Layers in ``fixed`` and patterns of fixed density stay as they are.
    """
    found = dict(masks)
    if pattern.fixed_density is not None:
        return found
    free = [n for n in masks if work.layers[n].name not in fixed]
    thin = [n for n in free if work.layers[n].view_shape[0] > 1 == work.layers[n].view_shape[2]]
    others = [n for n in free if n not in thin]
    total = sum(masks[n].size for n in free)
    owed = sum(int((~masks[n]).sum()) for n in thin)
    kept = sum(int(masks[n].sum()) for n in others)
    if not thin or sum(masks[n].size for n in thin) > 0.1 * total or owed > 0.5 * kept:
        return found
    for name in thin:
        found[name] = np.ones_like(masks[name])
    for name in others:
        layer = work.layers[name]
        units = pattern.unit_scores(layer.view(masks[name]).astype(np.float32))
        keep = max(1, round(int(np.count_nonzero(units)) * (1 - owed / kept)))
        scores = np.abs(layer.view(layer.numbers().astype(np.float32)))
        found[name] = layer.unview(pattern.mask(scores, keep))
    return found


def rows_of(feed: Feed) -> int:
    """Return how many samples a feed holds."""
    sizes = {np.asarray(v).shape[0] for v in feed.values() if np.asarray(v).ndim}
    return sizes.pop() if len(sizes) == 1 else 1


__all__ = [
    "Reconstruction",
    "Recovered",
    "apply_recovered",
    "held_out",
    "recover_masks",
    "rows_of",
]
