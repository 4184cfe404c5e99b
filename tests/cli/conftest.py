"""The command line as tests use it: in this process, and in one of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_helpers import Ran

from onnxprune.cli import main

REPOSITORY = Path(__file__).resolve().parent.parent.parent
# A shell that starts the tests in the background has the interrupt ignored, by children too.
START = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from onnxprune.cli import main; main(prog_name='onnxprune')"
)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process."""

    def call(*args: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(a) for a in args], prog_name="onnxprune")
        out, err = capsys.readouterr()
        return Ran(int(ended.value.code or 0), out, err)

    return call


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment of a fresh process that can import onnxprune, installed or checked out."""
    held = dict(os.environ)
    spec = importlib.util.find_spec("onnxprune")
    assert spec is not None and spec.origin is not None
    if (Path(spec.origin).parent / "passes").is_dir():
        return held
    package = tmp_path_factory.mktemp("checkout") / "onnxprune"
    package.mkdir()
    for source in [*(REPOSITORY / "onnxprune").iterdir(), REPOSITORY / "passes"]:
        if source.name != "__pycache__":
            (package / source.name).symlink_to(source, target_is_directory=source.is_dir())
    return held | {"PYTHONPATH": str(package.parent)}


@pytest.fixture
def start(environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.Popen[str]]:
    """Start the command line in a process of its own, in an empty folder."""

    def call(*args: object, **extra: Any) -> subprocess.Popen[str]:
        folder = tmp_path / "cwd"
        folder.mkdir(exist_ok=True)
        extra = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True} | extra
        command = [sys.executable, "-c", START, *map(str, args)]
        return subprocess.Popen(command, cwd=folder, **({"env": environment} | extra))

    return call


@pytest.fixture
def process(start: Callable[..., subprocess.Popen[str]]) -> Callable[..., Ran]:
    """Run the command line in a process of its own to its end."""

    def call(*args: object, **extra: Any) -> Ran:
        started = start(*args, **extra)
        out, err = started.communicate(timeout=120)
        return Ran(started.returncode, out or "", err or "")

    return call


@pytest.fixture(scope="session")
def resnet() -> Path:
    """A small residual network with batch norms and a dynamic batch."""
    return REPOSITORY / "models" / "digits_resnet.onnx"
