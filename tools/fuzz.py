"""Run the property tests over and over with new random seeds until the time is up or one fails.

    python tools/fuzz.py [--seconds 600] [--select EXPRESSION] [--seed N]

What is fuzzed is the Python of this checkout; the runtime's library is the one of its own
`build/native`, else the installed one, unless ``ONNXPRUNE_LIBRARY`` names another. `make test`
runs the same tests with fixed examples. A failure prints the seed, and hypothesis prints how to
repeat it; the failing example also stays in `.hypothesis/`.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tree import ROOT, link_tree

NO_TESTS = 5  # pytest's exit code when nothing was selected


def main() -> int:
    """Fuzz; the process exit code: 0 when every round passed."""
    parser = argparse.ArgumentParser(description="run the property tests with new seeds")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--select", default="", help="pytest -k expression")
    parser.add_argument("--seed", type=int, help="start from this seed instead of a random one")
    options = parser.parse_args()
    seed = secrets.randbits(31) if options.seed is None else options.seed
    pytest = Path(sys.executable).with_name("pytest")
    with tempfile.TemporaryDirectory(prefix="onnxprune-fuzz-") as folder:
        paths = [str(ROOT / "tools"), str(link_tree(Path(folder) / "tree"))]
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(paths))
        if (library := _library()) is not None:
            environment.setdefault("ONNXPRUNE_LIBRARY", str(library))
        return _rounds(options, pytest, environment, seed)


def _library() -> Path | None:
    """Return the runtime's library of the installed package, None where it is not needed."""
    if (ROOT / "build" / "native" / "libonnxprune_runtime.so").exists():
        return None
    spec = importlib.util.find_spec("onnxprune")
    found = Path(spec.origin).parent / "runtime" / "lib" if spec and spec.origin else None
    return next(iter(sorted(found.glob("libonnxprune_runtime.*"))), None) if found else None


def _rounds(
    options: argparse.Namespace, pytest: Path, environment: dict[str, str], seed: int
) -> int:
    """Run rounds until the time is up; return the exit code."""
    end = time.monotonic() + options.seconds
    rounds = 0
    while rounds == 0 or time.monotonic() < end:
        command = [str(pytest), "-x", "-m", "hypothesis", "-p", "fuzz_profile"]
        command += ["--hypothesis-profile=fuzz", f"--hypothesis-seed={seed}"]
        command += ["-k", options.select] if options.select else []
        print(f"round {rounds + 1}, seed {seed}", flush=True)
        code = subprocess.run(command, cwd=ROOT, env=environment).returncode
        if code == NO_TESTS:
            print("no property test matches")
            return 1
        if code != 0:
            print(f"failed with seed {seed}: python tools/fuzz.py --seed {seed}")
            return 1
        rounds, seed = rounds + 1, (seed + 1) % 2**31
    print(f"{rounds} rounds passed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
