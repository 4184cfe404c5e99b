"""Step sizes: equally far in what is compared, and as large as serves along the first direction."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.recovery import strides
from onnxprune.recovery.lessons import Lessons
from onnxprune.recovery.strides import measured

RNG = np.random.default_rng(7)
SPREADS = {"y": 2.5}


class Linear:
    """``y = gain (x a) + x b``: losses and derivatives in closed form."""

    weights = ("a", "b")
    spreads = SPREADS

    def __init__(self, gain=1.0):
        self.gain = gain

    def run(self, feed, want, weights):
        x = feed["x"]
        gap = self.gain * (x @ weights["a"]) + x @ weights["b"] - want["y"]
        factor = 1 / (SPREADS["y"] * gap.size)
        slope = 2 * factor * x.T @ gap
        loss = float(factor * np.vdot(gap, gap))
        return loss, {"a": np.float32(self.gain * slope), "b": np.float32(slope)}


class Teacher:
    """Values that no weights give."""

    def values(self, feed):
        return {"y": np.cos(feed["x"] @ np.ones((6, 4), np.float32)).astype(np.float32)}


def lessons_of(count=3, rows=40):
    feeds = [{"x": RNG.standard_normal((rows, 6)).astype(np.float32)} for _ in range(count)]
    return Lessons(feeds, Teacher())


def start_of():
    return {n: RNG.standard_normal((6, 4)).astype(np.float32) for n in ("a", "b")}


def test_a_unit_step_moves_compared_values_by_their_spread(monkeypatch):
    lessons, start = lessons_of(count=40), start_of()
    found = measured(Linear(), lessons, start, {}, batch=40 * 40)
    # The Gauss-Newton matrix of the loss is that of every column of weights alike.
    x = np.concatenate([feed["x"] for feed in lessons.feeds])
    trace = 4 * np.trace(x.T @ x) / (len(x) * 4 * SPREADS["y"])
    want = 1 / np.sqrt(trace)
    for name in ("a", "b"):
        assert found.lengths[name] == pytest.approx(want, rel=0.1), name


@pytest.mark.parametrize("gain", [0.2, 10.0])
def test_what_is_amplified_moves_less(gain):
    found = measured(Linear(gain), lessons_of(), start_of(), {}, batch=120)
    assert found.lengths["b"] / found.lengths["a"] == pytest.approx(gain, rel=1e-3)


def test_what_moves_nothing_is_not_let_loose():
    """Its reach is not taken to be less than a share of what is usual."""
    graph, start = Linear(1e-9), start_of()
    found = measured(graph, lessons_of(), start, {}, batch=120)
    assert found.lengths["a"] < 2.5 / strides.LEAST_REACH * found.lengths["b"] * 10
    start["a"][:] = 0
    assert np.isfinite(
        list(measured(graph, lessons_of(), start, {}, batch=120).lengths.values())
    ).all()


@pytest.mark.parametrize("gain", [1.0, 30.0])
def test_the_rate_is_where_the_first_batch_is_lowest(gain):
    graph, lessons, start = Linear(gain), lessons_of(), start_of()
    found = measured(graph, lessons, start, {}, batch=120)
    ways = {n: np.zeros((6, 4)) for n in start}
    for feed in lessons.feeds:
        for name, grad in graph.run(feed, Teacher().values(feed), start)[1].items():
            ways[name] += grad
    for name, way in ways.items():
        way *= found.lengths[name] / np.sqrt(np.vdot(way, way) / way.size)

    def loss(rate):
        there = {n: start[n] - rate * ways[n] for n in start}
        return sum(graph.run(f, Teacher().values(f), there)[0] for f in lessons.feeds)

    best = found.rate / strides.TIMES
    assert loss(best) < min(loss(0.9 * best), loss(1.1 * best))


def test_a_loss_that_overflows_is_backed_away_from():
    class Cliff(Linear):
        def run(self, feed, want, weights):
            loss, grads = super().run(feed, want, weights)
            far = max(float(np.abs(weights[n] - origin[n]).max()) for n in weights)
            return (loss, grads) if far < 1e-4 else (float("nan"), grads)

    origin = start_of()
    found = measured(Cliff(), lessons_of(), origin, {}, batch=120)
    assert 0 < found.rate < 1e-2
