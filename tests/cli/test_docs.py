"""The pages about the command line say what the program does."""

from __future__ import annotations

import base64
import json
import math
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_helpers import save_convs
from onnx import numpy_helper

from onnxprune import runtime
from onnxprune.cli import _docs

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_cli_page_is_current():
    assert (DOCS / "cli.md").read_text() == _docs.page(), (
        "run: python -m onnxprune.cli._docs > docs/cli.md"
    )


def keys(value: Any, named: tuple[str, ...]) -> set[str]:
    """Return the keys of nested data; those of mappings by name (``named``) are data, not keys."""
    if isinstance(value, list):
        return set().union(*(keys(v, named) for v in value))
    if not isinstance(value, dict):
        return set()
    found = set(value)
    for key, inner in value.items():
        if key in named and isinstance(inner, dict):
            found |= set().union(*(keys(v, named) for v in inner.values()))
        elif key not in ("recipe", "options", "input_sizes"):
            found |= keys(inner, named)
    return found


NAMED = ("values", "tensors", "outputs", "layers", "unsupported", "opsets", "operators", "noisy",
         "input_sizes")  # fmt: skip


@pytest.mark.parametrize(
    ("section", "args"),
    [
        ("prune", ["prune", "{net}", "--dry-run", "--sparsity", "0.5"]),
        ("prune", ["prune", "{net}", "--dry-run", "--pattern", "2:4"]),
        ("inspect", ["inspect", "{net}"]),
        ("validate", ["validate", "{net}", "{net}", "--layers"]),
        ("validate", ["validate", "{net}", "{net}", "--layers", "--runtime", "sparse"]),
        ("doctor", ["doctor"]),
        ("bench", ["bench", "{net}", "--seconds", "0"]),
    ],
)
def test_every_key_is_described_and_nothing_else(run, tmp_path, section, args):
    net = save_convs(tmp_path / "net.onnx", (3, 8, 8, 4), bad=np.float32(1))
    if "sparse" in args and not runtime.available()[0]:
        pytest.skip(runtime.available()[1])
    report = json.loads(run(*(a.format(net=net) for a in args), "--json").out)
    text = (DOCS / "report.md").read_text()
    start = text.index(f"\n## {section}\n")
    end = re.compile(r"\n## (?!The plan)").search(text, start + 5)
    part = text[start : end.start() if end else None]
    missing = {k for k in keys(report, NAMED) if f"`{k}`" not in part}
    assert not missing
    rows = re.findall(r"^\| (.*?) \|", part, re.MULTILINE)
    described = {k for row in rows for k in re.findall(r"`(\w+)`", row)}
    # Each kind of prune has keys of its own.
    assert described <= keys(report, NAMED) | {
        "kept",
        "removed",
        "mask",
        "noisy",
        "approximation",
        "orders",
    }


def test_snippets_of_the_plan_work(run, resnet, tmp_path):
    """The two code blocks that read a plan do what the page says."""
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / "report.md").read_text(), re.DOTALL)
    assert len(blocks) == 2
    out, plan = tmp_path / "o.onnx", tmp_path / "plan.json"
    assert run("prune", resnet, "-o", out, "--pattern", "2:4", "--plan", plan).code == 0
    name, entry = next(iter(json.loads(plan.read_text())["tensors"].items()))
    scope: dict[str, Any] = {
        "entry": entry, "numpy": np, "base64": base64, "math": math, "zlib": zlib
    }  # fmt: skip
    exec(blocks[1], scope)
    dense, pruned = (
        {t.name: numpy_helper.to_array(t) for t in onnx.load(p).graph.initializer}
        for p in (resnet, out)
    )
    np.testing.assert_array_equal(np.where(scope["mask"], dense[name], 0), pruned[name])
