"""Channel permutation for N:M: which input channels share a bucket, so that less score is lost.

Three moves on a score matrix [rows, channels] (``w^2 / diag(H^-1)`` or ``|w|``; the rows are every
output and kernel position):

1. the start of RIA (Zhang et al. 2024): channels sorted by total score are dealt to the buckets in
   snake order, then re-dealt rank by rank through linear sum assignment;
2. assignment moves: one channel is taken out of every bucket and all are put back optimally;
3. stripe groups, as in apex (Pool and Yu 2021): all 35 ways to split two 2:4 buckets' channels, for
   every pair of buckets, best disjoint improvements first; then small random kicks and again.

Only the contents of the buckets are searched: their order, and the order inside, changes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from onnxprune.errors import UsageError
from onnxprune.recovery.problem import F64, Ints

F32 = npt.NDArray[np.float32]

#: Splits of a pair of buckets are all tried up to this many, else single exchanges only.
MAX_SPLITS = 200
#: Relative gains below this are rounding of the fp32 search.
NOISE = 1e-6
#: Entries handled at once when many buckets are scored.
CHUNK = 1 << 21


@dataclass(frozen=True)
class Permutation:
    """Result of a search.

    Attributes:
        order: ``order[i]`` is the old channel at new position i [channels].
        kept: score kept by N:M after the permutation.
        kept_before: score kept by N:M in the original order.
        upper: score kept by unstructured pruning at the same density.
    """

    order: Ints
    kept: float
    kept_before: float
    upper: float

    @property
    def efficacy(self) -> float:
        """Share of the gap between plain N:M and unstructured that the permutation closes."""
        gap = self.upper - self.kept_before
        return (self.kept - self.kept_before) / gap if gap > 0 else 0.0


def search_permutation(
    scores: F64, n: int, m: int, *, effort: int = 4, seed: int = 0, budget: float = 4e9
) -> Permutation:
    """Find an order of the input channels that keeps more score under N:M.

    Args:
        scores: non-negative [rows, channels]; channels must be a multiple of m.
        n, m: the pattern.
        effort: random kicks after the first optimum (each costs a fraction of the first search).
        seed: of the kicks; same seed, same result.
        budget: scored entries after which the search stops where it is; bounds the time of large
            layers (about 1e9 a few seconds on one core).

    Raises:
        UsageError: channels are not a multiple of m.
    """
    rows, channels = scores.shape
    scores = np.asarray(scores, dtype=np.float64)
    if channels % m:
        raise UsageError(
            f"{channels} channels cannot be cut into buckets of {m}: leave this layer unpermuted"
        )
    identity = np.arange(channels, dtype=np.int64).reshape(-1, m)
    scale = float(scores.mean()) or 1.0
    search = _Search((scores.T / scale).astype(np.float32, order="C"), n, m, budget)
    starts = [identity, search.assign(search.snake(), rounds=2 * m)]
    best = max(starts, key=lambda buckets: float(search.kept(buckets).sum()))
    rng = np.random.default_rng(seed)
    best = search.refine(best, rng)
    value = float(search.kept(best).sum())
    for _ in range(effort if channels > m else 0):
        if search.spent > budget:
            break
        trial = search.refine(_kick(best, rng), rng)
        trial_value = float(search.kept(trial).sum())
        if trial_value > value:
            best, value = trial, trial_value
    count = rows * channels * n // m
    flat = np.partition(scores.ravel(), rows * channels - count)
    upper = float(flat[rows * channels - count :].sum())
    before, after = (_kept_exactly(scores, order, n, m) for order in (identity, best))
    if after <= before:
        best, after = identity, before
    return Permutation(best.ravel(), after, before, upper)


def _kept_exactly(scores: F64, buckets: Ints, n: int, m: int) -> float:
    """Score kept by N:M in fp64 when the channels stand in the order of ``buckets`` [B, m]."""
    groups = scores[:, buckets.ravel()].reshape(-1, m)
    return float(np.partition(groups, m - n, axis=1)[:, m - n :].sum())


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

    def __init__(self, columns: F32, n: int, m: int, budget: float) -> None:
        self.columns = columns
        self.n, self.m = n, m
        self.budget = budget
        self.spent = 0.0
        halves = [(0, *rest) for rest in combinations(range(1, 2 * m), m - 1)]
        if len(halves) > MAX_SPLITS:
            swaps = [(i, j) for i in range(m) for j in range(m)]
            halves = [tuple(range(m))] + [
                tuple(sorted({*range(m)} - {i} | {m + j})) for i, j in swaps
            ]
        self.left = np.array(halves, dtype=np.int64)
        everything = set(range(2 * m))
        self.right = np.array([sorted(everything - set(h)) for h in halves], dtype=np.int64)

    def kept(self, buckets: Ints) -> F64:
        """Score kept in each bucket [B] of channels [B, m]."""
        out = np.empty(len(buckets))
        step = max(1, CHUNK // max(1, self.m * self.columns.shape[1]))
        for start in range(0, len(buckets), step):
            out[start : start + step] = self._top(buckets[start : start + step])
        self.spent += buckets.size * self.columns.shape[1]
        return out

    def _top(self, buckets: Ints) -> F64:
        lanes = [self.columns[buckets[:, i]] for i in range(self.m)]
        if (self.n, self.m) == (2, 4):
            # The top two of four are one of each pair, or a whole pair.
            first, second = lanes[0] + lanes[1], lanes[2] + lanes[3]
            mixed = np.maximum(lanes[0], lanes[1]) + np.maximum(lanes[2], lanes[3])
            top: F64 = np.maximum(np.maximum(first, second), mixed).sum(axis=1, dtype=np.float64)
            return top
        stacked = np.stack(lanes)
        stacked.partition(self.m - self.n, axis=0)
        summed: F64 = stacked[self.m - self.n :].sum(axis=(0, 2), dtype=np.float64)
        return summed

    def snake(self) -> Ints:
        """Deal the channels by falling total score to the buckets, back and forth."""
        ranked = np.argsort(-self.columns.sum(axis=1), kind="stable").reshape(self.m, -1)
        ranked[1::2] = ranked[1::2, ::-1].copy()
        return np.ascontiguousarray(ranked.T)

    def assign(self, buckets: Ints, rounds: int, rng: np.random.Generator | None = None) -> Ints:
        """Take one channel out of every bucket and put all back optimally, ``rounds`` times."""
        out: Ints = buckets.copy()
        count = len(out)
        for turn in range(rounds):
            if self.spent > self.budget:
                break
            if rng is not None:
                out = rng.permuted(out, axis=1)
            slot = turn % self.m
            rest = np.delete(out, slot, axis=1)
            free = out[:, slot]
            trial = np.empty((count, count, self.m), dtype=np.int64)
            trial[:, :, 1:] = rest[:, None, :]
            trial[:, :, 0] = free[None, :]
            value = self.kept(trial.reshape(-1, self.m)).reshape(count, count)
            rows, chosen = linear_sum_assignment(value, maximize=True)
            if value[rows, chosen].sum() > np.trace(value) * (1 + NOISE):
                out[:, slot] = free[chosen]
        return out

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
        step = max(1, CHUNK // max(1, len(self.left) * self.columns.shape[1]))
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
