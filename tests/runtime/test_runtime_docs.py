"""The programs of docs/runtime.md do what the page says, and its table of options is right."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from runtime_graphs import Net

from onnxprune import runtime

PAGE = Path(__file__).resolve().parents[2] / "docs" / "runtime.md"
OPTIONS_H = PAGE.parent.parent / "runtime_ext" / "ep" / "options.h"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(), re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, library: Path) -> Path:
    """A folder as the page's programs expect it: the library and a model that gains."""
    shutil.copy(library, tmp_path / "libonnxprune_runtime.so")
    net = Net()
    x = net.input("x", [64, 256])
    y = net.add("MatMul", x, net.weight(256, 256, sparsity=0.99))  # with any instruction set
    onnx.save(net.model(y), tmp_path / "model.onnx")
    return tmp_path


@pytest.mark.parametrize("number", range(2))
def test_python(folder: Path, number: int) -> None:
    code = blocks("python")[number]
    code += "\nprint(type(session).__name__, session.get_providers()[0])\n"
    path = os.pathsep.join(p for p in sys.path if p)
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=dict(os.environ, PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "InferenceSession OnnxPruneSparseExecutionProvider" in done.stdout
    if number == 0:
        assert "True spmm" in done.stdout
    else:
        log = json.loads((folder / "decisions.json").read_text())
        assert [d["op"] for d in log["decisions"]] == ["MatMul"]
        assert log["decisions"][0]["claimed"]


def test_cpp(folder: Path) -> None:
    """Needs onnxruntime's headers: ONNXPRUNE_ORT_INCLUDE_DIR names their folder."""
    headers = os.environ.get("ONNXPRUNE_ORT_INCLUDE_DIR")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if headers is None or compiler is None:
        pytest.skip("ONNXPRUNE_ORT_INCLUDE_DIR is not set, or there is no C++ compiler")
    (code,) = blocks("cpp")
    (folder / "example.cc").write_text(code)
    (shared,) = (Path(ort.__file__).parent / "capi").glob("libonnxruntime.so.*")
    subprocess.run(
        [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", "example.cc", "-o", "example",
         "-isystem", headers, str(shared), f"-Wl,-rpath,{shared.parent}"],
        cwd=folder, check=True,
    )  # fmt: skip
    (folder / shared.name.replace(ort.__version__, "1")).symlink_to(shared)
    done = subprocess.run(
        [folder / "example", folder / "libonnxprune_runtime.so", "model.onnx", "64", "256"],
        cwd=folder,
        env=dict(os.environ, LD_LIBRARY_PATH=str(folder)),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    log = json.loads((folder / "decisions.json").read_text())
    assert log["decisions"][0]["claimed"]
    expected = runtime.session(folder / "model.onnx", 1, provider="cpu").run(
        None, {"x": np.ones((64, 256), np.float32)}
    )[0]
    assert float(done.stdout) == pytest.approx(float(expected[0, 0]), rel=1e-4, abs=1e-5)


@pytest.mark.without_library
def test_options_and_defaults() -> None:
    """The table, what Python takes, and the header agree."""
    section = PAGE.read_text().split("## Options")[1].split("\n## ")[0]
    table = dict(re.findall(r"^\| `(\w+)` \| `?([^`|]+?)`? \|", section, re.MULTILINE))
    assert set(runtime.OPTIONS) <= set(table)
    # These two are set by `session` itself.
    assert set(table) - set(runtime.OPTIONS) == {"threads", "session_id"}
    member = re.compile(r"^  (?:bool|double|int|std::string) (\w+)(?: = ([^;]+))?;", re.MULTILINE)
    declared = dict(member.findall(OPTIONS_H.read_text()))
    spelled = {"true": "1", "false": "0", "": "none"}
    for name, default in table.items():
        value = "auto" if name == "isa" else spelled.get(declared[name], declared[name])
        assert value == default, name
    words = {"1": "True", "0": "False"}
    for name, told in runtime.OPTIONS.items():
        default = table[name] if name == "min_sparsity" else words.get(table[name], table[name])
        assert told.endswith(f"({default})"), name
