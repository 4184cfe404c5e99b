"""What holds for every pass of the registry, whatever it does."""

from __future__ import annotations

import dataclasses

import pytest
from graphs import SPECS
from graphs.feeds import random_feeds
from pass_checks import apply
from prune_checks import close, full_check, interface, run

import onnxprune.passes.base as base
from onnxprune import io
from onnxprune.errors import UsageError
from onnxprune.passes.base import PASSES, Context, Pass

NAMES = PASSES.names()
NEEDS_A_PLAN = {"apply-plan"}
GRAPHS = [n for n in sorted(SPECS) if SPECS[n].runs and SPECS[n].finite][::6]


def members() -> list[type[Pass]]:
    return [PASSES.get(name) for name in NAMES]


@pytest.mark.parametrize("member", members(), ids=NAMES)
def test_is_a_frozen_dataclass_whose_fields_are_its_options(member):
    step = member()
    assert member.__dataclass_params__.frozen
    assert PASSES.get(member.name) is member
    assert step.options() == {f.name: getattr(step, f.name) for f in dataclasses.fields(step)}
    assert member.from_options(step.options()) == step
    with pytest.raises(UsageError, match="has no option 'colour'"):
        member.from_options({"colour": 1})


@pytest.mark.parametrize("member", members(), ids=NAMES)
def test_every_option_is_explained(member):
    words = member.__doc__ or ""
    assert words.strip()
    fields = [f.name for f in dataclasses.fields(member)]
    assert [f for f in fields if f"{f}:" not in words] == []


@pytest.mark.parametrize("graph", GRAPHS)
@pytest.mark.parametrize("name", [n for n in NAMES if n not in NEEDS_A_PLAN])
def test_valid_same_function_and_nothing_left_to_do(name, graph):
    """``apply`` runs the pass twice and expects the second run to change nothing."""
    before = SPECS[graph].build()
    after, _ = apply(PASSES.get(name)(), before)
    assert [n for n, _ in interface(after)] == [n for n, _ in interface(before)]
    if name == "emit":  # its operators need the execution provider
        return
    if full_check(before):
        assert full_check(after)
    feeds = random_feeds(before)
    close(run(before, feeds), run(after, feeds), 1e-4)
    kept = {n.name for n in before.graph.node} & {n.name for n in after.graph.node}
    assert kept, "every node was renamed"


@pytest.mark.parametrize("name", [n for n in NAMES if n not in NEEDS_A_PLAN])
def test_statistics_are_plain_data(name):
    import json

    result = PASSES.get(name)().run(io.load(SPECS[GRAPHS[0]].build()).model, Context())
    json.dumps(result.stats)
    assert isinstance(result, base.PassResult)
