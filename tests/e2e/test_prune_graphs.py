"""Channel pruning at one half, with no other option, of every hand-built graph and real network."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from graphs import SPECS
from graphs.feeds import random_feeds
from prune_checks import check_prune, close, run, weights

import onnxprune.api as onnxprune
from onnxprune.errors import ModelError


@pytest.mark.parametrize("name", sorted(SPECS))
def test_graph(name: str) -> None:
    spec = SPECS[name]
    dense = spec.build()
    if not spec.finite:
        with pytest.raises(ModelError):
            onnxprune.prune(dense, "channel", 0.5)
        return
    feeds = random_feeds(dense) if spec.runs else None
    result = check_prune(dense, feeds, prove=spec.runs, sparsity=0.5)
    before, after = weights(dense), weights(result.model)
    assert [w for w in spec.shrinks if after.get(w) == before[w]] == [], "not pruned"
    assert [w for w in spec.keeps if w in after and after[w] != before[w]] == [], "must stay"
    if spec.other:
        masked = onnxprune.prune(dense, plan=result.plan, mask_only=True, proof=spec.runs)
        other = random_feeds(dense, spec.other)
        close(run(masked.model, other), run(result.model, other))


def test_shared_network(shared_model: Path) -> None:
    dense = onnx.load(shared_model)
    result = check_prune(dense, None, sparsity=0.5)
    params = result.report["params"]
    assert params["after"] <= params["before"]
    streams = {"cifar10_resnet20_jpegft", "cifar10_resnet56_jpegft"}
    if shared_model.parent.name in streams:
        assert params["after"] < 0.3 * params["before"], "the residual streams were not pruned"


@pytest.mark.parametrize("name", [n for n in sorted(SPECS) if SPECS[n].finite][::9])
def test_nothing_to_remove(name: str) -> None:
    spec = SPECS[name]
    dense = spec.build()
    result = check_prune(dense, None, prove=spec.runs, sparsity=0.0)
    assert result.report["units"]["removed"] == 0
    before, after = weights(dense), weights(result.model)
    assert {w: s for w, s in after.items() if w in before} == {
        w: s for w, s in before.items() if w in after
    }


@pytest.mark.parametrize(
    "name", [n for n in sorted(SPECS) if SPECS[n].runs and SPECS[n].finite][::5]
)
def test_almost_everything_removed(name: str) -> None:
    """Whatever goes, no axis is left without a coordinate."""
    dense = SPECS[name].build()
    result = check_prune(dense, random_feeds(dense), sparsity=0.97, criterion="random")
    full = {w: shape for w, shape in weights(dense).items() if 0 not in shape}
    empty = [w for w, shape in weights(result.model).items() if w in full and 0 in shape]
    assert empty == []
