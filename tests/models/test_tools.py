"""The checks that guard the house find what they are there to find."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> ModuleType:
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(ROOT / "tools"))


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    files = {
        "kernels/kernels.h": "#pragma once\n",
        "kernels/spmm/csr.cc": '#include <vector>\n#include "../kernels.h"\n',
        "abi/api.h": "#include <cstdint>\n",
        "ep/graph.cc": '#include "abi/api.h"\n#include "kernels/kernels.h"\n',
    }
    return write(tmp_path, files)


def test_includes_that_point_the_right_way_pass(sources: Path) -> None:
    assert list(load("check_includes").violations(sources)) == []


@pytest.mark.parametrize(
    ("file", "line", "said"),
    [
        ("kernels/a.cc", '#include "abi/api.h"', "kernels/a.cc:2: kernels/ must not include"),
        ("kernels/b/c.h", ' # include "../../ep/graph.cc"', "kernels/b/c.h:2: kernels/ must not"),
        ("kernels/d.inc", "#include <onnxruntime_c_api.h>", "must not see onnxruntime"),
        ("abi/e.cc", '#include "kernels/kernels.h"', "abi/ must not include"),
        ("abi/f.h", '#include "../ep/graph.cc"', "abi/ must not include"),
    ],
)
def test_includes_that_point_the_wrong_way_are_found(
    sources: Path, file: str, line: str, said: str
) -> None:
    write(sources, {file: f"// first\n{line}\n"})
    found = list(load("check_includes").violations(sources))
    assert len(found) == 1 and said in found[0]


def test_our_own_includes_point_the_right_way() -> None:
    assert list(load("check_includes").violations(ROOT / "runtime_ext")) == []


def test_linked_tree_is_the_installed_package(tmp_path: Path) -> None:
    """It holds ``passes`` inside ``onnxprune``, and making it twice is harmless."""
    tree = load("tree").link_tree(tmp_path / "lint")
    load("tree").link_tree(tmp_path / "lint")
    code = "import onnxprune.passes, onnxprune.errors; print(onnxprune.passes.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,  # not the repository, which would come first
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(done.stdout.strip()).parent == tree / "onnxprune" / "passes"
    names = {path.name for path in (tree / "onnxprune").iterdir()}
    assert {"axes", "cli", "io", "rules", "__init__.py", "registry.py"} <= names


def test_installer_says_what_is_missing_without_the_native_library() -> None:
    text = load("install").notice(Path("somewhere/native-build.log"))
    assert "WITHOUT its sparse runtime" in text and "somewhere/native-build.log" in text
    assert "C++17" in text


def test_every_target_of_the_makefile_exists() -> None:
    """Dry runs: each target is known and its recipe names scripts that are there."""
    for target in ("demo", "test", "lint", "bench", "test-native", "fuzz", "clean"):
        done = subprocess.run(
            ["make", "--dry-run", "--no-print-directory", target],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        scripts = [word for word in done.stdout.split() if word.startswith("tools/")]
        assert scripts or target == "clean"
        assert all((ROOT / script).exists() for script in scripts)


def test_benchmarks_of_make_bench_are_found_by_their_mark() -> None:
    assert "peers_prune" in load("bench").marked()
