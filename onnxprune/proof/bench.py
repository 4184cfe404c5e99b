"""How fast models run: interleaved rounds, medians, ratios to the first."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from onnxprune import io
from onnxprune.calibration.feeds import Feed, open_feeds, working_feeds
from onnxprune.errors import DataError, LoadError, UsageError
from onnxprune.io import Source
from onnxprune.proof.validate import RUNTIMES
from onnxprune.runtime import session

MIN_ROUNDS = 5
TICK = 0.005
"""Seconds one measurement lasts at least: short runs are repeated, the clock is not that fine."""

Given = Source | io.Loaded


@dataclass
class Contender:
    """One model on one runtime with one number of threads.

    Attributes:
        name: of the model.
        runtime: ``cpu`` or ``sparse``.
        threads: of the session, 0 for onnxruntime's choice.
        run: one inference.
        load_seconds: how long the session took to make.
        size: bytes of the model and its external data.
        repeat: inferences a measurement.
        times: seconds an inference, one a round.
    """

    name: str
    runtime: str
    threads: int
    run: Callable[[], Any]
    load_seconds: float
    size: int
    repeat: int = 1
    times: list[float] = field(default_factory=list)

    def warm(self) -> None:
        """Run until times settle, and choose how often to repeat."""
        self.run()
        took = min(_timed(self.run, 1) for _ in range(2))
        self.repeat = max(1, round(TICK / max(took, 1e-9)))

    def measure(self) -> None:
        """Add one round."""
        self.times.append(_timed(self.run, self.repeat))


def _timed(run: Callable[[], Any], repeat: int) -> float:
    started = time.perf_counter()
    for _ in range(repeat):
        run()
    return (time.perf_counter() - started) / repeat


def bench_models(
    models: Sequence[Given],
    *,
    threads: Sequence[int] = (1,),
    runtimes: Sequence[str] = ("cpu",),
    seconds: float = 3.0,
    seed: int = 0,
    data: Any = None,
    progress: Callable[[str, float], None] = lambda stage, done: None,
) -> dict[str, Any]:
    """Measure models against each other, all on the same inputs.

    Every round runs each contender (model, runtime, number of threads) once, in an order that
    changes from round to round, so that whatever else the machine does falls on all alike. Ratios
    are medians of the rounds' own ratios.

    Args:
        models: the first is what the others are compared with.
        threads: numbers of threads of the sessions, 0 for onnxruntime's choice.
        runtimes: of ``cpu`` and ``sparse``; the first is what the others are compared with.
        seconds: for how long each contender is measured; at least :data:`MIN_ROUNDS` rounds.
        seed: of the random inputs, which fit the first model.
        data: inputs instead, see :func:`.calibration.feeds.open_feeds`; the first feed is used.
        progress: called with (stage, fraction done).

    Returns:
        JSON-ready report; every key is described in ``docs/report.md``.

    Raises:
        UsageError: no models, unknown runtimes, numbers that cannot be meant.
        LoadError: a model cannot be read or onnxruntime does not take it.
        DataError: a model does not run on the inputs.
        RuntimeUnavailableError: ``sparse`` cannot be used here.
    """
    _check(models, threads, runtimes, seconds)
    feed = _feed(models[0], seed, data)
    contenders = []
    for runtime in runtimes:
        for count in threads:
            for model in models:
                progress("load", 0.0)
                contenders.append(_open(model, runtime, count, feed))
    for contender in contenders:
        contender.warm()
    rounds = _race(contenders, seconds, progress)
    return {
        "results": [_row(c, contenders) for c in contenders],
        "input_sizes": {name: list(array.shape) for name, array in feed.items()},
        "rounds": rounds,
    }


def _check(
    models: Sequence[Given], threads: Sequence[int], runtimes: Sequence[str], seconds: float
) -> None:
    if not models:
        raise UsageError("give at least one model")
    for runtime in runtimes:
        if runtime not in RUNTIMES:
            raise UsageError(f"unknown runtime {runtime!r}; choose from: {', '.join(RUNTIMES)}")
    if not runtimes or not threads or min(threads) < 0:
        raise UsageError(f"threads are {list(threads)}: give numbers from 0, one or more")
    if not 0 <= seconds < float("inf"):
        raise UsageError(f"seconds is {seconds:g}: give a number from 0")


def _feed(model: Given, seed: int, data: Any) -> Feed:
    if data is not None:
        return next(iter(open_feeds(data, io.load(model).model)))
    source = io.load(model).model if isinstance(model, io.Loaded) else model
    return working_feeds(source, seed, 1, session=_session(model, "cpu", 1))[0]


def _name(model: Given) -> str:
    given = isinstance(model, (str, os.PathLike))
    return str(model) if given else f"<{io.load(model).kind} model>"


def _session(model: Given, runtime: str, threads: int) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    # Threads that spin after a run would slow down whoever comes next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    runnable: Any = io.load(model).model if isinstance(model, io.Loaded) else model
    try:
        return session(runnable, threads, provider=runtime, session_options=options)
    except Exception as error:
        if not type(error).__module__.startswith("onnxruntime"):
            raise
        raise LoadError(f"onnxruntime does not take {_name(model)}: {_short(error)}") from error


def _open(model: Given, runtime: str, threads: int, feed: Feed) -> Contender:
    loaded = io.load(model)
    name = _name(model)
    started = time.perf_counter()
    made = _session(model, runtime, threads)
    took = time.perf_counter() - started
    wanted = {i.name for i in made.get_inputs()}
    held = {k: v for k, v in feed.items() if k in wanted}
    try:
        made.run(None, held)
    except Exception as error:
        sizes = ", ".join(f"{k} {list(v.shape)}" for k, v in held.items())
        raise DataError(
            f"{name} does not run on inputs that fit the first model ({sizes}): {_short(error)}"
        ) from error
    files: Sequence[Path] = loaded.origin.files
    size = sum(f.stat().st_size for f in files) if files else io.stored_size(loaded)
    return Contender(name, runtime, threads, lambda: made.run(None, held), took, size)


def _race(
    contenders: list[Contender], seconds: float, progress: Callable[[str, float], None]
) -> int:
    """Run rounds until the time is up; return how many."""
    started = time.perf_counter()
    allowed = seconds * len(contenders)
    rounds = 0
    while rounds < MIN_ROUNDS or time.perf_counter() - started < allowed:
        shift = rounds % len(contenders)
        order = contenders[shift:] + contenders[:shift]
        for contender in order if rounds % 2 else reversed(order):
            contender.measure()
        rounds += 1
        progress("measure", min(1.0, (time.perf_counter() - started) / max(allowed, 1e-9)))
    return rounds


def _row(contender: Contender, every: list[Contender]) -> dict[str, Any]:
    """Return a contender's figures; it is compared with the first one of as many threads."""
    first = next(c for c in every if c.threads == contender.threads)
    ratios = [a / b for a, b in zip(first.times, contender.times, strict=True)]
    times = np.asarray(contender.times) * 1e3
    return {
        "model": contender.name,
        "runtime": contender.runtime,
        "threads": contender.threads,
        "ms": median(times.tolist()),
        "ms_p10": float(np.percentile(times, 10)),
        "ms_p90": float(np.percentile(times, 90)),
        "speedup": median(ratios),
        "load_seconds": round(contender.load_seconds, 4),
        "bytes": contender.size,
    }


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
