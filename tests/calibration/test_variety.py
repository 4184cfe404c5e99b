"""New samples are made of those that are there, as far as the network admits it."""

from __future__ import annotations

import numpy as np
import pytest

from onnxprune.calibration.agreement import Judge
from onnxprune.calibration.variety import SHIFT, Variety
from onnxprune.errors import DataError

RNG = np.random.default_rng(0)


def variety_of(feeds, classes):
    """What a network that gives ``classes`` of pictures admits."""
    outputs = [[classes(next(iter(feed.values())))] for feed in feeds]

    def run(others):
        return [[classes(next(iter(feed.values())))] for feed in others]

    return Variety.of(feeds, feeds, Judge(outputs), run)


def by_colour(pictures):
    """Scores that no place in a picture matters to."""
    return np.concatenate([pictures, -pictures], 1).mean((2, 3)) * 20


def by_side(pictures):
    """Scores that tell left from right."""
    half = pictures.shape[3] // 2
    gap = (pictures[..., :half] - pictures[..., half:]).mean((2, 3))
    return 200 * np.concatenate([gap, -gap], 1)


def painted(count):
    """Pictures of two colours side by side, the second much like the first."""
    colours = RNG.standard_normal((count, 3, 1, 1)) + 0.05 * RNG.standard_normal((count, 3, 1, 2))
    return colours.repeat(16, 2).repeat(8, 3).astype(np.float32)


def test_the_network_says_what_is_admitted():
    feeds = [{"x": painted(32)} for _ in range(2)]
    assert variety_of(feeds, by_colour) == Variety(turn=True, move=True, blend=True)
    assert not variety_of(feeds, by_side).turn
    sounds = [{"x": RNG.standard_normal((4, 100)).astype(np.float32)}]
    assert variety_of(sounds, lambda x: x[:, :5]) == Variety(blend=True)
    tokens = [{"x": RNG.integers(0, 9, (1, 7))} for _ in range(2)]
    assert variety_of(tokens, lambda x: x.astype(np.float32)) == Variety(cross=True)
    assert not variety_of([tokens[0], tokens[0]], lambda x: x.astype(np.float32))
    assert not variety_of(tokens, lambda x: np.where(x > 0, np.nan, np.float32(x)))


def test_numbers_that_depend_on_each_other_are_left_alone():
    feeds = [{"x": RNG.integers(0, 9, (1, 7)), "length": np.array([7])} for _ in range(4)]
    outputs = [[feed["x"].astype(np.float32)] for feed in feeds]

    def run(others):
        if not all(any(np.array_equal(o["x"], f["x"]) for f in feeds) for o in others):
            raise DataError("no such sequence")
        return outputs

    assert not Variety.of(feeds, feeds, Judge(outputs, tokens=True), run)


def test_sequences_are_crossed_at_one_place():
    a, b = np.arange(60).reshape(4, 15), np.arange(60, 120).reshape(4, 15)
    feed, other = {"x": a, "mask": a % 7}, {"x": b, "mask": b % 7}
    seen = [Variety(cross=True).vary(feed, other, np.random.default_rng(i)) for i in range(20)]
    for each in seen:
        np.testing.assert_array_equal(each["mask"], each["x"] % 7)
        kept = each["x"] == a
        assert (np.diff(kept.astype(int), axis=1) <= 0).all(), "a beginning is kept"
        assert np.isin(each["x"][~kept], b).all()
    cuts = {int(n) for each in seen for n in (each["x"] == a).sum(1)}
    assert len(cuts) > 10


def test_numbers_that_stand_alone_are_paired_anew():
    users, items = np.arange(100), np.arange(100, 200)
    feed = {"user": users, "item": items}
    seen = Variety(cross=True).vary(feed, feed, np.random.default_rng(0))
    pairs = seen["item"] - seen["user"]
    assert np.isin(seen["user"], users).all() and np.isin(seen["item"], items).all()
    assert 50 < np.count_nonzero(pairs != 100) < 95


def test_samples_are_blended_row_by_row():
    feed = {"x": np.arange(64, dtype=np.float32).reshape(64, 1), "rate": np.array(8)}
    seen = Variety(blend=True).vary(feed, feed, np.random.default_rng(3))
    assert seen["x"].dtype == np.float32 and seen["rate"] == 8
    changed = seen["x"] != feed["x"]
    assert 16 < np.count_nonzero(changed) < 48, "half of them stay whole"
    assert seen["x"].min() >= 0 and seen["x"].max() <= 63


def test_all_inputs_are_blended_alike():
    a, b = RNG.standard_normal((2, 8, 3)).astype(np.float32)
    feed = {"x": a, "y": 2 * a}
    seen = Variety(blend=True).vary(feed, {"x": b, "y": 2 * b}, np.random.default_rng(0))
    np.testing.assert_allclose(seen["y"], 2 * seen["x"], rtol=1e-6)


@pytest.mark.parametrize("shape", [(8, 3, 16, 24), (8, 16, 24, 3)])
def test_pictures_are_moved_by_little(shape):
    rows, columns = (2, 3) if shape[1] == 3 else (1, 2)
    place = np.zeros(shape, np.float32)
    place += np.arange(shape[rows]).reshape([-1 if i == rows else 1 for i in range(4)]) * 100
    place += np.arange(shape[columns]).reshape([-1 if i == columns else 1 for i in range(4)])
    feed = {"x": place}
    seen = Variety(move=True).vary(feed, feed, np.random.default_rng(1))["x"]
    down, right = np.divmod(np.abs(seen - place), 100)
    assert 0 < np.minimum(down, 100 - down).max() <= SHIFT * shape[rows] + 1
    assert np.median(np.minimum(right, 100 - right)) <= SHIFT * shape[columns] + 1
    turned = Variety(turn=True).vary(feed, feed, np.random.default_rng(1))["x"]
    whole = [np.array_equal(t, p) for t, p in zip(turned, place, strict=True)]
    mirrored = [
        np.array_equal(t, np.flip(p, columns - 1)) for t, p in zip(turned, place, strict=True)
    ]
    assert all(w or m for w, m in zip(whole, mirrored, strict=True)) and any(mirrored)
