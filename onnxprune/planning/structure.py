"""Choosing units: score every group, divide the sparsity, name what stays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from onnxprune.allocation import Item, allocate, resolve_overrides, solve_level
from onnxprune.allocation.base import round_keep
from onnxprune.axes import Bools, Group, Ids
from onnxprune.criteria import Criterion, Member, Role, parse_criterion
from onnxprune.errors import UsageError
from onnxprune.planning.cost import CostModel
from onnxprune.planning.kinds import kinds_of
from onnxprune.planning.layers import Layer, find_layers
from onnxprune.planning.options import SelectOptions
from onnxprune.planning.plan import Kept, PrunePlan
from onnxprune.rules.analysis import Analyzer

Axes = list[Ids | None]
#: By (number of the group, tensor, axis): scores of the group's units at that consumer.
Measurements = Mapping[tuple[int, str, int], np.ndarray[Any, np.dtype[np.float64]]]
_NORM_ROLES: dict[int, Role] = {1: "bn_scale", 2: "bias"}


@dataclass(frozen=True)
class ScoredGroup:
    """A group with its name for people, its kind, the layers that make it, and its scores."""

    name: str
    kind: str
    group: Group
    layers: tuple[str, ...]
    scores: np.ndarray[Any, np.dtype[np.float64]]
    dims: tuple[int, ...]


def _roles(analyzer: Analyzer, layers: list[Layer]) -> dict[tuple[str, int], Role]:
    """Return what each parameter axis is to the units along it."""
    roles: dict[tuple[str, int], Role] = {}
    for layer in layers:
        for axis, atoms in enumerate(layer.atoms):
            kinds = {role for role, size in atoms if size > 1} or {role for role, _ in atoms}
            role: Role = "in" if kinds == {"i"} else "out" if kinds & {"g", "o"} else "other"
            roles[layer.value.name or "", axis] = role
    for (value, use), _ in analyzer.parameters.items():
        if use is None:
            continue
        node, index = use
        role = "other"
        if node.op_type in ("BatchNormalization", "InstanceNormalization"):
            role = _NORM_ROLES.get(index, "other")
        elif node.op_type in ("Conv", "ConvTranspose", "Gemm", "Add") and index >= 1:
            role = "bias"
        for axis in range(len(value.shape or ())):
            roles.setdefault((value.name or "", axis), role)
    return roles


def members_of(
    group: Group,
    analyzer: Analyzer,
    roles: dict[tuple[str, int], Role],
    measured: Mapping[tuple[str, int], np.ndarray[Any, np.dtype[np.float64]]] | None = None,
) -> list[Member]:
    """Collect the parameter slices of a group's units, one member a parameter axis.

    Args:
        group: the units.
        analyzer: of the dense model.
        roles: what each parameter axis is to units along it.
        measured: by (tensor, axis), what samples said about the units there.
    """
    members = []
    for span in group.spans:
        stored = analyzer.stored(analyzer.by_name[span.tensor])
        if stored is None:
            continue
        array = np.moveaxis(stored.by_axis(), span.axis, 0)
        array = array.reshape(array.shape[0], -1)
        values = array[span.positions.reshape(-1)].reshape(len(group), -1)
        said = None if measured is None else measured.get((span.tensor, span.axis))
        role = roles.get((span.tensor, span.axis), "other")
        members.append(Member(role, span.tensor, values, said))
    return members


def score_groups(
    analyzer: Analyzer, criterion: Criterion, seed: int, measured: Measurements | None = None
) -> tuple[list[ScoredGroup], list[str]]:
    """Score the units of every group.

    Args:
        analyzer: of the dense model.
        criterion: what scores them.
        seed: for random scores.
        measured: what samples said, for a criterion that looks at activations.

    Returns:
        The groups in graph order, and caveats of the criterion.
    """
    layers = find_layers(analyzer)
    roles = _roles(analyzer, layers)
    by_tensor = {layer.value.name or "": layer for layer in layers}
    rng = np.random.default_rng(seed)
    scored: list[ScoredGroup] = []
    caveats: dict[str, None] = {}
    taken: set[str] = set()
    kinds = kinds_of(analyzer, layers)
    for index, group in enumerate(analyzer.groups):
        said = {key[1:]: v for key, v in (measured or {}).items() if key[0] == index}
        members = members_of(group, analyzer, roles, said)
        if not members:
            continue
        makers = tuple(
            by_tensor[s.tensor].name
            for s in group.spans
            if s.tensor in by_tensor and roles.get((s.tensor, s.axis)) == "out"
        )
        first = makers[0] if makers else group.name
        name = first if first not in taken else f"{first}#{len(taken)}"
        taken.add(name)
        caveat = criterion.caveat(members)
        if caveat:
            caveats.setdefault(f"{name}: {caveat}")
        maker = next((by_tensor[s.tensor] for s in group.spans if s.tensor in by_tensor), None)
        shape = maker.view_shape if maker else (1, len(group), 1)
        dims = (shape[0] * shape[1], shape[2], *shape[3:])
        scored.append(
            ScoredGroup(name, kinds[index], group, makers, criterion.unit(members, rng), dims)
        )
    return scored, list(caveats)


def _fixed(options: SelectOptions, scored: list[ScoredGroup], layers: list[Layer]) -> set[str]:
    """Return the names of groups that options or policies leave alone."""
    wanted = options.structures
    held = {
        s.name for s in scored if s.kind not in wanted or not options.wants([s.name, *s.layers])
    }
    ends = []
    if options.first_layer == "keep" and layers:
        ends.append(layers[0].value.name)
    if options.last_layer == "keep" and layers:
        ends.append(layers[-1].value.name)
    held |= {s.name for s in scored if any(span.tensor in ends for span in s.group.spans)}
    return held


def _overrides(options: SelectOptions, scored: list[ScoredGroup]) -> dict[str, float]:
    owner = {layer: s.name for s in scored for layer in (*s.layers, s.name)}
    found = resolve_overrides(list(owner), options.layers) if options.layers else {}
    return {owner[layer]: level for layer, level in found.items()}


def removed_by(analyzer: Analyzer, scored: list[ScoredGroup], keep: dict[str, int]) -> Bools:
    """Return the components that go: in every group those of least score."""
    removed = np.zeros(analyzer.partition.count, np.bool_)
    for s in scored:
        order = np.argsort(-s.scores, kind="stable")
        removed[s.group.labels[order[keep[s.name] :]]] = True
    return analyzer.partition.closed(removed)


def free_groups(analyzer: Analyzer, options: SelectOptions) -> tuple[list[ScoredGroup], list[int]]:
    """Return all groups with their scores, and the numbers of those that may lose any number.

    Left out of the latter are groups that ``--only``, ``--keep``, ``--layer`` or the policies for
    the first and last layer speak for.
    """
    criterion = parse_criterion(options.criterion)
    scored, _ = score_groups(analyzer, criterion, options.seed)
    held = _fixed(options, scored, find_layers(analyzer)) | set(_overrides(options, scored))
    return scored, [g for g, s in enumerate(scored) if s.name not in held]


def select_structure(
    analyzer: Analyzer, options: SelectOptions, measured: Measurements | None = None
) -> tuple[PrunePlan, list[str]]:
    """Choose the units to remove.

    Args:
        analyzer: of the dense model.
        options: what to select.
        measured: what samples said, for a criterion that looks at activations.

    Returns:
        The plan, and notes for the user.

    Raises:
        UsageError: nothing says how much to take, or the target cannot be reached.
    """
    if options.sparsity is None and not options.target and not options.layers:
        raise UsageError("say how much to prune: --sparsity, --target or --layer")
    criterion = parse_criterion(options.criterion)
    scored, notes = score_groups(analyzer, criterion, options.seed, measured)
    fixed = _fixed(options, scored, find_layers(analyzer))
    if scored and len(fixed) == len(scored) and not options.layers:
        raise UsageError(
            "--structure, --only / --keep and the first and last layer policies leave nothing to "
            f"prune; kinds of units here: {', '.join(sorted({s.kind for s in scored}))}; "
            f"layers that can be pruned: {', '.join(s.name for s in scored[:5])}"
            f"{', ...' if len(scored) > 5 else ''}"
        )
    overrides = {k: v for k, v in _overrides(options, scored).items() if k not in fixed}
    items = []
    for s in scored:
        n = len(s.group)
        held = n if s.name in fixed else None
        if s.name in overrides:
            held = round_keep((1 - overrides[s.name]) * n, n, options.align)
        items.append(Item(s.name, s.scores, dims=s.dims, degree=criterion.degree, fixed_keep=held))

    def choose(sparsity: float | None) -> dict[str, int]:
        # The level asked for is that of the groups nothing else speaks for.
        free = sum(i.n_units for i in items if i.fixed_keep is None)
        gone = sum(i.n_units - i.fixed_keep for i in items if i.fixed_keep is not None)
        total = free + gone + sum(i.fixed_keep for i in items if i.fixed_keep is not None)
        share = None
        if sparsity is not None:
            share = (sparsity * free + gone) / total if total else 0.0
        result = allocate(options.allocation, items, share, align=options.align)
        notes.extend(n for n in result.notes if n not in notes)
        return result.keep

    level = options.sparsity
    if options.target:
        ((what, wanted),) = options.target.items()
        count = CostModel(analyzer).counter(what)
        whole = count(None)

        def left(sparsity: float) -> float:
            return count(removed_by(analyzer, scored, choose(sparsity))) / whole if whole else 0.0

        level = solve_level(left, wanted, tol=0.002)
    keep = choose(level)
    removed = removed_by(analyzer, scored, keep)
    plan = plan_of(analyzer, removed)
    plan.options = options.as_dict()
    plan.through_norms = analyzer.through_norms
    for s in scored:
        gone = np.flatnonzero(removed[s.group.labels])
        plan.groups.append(
            {
                "name": s.name,
                "kind": s.kind,
                "units": len(s.group),
                "kept": len(s.group) - len(gone),
                "layers": list(s.layers),
                "removed": gone.tolist(),
            }
        )
    return plan, notes


def _entries(analyzer: Analyzer) -> Iterator[tuple[str, str, ir.TensorProtocol, Axes]]:
    """Yield (name, key of this use, tensor, ids of its axes) of every parameter.

    A vector that several nodes use may be cut differently at each; then the plan tells the later
    uses apart by the node and input that use it.
    """
    for (value, use), axes in analyzer.parameters.items():
        tensor = analyzer.tensor(value)
        if tensor is not None:
            name = value.name or ""
            key = name if use is None else f"{name}@{analyzer.label(use[0])}[{use[1]}]"
            yield name, key, tensor, axes


def plan_of(analyzer: Analyzer, removed: Bools) -> PrunePlan:
    """Write removed components down as kept indices of every tensor they touch."""
    plan = PrunePlan("structure")
    labels = analyzer.partition.labels
    first: dict[str, Kept] = {}
    for name, key, tensor, axes in _entries(analyzer):
        kept: Kept = [
            None
            if ids is None or not removed[labels[ids]].any()
            else np.flatnonzero(~removed[labels[ids]]).tolist()
            for ids in axes
        ]
        if name in first:
            if kept == first[name]:
                continue
            name = key
        elif all(k is None for k in kept):
            first[name] = kept
            continue
        first.setdefault(name, kept)
        plan.kept[name] = kept
        plan.shapes[name] = list(tensor.shape.numpy())
    return plan


def removed_from(analyzer: Analyzer, plan: PrunePlan) -> Bools:
    """Turn a plan back into the components to remove.

    Raises:
        UsageError: the plan does not fit this model: a tensor is missing or of another shape, or
            what the plan removes is tied here to something it keeps.
    """
    removed = np.zeros(analyzer.partition.count, np.bool_)
    told = removed.copy()
    labels = analyzer.partition.labels
    shapes = {}
    for name, key, tensor, axes in _entries(analyzer):
        shapes[name] = shapes[key] = tensor.shape.numpy()
        kept = plan.kept.get(key, plan.kept.get(name))
        if kept is not None:
            plan.check_shape(name if name in plan.shapes else key, shapes[name])
        for ids, stays in zip(axes, kept or [None] * len(axes), strict=False):
            if ids is not None:
                told[labels[ids]] = True
            if stays is not None and ids is not None:
                gone = np.ones(len(ids), np.bool_)
                gone[stays] = False
                removed[labels[ids[gone]]] = True
    removed = analyzer.partition.opened(removed, told)
    for name in plan.kept:
        plan.check_shape(name, shapes.get(name))
    held = np.flatnonzero(removed & analyzer.partition.frozen)
    if len(held):
        raise UsageError(
            "the plan removes something that must stay in this model: "
            f"{analyzer.partition.why(int(held[0]))}"
        )
    again = plan_of(analyzer, removed)
    for name, kept in again.kept.items():
        if plan.kept.get(name) != kept:
            raise UsageError(
                f"the plan does not fit this model: {name!r} would lose other coordinates than the "
                "plan says"
            )
    return removed
