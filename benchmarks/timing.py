"""Interleaved timing of several contenders in one process: rounds, medians, ratios to the first."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median
from typing import Any

TICK = 0.02
"""Seconds a measurement lasts at least; short runs are repeated."""
REST = 0.004
"""Seconds between contenders, so that a pool's threads have stopped spinning."""

Run = Callable[[], Any]


def rounds(contenders: Mapping[str, Run], seconds: float, least: int = 5) -> dict[str, list[float]]:
    """Measure every contender once a round, in an order that turns, for about ``seconds`` in all.

    Each measurement starts with one run that is not counted (caches and threads wake up) and is
    the median of the runs after it. Returns seconds an inference by contender, one a round.
    """
    repeats = {}
    for name, run in contenders.items():
        run()
        repeats[name] = max(2, round(TICK / max(_once(run), 1e-9)))
    times: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    start = time.perf_counter()
    done = 0
    while done < least or time.perf_counter() - start < seconds:
        for name in names[done % len(names) :] + names[: done % len(names)]:
            time.sleep(REST)
            run = contenders[name]
            run()
            times[name].append(median(_once(run) for _ in range(repeats[name])))
        done += 1
    return times


def ratio(reference: list[float], times: list[float]) -> float:
    """Median over the rounds of reference / time: how many times as fast."""
    return median(a / b for a, b in zip(reference, times, strict=True))


def _once(run: Run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start
