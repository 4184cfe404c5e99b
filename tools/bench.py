"""Run the benchmarks one after the other and keep what each prints.

    python tools/bench.py [--out build/bench] [NAME ...]

A benchmark is a script ``benchmarks/NAME.py`` whose first line of the docstring says what it
measures and that has ``# bench: make`` among its first lines when `make bench` shall run it.
Its output goes to the screen and to OUT/NAME.txt. Timings mean something only on a quiet machine.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MARK = "# bench: make"


def marked() -> list[str]:
    """Return the names of the benchmarks that `make bench` runs, sorted."""
    return sorted(
        path.stem for path in (ROOT / "benchmarks").glob("*.py") if MARK in path.read_text()[:4000]
    )


def run(name: str, out: Path) -> int:
    """Run one benchmark, its output copied to ``out``/NAME.txt; its exit code."""
    command = [sys.executable, str(ROOT / "benchmarks" / f"{name}.py")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with (out / f"{name}.txt").open("w") as file:
        for line in process.stdout:
            sys.stdout.write(line)
            sys.stdout.flush()
            file.write(line)
    return process.wait()


def main() -> int:
    """Run the named benchmarks, by default all marked ones; 1 if any failed."""
    parser = argparse.ArgumentParser(description="run the benchmarks")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "bench")
    options = parser.parse_args()
    names = options.names or marked()
    options.out.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names:
        print(f"== {name}", flush=True)
        start = time.monotonic()
        if run(name, options.out) != 0:
            failed.append(name)
        print(f"== {name}: {time.monotonic() - start:.0f} s", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else f"all {len(names)} benchmarks done")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
