"""Naming layers, and finding the sparsity that meets a budget."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.allocation import resolve_overrides, solve_level
from onnxprune.errors import UsageError

NAMES = ["conv1.weight", "layer1.0.conv1.weight", "layer1.1.conv1.weight", "fc.weight"]


def test_names_beat_expressions_and_later_ones_win():
    assert resolve_overrides(NAMES, {"conv1.weight": 0.1}) == {"conv1.weight": 0.1}
    assert resolve_overrides(NAMES, {r"layer1\.\d": 0.3, "fc": 0.0}) == {
        NAMES[1]: 0.3,
        NAMES[2]: 0.3,
        NAMES[3]: 0.0,
    }
    assert resolve_overrides(NAMES, {NAMES[1]: 0.9, "conv": 0.5, "layer1": 0.6}) == {
        NAMES[0]: 0.5,
        NAMES[1]: 0.9,
        NAMES[2]: 0.6,
    }
    assert resolve_overrides(NAMES, {}) == {}


@pytest.mark.parametrize(
    ("overrides", "complaint"),
    [
        ({"conv9.weight": 0.5}, "matches none of the 4 layers.*Did you mean 'conv1.weight'"),
        ({"zzz": 0.5}, "matches none"),
        ({"conv(": 0.5}, "neither a layer's name nor a regular expression"),
        ({"fc": 1.5}, "from 0 to 1"),
        ({"fc": -0.1}, "from 0 to 1"),
        ({"fc": math.nan}, "from 0 to 1"),
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(overrides, complaint):
    with pytest.raises(UsageError, match=complaint):
        resolve_overrides(NAMES, overrides)


def test_a_name_with_special_characters_is_that_name():
    names = ["a+b[0]", "a+b[1]"]
    assert resolve_overrides(names, {"a+b[0]": 0.5}) == {"a+b[0]": 0.5}


@given(st.floats(0.05, 1.0), st.floats(0.3, 3.0))
def test_level_of_a_smooth_cost(target, power):
    def cost(level):
        return (1 - level) ** power

    level = solve_level(cost, target, resolution=1e-9)
    assert cost(level) <= target
    assert level == pytest.approx(1 - target ** (1 / power), abs=1e-8)


@given(st.integers(1, 40), st.floats(0.1, 1.0))
def test_level_of_a_staircase_is_the_first_step_within_the_target(channels, target):
    def cost(level):
        return max(1, math.ceil(channels * (1 - level))) / channels

    if target < 1 / channels:
        with pytest.raises(UsageError, match="cannot be reached"):
            solve_level(cost, target)
        return
    best = max(k / channels for k in range(1, channels + 1) if k / channels <= target)
    assert cost(solve_level(cost, target)) == best


def test_level_stops_as_soon_as_the_tolerance_is_met():
    calls = []

    def cost(level):
        calls.append(level)
        return 1000 * (1 - level)

    level = solve_level(cost, 500, tol=1)
    assert level == 0.5 and len(calls) == 3


def test_level_that_needs_no_pruning_is_zero():
    assert solve_level(lambda level: 10 - level, 20) == 0.0


def test_an_unreachable_target_names_the_range():
    with pytest.raises(UsageError, match="ask for something from 40 to 100"):
        solve_level(lambda level: 100 - 60 * level, 30)
