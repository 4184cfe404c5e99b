"""Choosing weights: one mask a layer, in the canonical view."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from onnxprune.allocation import ALLOCATIONS, Item, allocate, resolve_overrides, solve_level
from onnxprune.allocation.base import round_keep
from onnxprune.criteria import Criterion, parse_criterion
from onnxprune.errors import UsageError
from onnxprune.patterns import Pattern, parse_pattern
from onnxprune.planning.bits import Bits
from onnxprune.planning.layers import Layer, find_layers
from onnxprune.planning.options import SelectOptions
from onnxprune.planning.plan import PrunePlan
from onnxprune.planning.streamed import stream_mask, streams
from onnxprune.rules.analysis import Analyzer

#: Scores by tensor name, in the canonical view; None where nothing was measured.
Measured = Mapping[str, np.ndarray[Any, Any]] | None


THREADS = 2  # layers whose masks are laid at once: numpy works without the interpreter's lock


@dataclass(frozen=True)
class Skipped:
    """A layer with weights that gets no mask, and why."""

    layer: str
    why: str


def choose_layers(
    layers: list[Layer], pattern: Pattern, options: SelectOptions
) -> tuple[list[Layer], list[Skipped]]:
    """Split layers into those that get a mask and those that do not.

    Raises:
        UsageError: nothing is left to prune.
    """
    chosen: list[Layer] = []
    skipped: list[Skipped] = []
    ends = {"first_layer": layers[:1], "last_layer": layers[-1:]}
    for layer in layers:
        misfit = pattern.misfit(layer.view_shape)
        policy = next(
            (
                what
                for what, held in ends.items()
                if layer in held and getattr(options, what) == "keep"
            ),
            None,
        )
        if not options.wants([layer.name, layer.value.name or ""]):
            skipped.append(Skipped(layer.name, "not selected by --only / --keep"))
        elif policy:
            skipped.append(Skipped(layer.name, f"policy {policy}=keep"))
        elif misfit or layer.stored.fault:
            skipped.append(Skipped(layer.name, misfit or layer.stored.fault))
        else:
            chosen.append(layer)
    if not chosen:
        reasons = "; ".join(f"{s.layer}: {s.why}" for s in skipped[:3]) or "it has no weights"
        raise UsageError(
            f"pattern {pattern.text} fits no layer of this model ({reasons}"
            f"{'; ...' if len(skipped) > 3 else ''}). Choose another pattern or other layers"
        )
    return chosen, skipped


def _items(
    layers: list[Layer],
    pattern: Pattern,
    criterion: Criterion,
    options: SelectOptions,
    overrides: dict[str, float],
    by_macs: bool,
    measured: Measured,
) -> list[Item]:
    strategy = ALLOCATIONS.get(options.allocation)
    needs_scores = getattr(strategy, "needs_scores", True)
    items: list[Item] = []
    for layer in layers:
        shape = layer.view_shape
        n = pattern.n_units(shape)
        if needs_scores:
            rng = np.random.default_rng((options.seed, len(items)))
            scores = pattern.unit_scores(_saliency(layer, criterion, rng, measured))
        else:
            scores = np.broadcast_to(np.float32(0), (n,))
        fixed = None
        if layer.name in overrides:
            fixed = round_keep((1 - overrides[layer.name]) * n, n, 1, 0)
        sizes = pattern.unit_sizes(shape)
        share = layer.macs / max(layer.size, 1) if by_macs else 1.0
        # All alike: one number instead of one a unit.
        alike = sizes.strides == (0,)
        weights = (float(sizes[0]) if n else 1.0) * share if alike else sizes * share
        dims = (shape[0] * shape[1], shape[2], *shape[3:])
        items.append(Item(layer.name, scores, weights, dims, fixed, criterion.degree))
    return items


def _weights(layer: Layer) -> np.ndarray[Any, Any]:
    return layer.view(layer.numbers())


def _keep_counts(
    items: list[Item], options: SelectOptions, share_of_rest: float | None
) -> dict[str, int]:
    """Divide ``share_of_rest`` (a fraction of the items that are not fixed) over the items."""
    if share_of_rest is None:
        return allocate(options.allocation, items, None).keep
    total = sum(i.total_weight for i in items)
    free = sum(i.total_weight for i in items if i.fixed_keep is None)
    gone = sum(i.removed_weight(i.fixed_keep) for i in items if i.fixed_keep is not None)
    share = min((share_of_rest * free + gone) / total, 1.0) if total else 0.0
    return allocate(options.allocation, items, share, min_keep=0).keep


def _saliency(
    layer: Layer, criterion: Criterion, rng: np.random.Generator, measured: Measured
) -> np.ndarray[Any, Any]:
    """Scores [G, O, I, *K]: those measured, or what the criterion says about the weights.

    Where nothing could be measured, magnitude stands in for a criterion that needs activations.
    """
    if measured is None:
        return criterion.elementwise(_weights(layer), rng)
    found = measured.get(layer.value.name or "")
    return parse_criterion("l1").elementwise(_weights(layer), rng) if found is None else found


def select_masks(
    analyzer: Analyzer, options: SelectOptions, measured: Measured = None
) -> tuple[PrunePlan, list[Skipped]]:
    """Choose the weights that stay, a mask a layer.

    Args:
        analyzer: of the dense model.
        options: what to select.
        measured: by tensor name, scores in the canonical view, for a criterion that looks at
            activations.

    Returns:
        The plan, and the layers that were left alone.

    Raises:
        UsageError: nothing says how much to take, the pattern fits no layer, or a target cannot be
            reached.
    """
    pattern = parse_pattern(options.pattern)
    criterion = parse_criterion(options.criterion)
    every = find_layers(analyzer)
    layers, skipped = choose_layers(every, pattern, options)
    overrides = resolve_overrides([x.name for x in layers], options.layers)
    counts: dict[str, int] | None = None
    if pattern.fixed_density is None:
        counts = _counts(every, layers, pattern, criterion, options, overrides, measured)
    elif options.target or options.layers:
        raise UsageError(f"pattern {pattern.text} fixes its own sparsity; give no other level")
    elif options.sparsity is not None and abs(1 - options.sparsity - pattern.fixed_density) > 1e-6:
        raise UsageError(
            f"pattern {pattern.text} removes {1 - pattern.fixed_density:g} of the weights, "
            f"not {options.sparsity:g}; leave --sparsity out"
        )
    plan = PrunePlan("mask", options=options.as_dict())
    large = [x for x in layers if measured is None and streams(x, pattern, criterion)]
    laid = _lay_large(large, pattern, criterion, counts)
    for index, layer in enumerate(layers):
        keep = None if counts is None else counts[layer.name]
        name = layer.value.name or ""
        if layer.name in laid:
            bits, hollow = laid[layer.name]
            plan.masks.put(name, bits, layer.shape)
            plan.masks.hollow[name] = hollow
        else:
            rng = np.random.default_rng((options.seed, index))
            saliency = _saliency(layer, criterion, rng, measured)
            plan.masks[name] = layer.unview(pattern.mask(saliency, keep))
        plan.shapes[name] = list(layer.shape)
        plan.groups.append(
            {
                "name": layer.name,
                "tensor": name,
                "weights": layer.size,
                "kept": plan.masks.kept(name),
            }
        )
    return plan, skipped


def _lay_large(
    layers: list[Layer], pattern: Pattern, criterion: Criterion, counts: dict[str, int] | None
) -> dict[str, tuple[Bits, int]]:
    """Return the masks of large layers, as bits, two layers at a time."""

    def lay(layer: Layer) -> tuple[Bits, int]:
        keep = None if counts is None else counts[layer.name]
        return stream_mask(layer, pattern, criterion, keep)

    with ThreadPoolExecutor(THREADS) as pool:
        return dict(zip([x.name for x in layers], pool.map(lay, layers), strict=True))


def _counts(
    every: list[Layer],
    layers: list[Layer],
    pattern: Pattern,
    criterion: Criterion,
    options: SelectOptions,
    overrides: dict[str, float],
    measured: Measured,
) -> dict[str, int]:
    if options.sparsity is None and not options.target and not overrides:
        raise UsageError("say how much to prune: --sparsity, --target or --layer")
    by_macs = "macs" in options.target
    items = _items(layers, pattern, criterion, options, overrides, by_macs, measured)
    if not options.target:
        return _keep_counts(items, options, options.sparsity)
    ((what, wanted),) = options.target.items()
    whole = float(sum(x.macs if what == "macs" else x.size for x in every))

    def left(sparsity: float) -> float:
        keep = _keep_counts(items, options, sparsity)
        if what == "bytes":
            return _stored_share(every, {i.name: i.removed_weight(keep[i.name]) for i in items})
        return 1 - sum(i.removed_weight(keep[i.name]) for i in items) / whole

    return _keep_counts(items, options, solve_level(left, wanted, tol=0.0005))


def _stored_share(layers: list[Layer], removed: Mapping[str, float]) -> float:
    """Bytes of weights kept with a bit each that says where they are, or dense where that is less.

    The smallest format that ``convert`` knows may be smaller still.
    """
    dense = stored = 0.0
    for layer in layers:
        size = layer.size * layer.tensor.dtype.itemsize
        kept = 1 - removed.get(layer.name, 0.0) / max(layer.size, 1)
        dense += size
        stored += min(size, size * kept + layer.size / 8)
    return stored / dense if dense else 0.0
