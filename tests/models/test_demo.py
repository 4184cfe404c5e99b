"""The demo runs to its end and shows what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_demo_prunes_proves_and_keeps_accuracy(tmp_path: Path) -> None:
    if not Path(sys.executable).with_name("onnxprune").exists():
        pytest.skip("onnxprune is not installed in this environment; `make demo` installs it")
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("proved") == 3 and "NOT proved" not in done.stdout
    rows = dict(re.findall(r"│ (\S[^│]*?) +│.* ([\d.]+)% │", done.stdout))
    trained = float(rows.pop("trained"))
    assert set(rows) == {"half the channels", "2:4", "90 % of the weights"}
    assert all(float(value) > trained - 3 for value in rows.values()), rows
    sizes = re.search(r"(\d+) kB -> (\d+) kB, the same numbers", done.stdout)
    assert sizes and int(sizes[2]) * 4 < int(sizes[1])
    if "sparse runtime is left out" not in done.stdout:
        assert re.search(r"tenth.onnx +sparse", done.stdout)
