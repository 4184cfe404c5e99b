"""Runtime tests need the library: the installed one, or one built here."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from onnxprune import runtime

ROOT = Path(__file__).resolve().parents[2]


def _build() -> str:
    """Build the library into build/native; return why not, or nothing."""
    if not (ROOT / "runtime_ext" / "CMakeLists.txt").is_file():
        return "no sources of the runtime library here"
    cmake = shutil.which("cmake")
    if cmake is None:
        return "the runtime library is not built and there is no cmake"
    build = str(ROOT / "build" / "native")
    for command in (
        [cmake, "-S", str(ROOT / "runtime_ext"), "-B", build],
        [cmake, "--build", build, "-j2"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return f"the runtime library cannot be built: {done.stderr.strip()[-300:]}"
    return ""


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "without_library: does not need the runtime library")


@pytest.fixture(scope="session")
def library() -> Path:
    """Path of the library, registered with onnxruntime; skips where there is none."""
    if runtime.library_path() is None:
        trouble = _build()
        if trouble:
            pytest.skip(trouble)
    usable, reason = runtime.available()
    if not usable:
        pytest.skip(reason)
    path = runtime.library_path()
    assert path is not None
    return path


@pytest.fixture(autouse=True)
def _needs_library(request: pytest.FixtureRequest) -> None:
    """Every test here uses the library unless it is marked otherwise."""
    if request.node.get_closest_marker("without_library") is None:
        request.getfixturevalue("library")
