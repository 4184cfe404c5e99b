"""The examples of CONTRIBUTING.md work as they stand: dropped in as files, they are found."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = re.compile(r"```python\n# (\S+\.py)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the package, as installed, with the examples added to it."""
    root = tmp_path_factory.mktemp("contributed")
    ignore = shutil.ignore_patterns("__pycache__", "lib")
    shutil.copytree(ROOT / "onnxprune", root / "onnxprune", ignore=ignore)
    shutil.copytree(ROOT / "passes", root / "onnxprune" / "passes", ignore=ignore)
    examples = EXAMPLE.findall((ROOT / "CONTRIBUTING.md").read_text())
    assert [path for path, _ in examples] == [
        "onnxprune/rules/families/linalg.py",
        "onnxprune/criteria/linf.py",
        "passes/strip_docs.py",
    ]
    for path, text in examples:
        target = root / path if path.startswith("onnxprune") else root / "onnxprune" / path
        assert not target.exists(), f"choose another example: {path} exists by now"
        target.write_text(text)
    return root


def run(tree: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=tree,
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("kind", "name"),
    [("rules", "Det"), ("criteria", "linf"), ("passes", "strip-docs")],
)
def test_the_command_line_lists_the_examples(tree: Path, kind: str, name: str) -> None:
    rows = json.loads(run(tree, "-m", "onnxprune", "list", kind, "--json"))[kind]
    assert name in [row["name"] for row in rows]


def test_the_example_rule_keeps_its_law(tree: Path) -> None:
    (tree / "tests").mkdir(exist_ok=True)
    shutil.copy(ROOT / "tests" / "rules" / "test_laws.py", tree / "tests")
    shutil.copy(ROOT / "pyproject.toml", tree)
    output = run(tree, "-m", "pytest", "tests/test_laws.py", "-k", "Det-")
    assert re.search(r"\b2 passed", output)


def test_the_example_criterion_prunes(tree: Path) -> None:
    code = (
        "import sys, onnxprune\n"
        "r = onnxprune.prune(sys.argv[1], 'channel', 0.5, criterion='linf')\n"
        "print(r.report['proof']['passed'], r.report['params'])"
    )
    model = ROOT / "models" / "digits_resnet.onnx"
    assert run(tree, "-c", code, str(model)).startswith("True")


def test_the_example_pass_strips_and_is_done(tree: Path) -> None:
    code = (
        "import sys, onnx, onnx_ir as ir\n"
        "from onnxprune.passes.base import PASSES, Context\n"
        "proto = onnx.load(sys.argv[1])\n"
        "for i, node in enumerate(proto.graph.node): node.doc_string = 'kept' if i else 'doc'\n"
        "model = ir.from_proto(proto)\n"
        "step = PASSES.get('strip-docs').from_options({'keep': 'kept'})\n"
        "first, second = step.run(model, Context()), step.run(model, Context())\n"
        "assert first.stats == {'stripped': 1} and first.modified and not second.modified\n"
    )
    run(tree, "-c", code, str(ROOT / "models" / "digits_resnet.onnx"))
