"""Any order of any group's units leaves what a network computes as it was, on every graph."""

from __future__ import annotations

import numpy as np
import pytest
from graphs import SPECS

from onnxprune import io
from onnxprune.errors import UsageError
from onnxprune.passes.base import Context
from onnxprune.passes.infer_shapes import InferShapes
from onnxprune.passes.permute import Permute, named_groups, permute_units
from onnxprune.proof.equivalence import compare
from onnxprune.proof.staging import Stage
from onnxprune.rules.analysis import analyze

GRAPHS = [n for n in sorted(SPECS) if SPECS[n].runs and SPECS[n].finite]


def loaded(name):
    model = io.load(SPECS[name].build()).model
    InferShapes().run(model, Context())
    return model


@pytest.mark.parametrize("name", GRAPHS)
def test_random_orders_change_weights_but_not_the_function(name):
    model = loaded(name)
    groups = {n: g for n, g in named_groups(analyze(model)).items() if len(g) > 1}
    orders = {
        n: np.roll(np.random.default_rng(i).permutation(len(g)), 1).tolist()
        for i, (n, g) in enumerate(groups.items())
    }
    moves = any(o != sorted(o) for o in orders.values())
    outputs = [v.name for v in model.graph.outputs]
    with Stage() as stage:
        feeds, want = stage.put(model).run(None)
        result = Permute().run(model, Context(facts={"orders": orders}))
        assert result.modified == moves
        _, got = stage.put(model).run(feeds)
    proof = compare(want, got, outputs, "reordered")
    assert proof.passed, proof.values


def test_units_stand_where_the_order_says():
    model = loaded(next(n for n in GRAPHS if n.startswith("conv")))
    analyzer = analyze(model)
    (name, group) = next((n, g) for n, g in named_groups(analyzer).items() if len(g) > 2)
    order = [*range(1, len(group)), 0]
    before = {
        s.tensor: np.array(analyzer.tensor(analyzer.by_name[s.tensor]).numpy()) for s in group.spans
    }
    permute_units(analyzer, {name: order})
    for span in group.spans:
        value = next(v for v in model.graph.initializers.values() if v.name == span.tensor)
        now = np.moveaxis(np.asarray(value.const_value.numpy()), span.axis, 0)
        was = np.moveaxis(before[span.tensor], span.axis, 0)
        for new, old in enumerate(order):
            np.testing.assert_array_equal(now[span.positions[new]], was[span.positions[old]])


def test_without_orders_nothing_happens_and_nonsense_is_refused():
    model = loaded("conv_chain") if "conv_chain" in SPECS else loaded(GRAPHS[0])
    assert not Permute().run(model, Context()).modified
    with pytest.raises(UsageError, match="no group"):
        permute_units(analyze(model), {"nothing": [0]})
    name = next(iter(named_groups(analyze(model))))
    with pytest.raises(UsageError, match="each of its"):
        permute_units(analyze(model), {name: [0, 0]})
