"""A short run of tools/fuzz_packed.py, without sanitizers: damage is an error, never a crash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))

import fuzz_packed  # noqa: E402


def environment(library: Path) -> dict[str, str]:
    """What the workers need to find this very package and library."""
    path = os.pathsep.join(p for p in sys.path if p)
    return dict(os.environ, PYTHONPATH=path, ONNXPRUNE_LIBRARY=str(library))


def test_mutated_models(library: Path) -> None:
    found = fuzz_packed.fuzz(0, 150, 1, environment(library))
    assert not found["crashes"], found["crashes"][0]["report"]
    tally = found["tally"]
    assert sum(tally.values()) == 150
    # Both ends are reached: some damage is harmless, most is refused by us.
    assert tally["ran"] >= 3 and tally["refused by onnxprune"] >= 50


def test_a_crash_is_told(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies is one crash with its case, and the rest goes on."""
    real = subprocess.run

    def dying(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        if "--first" in command and command[command.index("--first") + 1] == "0":
            return subprocess.CompletedProcess(command, -11, "", "it died")
        return real(command, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr(fuzz_packed.subprocess, "run", dying)
    found = fuzz_packed.fuzz(0, 3, 1, environment(library))
    assert found["crashes"] == [{"case": 0, "code": -11, "report": "it died"}]
    assert sum(found["tally"].values()) == 3
