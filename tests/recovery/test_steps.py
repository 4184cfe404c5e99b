"""Steps of training: over what a row keeps, and back from a loss that has run away."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from onnxprune.calibration.variety import Variety
from onnxprune.recovery import slopes, space
from onnxprune.recovery.distil import train
from onnxprune.recovery.lessons import Lessons
from onnxprune.recovery.space import DAMPING, Space
from onnxprune.recovery.strides import Strides


@dataclass(frozen=True)
class Plain:
    """An operand whose weights already are [G, R, d]."""

    def matrix(self, array):
        return array

    def unmatrix(self, array):
        return array


RNG = np.random.default_rng(0)


def moment_of(d):
    columns = RNG.standard_normal((d, 3 * d)) + 1
    return (columns @ columns.T)[None]


def test_a_step_is_newtons_on_what_a_row_keeps():
    d, rows = 12, 5
    moment = moment_of(d)
    mask = RNG.random((1, rows, d)) < 0.4
    mask[:, 0] = True
    made = Space.build(Plain(), moment, mask)
    damped = moment[0] / (np.trace(moment[0]) / d) + DAMPING * np.eye(d)
    gradient = RNG.standard_normal((1, rows, d)).astype(np.float32)
    found = made.step(gradient * mask)
    for row in range(rows):
        on = np.flatnonzero(mask[0, row])
        want = np.linalg.solve(damped[np.ix_(on, on)], gradient[0, row, on])
        np.testing.assert_allclose(found[0, row, on], want, rtol=1e-4, atol=1e-4)
    assert not found[~mask].any()
    weight = RNG.standard_normal((1, rows, d))
    want = sum(w @ damped @ w for w in weight[0])
    np.testing.assert_allclose(made.energy(weight), want, rtol=1e-6)


def test_large_layers_share_an_inverse(monkeypatch):
    monkeypatch.setattr(space, "ROOM", 10)
    mask = RNG.random((1, 4, 8)) < 0.5
    made = Space.build(Plain(), moment_of(8), mask)
    found = made.step((RNG.standard_normal((1, 4, 8)) * mask).astype(np.float32))
    assert made.places is None and not found[~mask].any() and found[mask].all()


class Cliff:
    """A loss of one weight: a parabola around 1 that turns into a cliff beyond 1.02."""

    weights = ("w",)

    def __init__(self):
        self.falls = 0

    def run(self, feed, want, weights):
        w = float(weights["w"][0])
        if not w < 1.02:
            self.falls += 1
            return float("nan"), {"w": np.array([np.nan], np.float32)}
        return (w - 1) ** 2 + 0.1, {"w": np.array([2 * (w - 1)], np.float32)}


class Silent:
    """A teacher that has nothing to say."""

    def values(self, feed):
        return {}


def test_a_loss_that_ran_away_starts_again_with_smaller_steps():
    graph = Cliff()
    feeds = [{"x": np.zeros((1, 1), np.float32)}] * 10
    start = {"w": np.array([0.9], np.float32)}
    done = train(
        graph, start, Lessons(feeds, Silent()), {}, lambda w: abs(float(w["w"][0]) - 1),
        strides=Strides({"w": 0.9}, 0.1), epochs=10, batch=1,
    )  # fmt: skip
    assert graph.falls and np.isfinite(done.weights["w"]).all()
    assert done.loss < 0.05 and abs(float(done.weights["w"][0]) - 1) < 0.05


def test_lessons_are_new_each_time_and_the_same_again():
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.random((4, 3)).astype(np.float32)} for _ in range(3)]
    feeds.append({"x": rng.random((4, 5)).astype(np.float32)})
    lessons = Lessons(feeds, Silent(), Variety(blend=True), seed=1)
    seen = [lessons.take(epoch, 0)[0]["x"] for epoch in range(6)]
    assert len({a.tobytes() for a in seen}) > 3
    for epoch, array in enumerate(seen):
        np.testing.assert_array_equal(lessons.take(epoch, 0)[0]["x"], array)
    assert lessons.take(1, 3)[0]["x"].shape == (4, 5), "blended with its like alone"
    assert Lessons(feeds, Silent()).take(1, 0)[0] is feeds[0]


class Slope:
    """A loss that falls along its sample."""

    weights = ("w",)

    def __init__(self):
        self.seen = []

    def run(self, feed, want, weights):
        x = feed["x"]
        self.seen.append(x)
        return float(weights["w"] @ x[0]), {"w": x[0] * np.float32(1 / 3)}


@pytest.mark.parametrize("cores", [2, 3, 8])
def test_runs_side_by_side_add_up_to_the_same(monkeypatch, cores):
    rng = np.random.default_rng(5)
    feeds = [{"x": rng.standard_normal((1, 7)).astype(np.float32)} for _ in range(24)]
    start = {"w": np.ones(7, np.float32)}

    def train_on(count):
        monkeypatch.setattr(slopes, "cores", lambda: count)
        lessons = Lessons(feeds, Silent(), Variety(blend=True))
        return train(
            Slope(), start, lessons, {}, lambda w: -abs(float(w["w"].sum()) - 7),
            strides=Strides({"w": 1.0}, 0.005), epochs=6, batch=8,
        ).weights["w"]  # fmt: skip

    one = train_on(1)
    assert not np.array_equal(one, start["w"])
    assert train_on(cores).tobytes() == one.tobytes()


def test_steps_become_smaller_before_samples_stay_as_they_are():
    feeds = [{"x": np.full((1, 1), i, np.float32)} for i in range(16)]
    graph = Slope()
    train(
        graph, {"w": np.zeros(1, np.float32)}, Lessons(feeds, Silent(), Variety(blend=True)), {},
        lambda w: abs(float(w["w"][0])),
        strides=Strides({"w": 1e-8}, 0.005), epochs=32, batch=1,
    )  # fmt: skip
    epochs = np.array([float(x[0, 0]) for x in graph.seen]).reshape(-1, 16)
    varied = (epochs % 1 != 0).any(axis=1)
    assert len(epochs) == 24, "a quarter of the epochs for each of three tries, and no more"
    assert varied[:16].all() and not varied[16:].any()
