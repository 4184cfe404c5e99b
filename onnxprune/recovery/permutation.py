"""Channel permutation: which channels share a bucket, so that the pattern loses less score.

Three moves on a score matrix [rows, channels] (``w^2 / diag(H^-1)`` or ``|w|``; the rows are what a
bucket is masked at: outputs or inputs, and kernel positions):

1. a start: for N:M that of RIA (Zhang et al. 2024), channels sorted by total score and dealt to the
   buckets in snake order; for blocks, channels put to those whose large scores lie where theirs do;
2. assignment moves (RIA): one channel is taken out of every bucket and all are put back optimally
   through linear sum assignment;
3. stripe groups, as in apex (Pool and Yu 2021): all 35 ways to split two buckets of four channels
   (exchanges of two where there are too many ways), for every pair of buckets, best disjoint
   improvements first; then small random kicks and again.

What a bucket is worth says a rule of :mod:`.bucket_rules`. Only the contents of the buckets are
searched: their order, and the order inside, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.optimize import linear_sum_assignment

from onnxprune.calibration.blas import side_by_side
from onnxprune.errors import UsageError
from onnxprune.recovery.bucket_rules import F32, BucketRule
from onnxprune.recovery.problem import F64, Ints

#: Splits of a pair of buckets are all tried up to this many, else single exchanges only.
MAX_SPLITS = 200
#: Relative gains below this are rounding of the fp32 search.
NOISE = 1e-6
#: Entries handled at once when many buckets are scored: what the caches hold; and from how many
#: on several threads share them.
CHUNK, SHARED = 1 << 18, 1 << 20
#: Entries, over their bucket size, of the splits of pairs that are listed at once.
PAIRS = 1 << 21
#: A round of assignment moves may take this share of the budget; of more buckets it takes parts.
ROUND = 1 / 16


@dataclass(frozen=True)
class Permutation:
    """Result of a search.

    Attributes:
        order: ``order[i]`` is the old channel at new position i [channels].
        kept: score kept by the pattern after the permutation.
        kept_before: score kept by the pattern in the original order.
        upper: score kept by unstructured pruning at the same density.
    """

    order: Ints
    kept: float
    kept_before: float
    upper: float

    @property
    def efficacy(self) -> float:
        """Share of the gap between the pattern and unstructured that the permutation closes."""
        gap = self.upper - self.kept_before
        return (self.kept - self.kept_before) / gap if gap > 0 else 0.0


def search_permutation(
    scores: F64, rule: BucketRule, *, effort: int = 4, seed: int = 0, budget: float | None = None
) -> Permutation:
    """Find an order of the channels that keeps more score under a pattern.

    Args:
        scores: non-negative [rows, channels]; channels must be a multiple of the rule's m.
        rule: what a bucket keeps.
        effort: random kicks after the first optimum (each costs a fraction of the first search).
        seed: of the kicks; same seed, same result.
        budget: scored entries after which the search stops where it is; bounds the time of large
            layers (about 1e9 a few seconds on one core); the rule's own when None.

    Raises:
        UsageError: channels are not a multiple of m.
    """
    channels = scores.shape[1]
    scores = np.asarray(scores, dtype=np.float64)
    if channels % rule.m:
        raise UsageError(
            f"{channels} channels cannot be cut into buckets of {rule.m}: leave this layer "
            "unpermuted"
        )
    identity = np.arange(channels, dtype=np.int64).reshape(-1, rule.m)
    rng = np.random.default_rng(seed)
    search = _Search(scores, rule, rule.budget if budget is None else budget, rng)
    before = rule.kept(scores, identity.ravel())
    best, value = identity, before

    def better(trial: Ints) -> None:
        nonlocal best, value
        kept = rule.kept(scores, trial.ravel())
        if kept > value:
            best, value = trial, kept
            search.settle(best)

    search.settle(identity)
    better(search.assign(rule.start(search.columns, search.limits), rounds=2 * rule.m))
    better(search.refine(best, rng))
    for _ in range(effort if channels > rule.m else 0):
        if search.spent > search.budget:
            break
        better(search.refine(_kick(best, rng), rng))
    return Permutation(best.ravel(), value, before, rule.upper(scores))


def _kick(buckets: Ints, rng: np.random.Generator) -> Ints:
    """Shuffle the channels of an eighth of the buckets (at least two) among themselves."""
    count = min(len(buckets), max(2, len(buckets) // 8))
    chosen = np.sort(rng.permutation(len(buckets))[:count])
    out: Ints = buckets.copy()
    out[chosen] = rng.permutation(buckets[chosen].ravel()).reshape(count, -1)
    return out


class _Search:
    """Moves over a set of buckets [B, m] of channel numbers; ``columns`` is [channels, rows].

    The search runs in fp32, which only has to rank moves; gains below 1e-6 of the total are noise.
    """

    def __init__(
        self, scores: F64, rule: BucketRule, budget: float, rng: np.random.Generator
    ) -> None:
        self.scores, self.rule = scores, rule
        self.scale = float(scores.mean()) or 1.0
        self.rows = rule.rows((len(scores), scores.shape[1]), rng)
        chosen = scores if self.rows is None else scores[self.rows]
        self.columns: F32 = (chosen.T / self.scale).astype(np.float32, order="C")
        self.limits: F32 | None = None
        self.budget = budget
        self.spent = 0.0
        m = self.m = rule.m
        halves = [(0, *rest) for rest in combinations(range(1, 2 * m), m - 1)]
        if len(halves) > MAX_SPLITS:
            swaps = [(i, j) for i in range(m) for j in range(m)]
            halves = [tuple(range(m))] + [
                tuple(sorted({*range(m)} - {i} | {m + j})) for i, j in swaps
            ]
        self.left = np.array(halves, dtype=np.int64)
        everything = set(range(2 * m))
        self.right = np.array([sorted(everything - set(h)) for h in halves], dtype=np.int64)

    def settle(self, buckets: Ints) -> None:
        """Judge buckets from now on by what the best mask for these ones does."""
        limits = self.rule.limits(self.scores, buckets.ravel())
        if limits is not None:
            limits = limits if self.rows is None else limits[self.rows]
            self.limits = (limits / self.scale).astype(np.float32)

    def kept(self, buckets: Ints) -> F64:
        """Worth of each bucket [B] of channels [B, m]."""
        out = np.empty(len(buckets))
        step = max(1, CHUNK // max(1, self.m * self.columns.shape[1]))

        def judge(start: int) -> None:
            part = buckets[start : start + step]
            lanes = [self.columns[part[:, i]] for i in range(self.m)]
            out[start : start + step] = self.rule.value(lanes, self.limits)

        entries = buckets.size * self.columns.shape[1]
        side_by_side(judge, range(0, len(buckets), step), worth=entries >= SHARED)
        self.spent += entries
        return out

    def assign(self, buckets: Ints, rounds: int, rng: np.random.Generator | None = None) -> Ints:
        """Take one channel out of every bucket and put all back optimally, ``rounds`` times."""
        out: Ints = buckets.copy()
        count = len(out)
        round_of = self.budget * ROUND / max(1, out.size * self.columns.shape[1])
        size = min(count, max(16, int(round_of)))
        for turn in range(rounds):
            if self.spent > self.budget:
                break
            places = np.arange(count)
            if rng is not None:
                out = rng.permuted(out, axis=1)
                places = rng.permutation(count) if size < count else places
            for start in range(0, count, size):
                which = places[start : start + size]
                out[which] = self._reassign(out[which], turn % self.m)
        return out

    def _reassign(self, buckets: Ints, slot: int) -> Ints:
        """Put what is in a slot of every bucket back optimally."""
        count = len(buckets)
        free = buckets[:, slot]
        trial = np.empty((count, count, self.m), dtype=np.int64)
        trial[:, :, 1:] = np.delete(buckets, slot, axis=1)[:, None, :]
        trial[:, :, 0] = free[None, :]
        value = self.kept(trial.reshape(-1, self.m)).reshape(count, count)
        rows, chosen = linear_sum_assignment(value, maximize=True)
        if value[rows, chosen].sum() > np.trace(value) * (1 + NOISE):
            buckets = buckets.copy()
            buckets[:, slot] = free[chosen]
        return buckets

    def refine(self, buckets: Ints, rng: np.random.Generator) -> Ints:
        """Alternate assignment moves and stripe groups until neither gains."""
        value = float(self.kept(buckets).sum())
        while self.spent <= self.budget:
            buckets = self.assign(buckets, 2 * self.m, rng)
            buckets = self.stripes(buckets, rng)
            fresh = float(self.kept(buckets).sum())
            if fresh <= value * (1 + NOISE):
                break
            value = fresh
        return buckets

    def stripes(self, buckets: Ints, rng: np.random.Generator) -> Ints:
        """Improve pairs of buckets by their best split until no pair gains.

        Where the budget does not reach for all pairs, a random part of them is tried.
        """
        out: Ints = buckets.copy()
        current = self.kept(out)
        pairs = np.array(list(combinations(range(len(out)), 2)), dtype=np.int64).reshape(-1, 2)
        price = 2 * self.left.size * self.columns.shape[1]
        affordable = int(max(0.0, self.budget - self.spent) // price)
        if affordable < len(pairs):
            pairs = pairs[np.sort(rng.permutation(len(pairs))[:affordable])]
        gain = np.full(len(pairs), -np.inf)
        split = np.zeros(len(pairs), dtype=np.int64)
        stale = np.ones(len(pairs), dtype=np.bool_)
        while stale.any() and self.spent <= self.budget:
            which = np.flatnonzero(stale)
            gain[which], split[which] = self._best_splits(out, current, pairs[which])
            stale[:] = False
            touched = np.zeros(len(out), dtype=np.bool_)
            floor = NOISE * max(float(current.sum()), 1e-300)
            for index in np.argsort(-gain, kind="stable"):
                if gain[index] <= floor:
                    break
                a, b = pairs[index]
                if touched[a] or touched[b]:
                    continue
                both = np.concatenate([out[a], out[b]])
                out[a], out[b] = both[self.left[split[index]]], both[self.right[split[index]]]
                touched[a] = touched[b] = True
            changed = np.flatnonzero(touched)
            current[changed] = self.kept(out[changed])
            stale[:] = touched[pairs].any(axis=1)
        return out

    def _best_splits(self, buckets: Ints, current: F64, pairs: Ints) -> tuple[F64, Ints]:
        """Gain and number of the best split of every pair."""
        gains = np.empty(len(pairs))
        splits = np.empty(len(pairs), dtype=np.int64)
        step = max(1, PAIRS // max(1, len(self.left) * self.columns.shape[1]))
        for start in range(0, len(pairs), step):
            part = pairs[start : start + step]
            both = np.concatenate([buckets[part[:, 0]], buckets[part[:, 1]]], axis=1)
            value = (
                self.kept(both[:, self.left].reshape(-1, self.m))
                + self.kept(both[:, self.right].reshape(-1, self.m))
            ).reshape(len(part), -1)
            best = value.argmax(axis=1)
            splits[start : start + step] = best
            gains[start : start + step] = value[np.arange(len(part)), best] - current[part].sum(
                axis=1
            )
        return gains, splits
