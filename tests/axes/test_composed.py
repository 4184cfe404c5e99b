"""An axis that is cut along two of its factors at once."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.axes import Reason, Space, group_units, solve

HEADS, WIDTH = 3, 4
WHY = Reason("test", "said so")


def _space() -> tuple[Space, dict[str, np.ndarray]]:
    """Query and key [heads x width]: the width is summed over, heads are the natural carrier."""
    space = Space()
    ids = {"q": space.new(HEADS * WIDTH), "k": space.new(HEADS * WIDTH)}
    for name in ("q", "k"):
        factors = [space.new(HEADS), space.new(WIDTH)]
        ids |= {f"{name}h": factors[0], f"{name}d": factors[1]}
        space.product(ids[name], factors, name)
    space.link(ids["qh"], ids["kh"])
    space.link(ids["qd"], ids["kd"])
    space.prefer_carrier(ids["qh"])
    return space, ids


def test_without_being_asked_heads_alone_carry() -> None:
    space, ids = _space()
    found = solve(space)
    assert not len(found.composed)
    assert found.frozen[found.labels[ids["qd"]]].all()


def test_a_coordinate_goes_with_either_factor() -> None:
    space, ids = _space()
    found = solve(space, inside_heads=True)
    assert not found.frozen[found.labels[np.concatenate(list(ids.values()))]].any()
    for heads in itertools.product((False, True), repeat=HEADS):
        for width in itertools.product((False, True), repeat=WIDTH):
            removed = np.zeros(found.count, np.bool_)
            removed[found.labels[ids["qh"]]] = heads
            removed[found.labels[ids["qd"]]] = width
            every = found.closed(removed)
            for name in ("q", "k"):
                gone = np.logical_or.outer(heads, width).reshape(-1)
                assert np.array_equal(every[found.labels[ids[name]]], gone)
            if not all(heads) and not all(width):
                told, known = np.zeros((2, found.count), np.bool_)
                told[found.labels[ids["q"]]] = gone
                known[found.labels[ids["q"]]] = True
                assert np.array_equal(found.opened(told, known), every)


def test_units_own_their_rows_and_columns() -> None:
    space, ids = _space()
    found = solve(space, inside_heads=True)
    made = np.zeros(found.count, np.bool_)
    made[found.labels[ids["q"]]] = True
    groups = group_units(found, [("q", 1, ids["q"]), ("k", 1, ids["k"])], made)
    assert [len(g) for g in groups] == [HEADS, WIDTH]
    at = np.arange(HEADS * WIDTH).reshape(HEADS, WIDTH)
    for group, want in zip(groups, (at, at.T), strict=True):
        assert [(s.tensor, s.positions.tolist()) for s in group.spans] == [
            ("q", want.tolist()),
            ("k", want.tolist()),
        ]


@pytest.mark.parametrize("name", ["qd", "q"])
def test_what_holds_all_of_the_inside_leaves_the_heads(name: str) -> None:
    space, ids = _space()
    if name == "q":  # a head of the merged axis
        space.freeze(ids["q"][:WIDTH], WHY)
        found = solve(space, inside_heads=True)
        assert found.frozen[found.labels[ids["kh"]]].tolist() == [True, False, False]
    else:
        space.freeze(ids["qd"], WHY)
        found = solve(space, inside_heads=True)
        assert not found.frozen[found.labels[ids["kh"]]].any()
    assert not len(found.composed)


def test_two_statements_about_one_axis_agree() -> None:
    """The same merged axis taken apart twice: what it is composed of is the same."""
    space, ids = _space()
    again = [space.new(HEADS), space.new(WIDTH)]
    space.product(ids["q"], again, "again")
    space.prefer_carrier(again[0])
    found = solve(space, inside_heads=True)
    assert len(found.composed) == 2 * HEADS * WIDTH
    assert np.array_equal(found.labels[again[0]], found.labels[ids["kh"]])
    assert np.array_equal(found.labels[again[1]], found.labels[ids["kd"]])


def test_halves_of_the_merged_axis_that_go_together() -> None:
    """Rotary embedding before the axis is taken apart: pairs inside a head live and die as one."""
    space, ids = _space()
    pairs = ids["q"].reshape(HEADS, 2, WIDTH // 2)
    space.link(pairs[:, 0].reshape(-1), pairs[:, 1].reshape(-1))
    found = solve(space, inside_heads=True)
    width = found.labels[ids["kd"]]
    assert np.array_equal(width[: WIDTH // 2], width[WIDTH // 2 :])
    assert len(np.unique(width)) == WIDTH // 2


def test_heads_that_share_keys() -> None:
    """Query heads are shared heads times repeats; the inside goes, the repeats stay."""
    space = Space()
    query, key, joint = space.new(2 * HEADS * WIDTH), space.new(HEADS * WIDTH), space.new(2 * HEADS)
    shared, repeats, width = space.new(HEADS), space.new(2), space.new(WIDTH)
    space.product(query, [joint, width], "query")
    space.product(key, [shared, width], "key")
    space.product(joint, [shared, repeats], "repeat")
    space.prefer_carrier(joint)
    found = solve(space, inside_heads=True)
    assert found.frozen[found.labels[repeats]].all()
    assert not found.frozen[found.labels[np.concatenate([shared, width, query, key])]].any()
    assert len(found.composed) == 3 * HEADS * WIDTH
