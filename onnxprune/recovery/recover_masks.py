"""Mask plans recovered step by step, each kept only if the held-out agreement gains."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.calibration.samples import rows_of
from onnxprune.errors import DataError
from onnxprune.gradients import NoGradient
from onnxprune.patterns import Pattern, parse_pattern
from onnxprune.planning import PrunePlan
from onnxprune.recovery.apply import Feed, Progress, Reconstruction, Recovered, quiet
from onnxprune.recovery.apply_levels import divided_masks
from onnxprune.recovery.apply_orders import as_rows, reorder
from onnxprune.recovery.journal import Journal
from onnxprune.recovery.solve_layers import solve_layers
from onnxprune.recovery.steps import MASK_STEPS
from onnxprune.recovery.train_masks import train_masks
from onnxprune.rules.analysis import Analyzer

Masks = Mapping[str, npt.NDArray[np.bool_]]
_MENDED = 0.1
"""Share of what zeros alone do that may be left, for the even division not to be solved as well."""


class Contest:
    """The best candidate so far and the account of all."""

    def __init__(self, judge: Judge, plain: Recovered, before: Agreement) -> None:
        """Start from zeros alone."""
        self.judge = judge
        self.best, self.agreement, self.plain = plain, before, before
        self.steps: list[dict[str, Any]] = [{"step": "mask", **before.as_dict(), "kept": True}]

    def enter(
        self, step: str, candidate: Recovered, after: Agreement, told: Mapping[str, Any] = {}
    ) -> bool:
        """Take a candidate if it agrees better, and write down the step."""
        kept = after.loss < self.agreement.loss or (step == "reconstruct" and not after.loss)
        kept = kept and after.no_worse(self.plain)
        self.steps.append({"step": step, **after.as_dict(), "kept": kept, **told})
        if kept:
            self.best, self.agreement = candidate, after
        return kept

    def leave(self, step: str, why: str) -> None:
        """Write down a step that was not taken."""
        held = {"loss": self.agreement.loss, "top1": None, "kept": False}
        self.steps.append({"step": step, **held, "why": why})

    @property
    def mended(self) -> bool:
        """Whether little is left of what zeros alone do.

        The table behind a division by measurement adds up what single layers do, which need not
        hold for all together.
        """
        return self.settled or self.agreement.loss <= _MENDED * self.steps[0]["loss"]

    @property
    def settled(self) -> bool:
        """Whether nothing is left to gain."""
        return self.judge.close(self.agreement)


def recover_masks(
    analyzer: Analyzer,
    plan: PrunePlan,
    feeds: Sequence[Feed],
    *,
    pattern: str,
    method: str = "auto",
    steps: Collection[str] = MASK_STEPS,
    fixed: Collection[str] = (),
    passes: float = 1.0,
    journal: Journal | None = None,
    seed: int = 0,
    progress: Progress = quiet,
) -> Recovered:
    """Return the best values found for a mask plan; ``analyzer``'s model is not changed.

    Every step is judged on the held-out feeds and kept only if it agrees better with the dense
    network; once the outputs are as good as the dense ones, the steps that are left are not taken.

    Args:
        analyzer: of the dense model.
        plan: masks; where masks are searched they only say how many units each layer keeps.
        feeds: calibration samples.
        pattern: spelling of the masks' pattern.
        method: see :func:`~onnxprune.recovery.solve_layers.solve_layers`.
        steps: of :data:`MASK_STEPS`: solve layer by layer, masks searched unless ``method``
            forbids; where a measured table promises enough, divide the same number of weights by
            it first, solve these masks, and solve the even division only if they did not mend
            what was promised; solve all this in better orders of coupled channels, where the
            pattern ties neighbours, and in the present ones only if that was worse than zeros;
            train block-wise, masks fixed.
        fixed: names of layers whose number of weights stays as it is.
        passes: share of the passes that training takes otherwise.
        journal: where answers are kept and taken from.
        seed: for the draw of positions.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model on the feeds.
    """
    work = Reconstruction(analyzer, feeds, journal=journal, seed=seed)
    judge = work.judge()
    widened = work.widen(judge)
    if widened:
        judge = work.judge()
    plain = Recovered(masks=dict(plan.masks), weights=work.masked(plan.masks))
    contest = Contest(judge, plain, work.agreement(judge, plain.weights, []))
    kind = parse_pattern(pattern)
    search = method != "given"
    even: Masks = plan.masks
    if search:
        even = spared(work, even, kind, fixed)
    left_dense = left_out(work, even, plan.masks)
    rows: list[dict[str, Any]] = []

    def enter(step: str, wanted: Masks, found: Recovered, told: Mapping[str, Any] = {}) -> bool:
        nonlocal left_dense, rows
        other = found.analyzer if found.analyzer is not work.analyzer else None
        own = work if other is None else work.of(other)
        after = own.agreement(judge, found.weights, found.biases)
        kept = contest.enter(step, found, after, told)
        rows = found.report["layers"] if kept or not rows else rows
        left_dense = left_out(work, wanted, plan.masks) if kept else left_dense
        return kept

    # Weights that vary leave fewer samples: held-out ones tell which way is better.
    solving = set(steps) - {"train"} and not contest.settled
    ways = (True, False) if solving and work.saliency.layers else (False,)
    divided: Masks | None = None
    if "allocate" in steps and search and kind.fixed_density is None and not contest.settled:
        parted = divided_masks(work, even, kind, fixed=fixed, progress=progress)
        if isinstance(parted, str):
            contest.leave("allocate", parted)
        else:
            divided = parted
    turned: Recovered | None = None
    if "permute" in steps and search and not contest.settled:
        first = even if divided is None else divided
        for found, told in permuted(work, first, kind, method, ways, progress):
            if enter("permute", first, found, told):
                turned = found
        if turned is not None and turned.analyzer is not None:
            work = work.of(turned.analyzer)

    def solve(step: str, wanted: Masks) -> None:
        for weighed in ways:
            found = solve_layers(
                work, wanted, kind, method=method, weighed=weighed, progress=progress
            )
            if turned is not None:
                found.analyzer, found.orders = turned.analyzer, turned.orders
            enter(step, wanted, found, {"weighed": weighed} if len(ways) > 1 else {})

    if divided is not None and turned is None:
        solve("allocate", divided)
    done = turned is not None if divided is None else contest.mended
    if "reconstruct" in steps and not done:
        solve("reconstruct", even)
    if "train" in steps and (search or contest.best is not plain) and not contest.settled:
        try:
            moved, after, told = train_masks(
                work, judge, contest.best, passes=passes, progress=progress
            )
            contest.enter("train", moved, after, told)
        except (NoGradient, DataError) as stop:  # what was found stands without
            contest.leave("train", str(stop))
    best = contest.best
    best.holes = any(judge.holes)
    best.report = {
        "samples": int(sum(rows_of(f) for f in feeds)),
        "held_out": int(sum(rows_of(f) for f in work.held_feeds)) // work.copies,
        "mirrored": widened,
        "steps": contest.steps,
        "layers": rows,
        "spared": left_dense if best is not plain else [],
    }
    return best


def left_out(work: Reconstruction, masks: Masks, asked: Masks) -> list[str]:
    """Return the names of layers that stay dense although the plan has masks for them."""
    return [
        work.layers[name].name
        for name, mask in masks.items()
        if mask.all() and not asked[name].all()
    ]


def permuted(
    work: Reconstruction,
    masks: Masks,
    pattern: Pattern,
    method: str,
    ways: Sequence[bool],
    progress: Progress,
) -> Iterator[tuple[Recovered, dict[str, Any]]]:
    """Yield reconstructions of a reordered copy, with columns that count by their saliency or not.

    There are none where no order of channels is better.
    """
    found = reorder(work.analyzer, pattern, masks, work.feeds, seed=work.seed, progress=progress)
    if found is None:
        return
    other = work.of(found.analyzer)
    for weighed in ways:
        result = solve_layers(
            other, masks, pattern, method=method, weighed=weighed, progress=progress
        )
        result.analyzer = found.analyzer
        result.orders = {o.group: list(o.order) for o in found.orders}
        yield (
            result,
            {
                "orders": as_rows(found),
                "refused": list(found.refused),
                "max_rel_error": found.proof["max_rel_error"],
                **({"weighed": weighed} if len(ways) > 1 else {}),
            },
        )


def spared(
    work: Reconstruction,
    masks: Masks,
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
    thin = [n for n in free if work.layers[n].depthwise]
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
