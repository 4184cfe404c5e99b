"""All static checks, each run to its end: ruff, formatting, mypy --strict, imports, includes.

    python tools/lint.py

The exit code is 1 if any of them complains.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tree import ROOT, link_tree

BIN = Path(sys.executable).parent
CONFIG = ROOT / "pyproject.toml"
# Training scripts need torch, and the zoo its model definitions too: neither is installed here.
UNTYPED = r"^(models/(train.*)\.py|benchmarks/zoo/.*)$"


def steps(tree: Path) -> dict[str, tuple[list[str], Path]]:
    """Return the checks by name: the command and the folder that it runs in."""
    mypy = [str(BIN / "mypy"), "--config-file", str(CONFIG)]
    cache = f"--cache-dir={ROOT / '.mypy_cache'}"
    scripts = [folder for folder in ("tools", "models", "benchmarks") if any_python(ROOT / folder)]
    return {
        "ruff": ([str(BIN / "ruff"), "check", "."], ROOT),
        "format": ([str(BIN / "ruff"), "format", "--check", "."], ROOT),
        "types of the package": ([*mypy, cache, "-p", "onnxprune"], tree),
        "types of the scripts": (
            [*mypy, cache, "--exclude", UNTYPED, "--explicit-package-bases", *scripts],
            ROOT,
        ),
        "import direction": (
            [str(BIN / "lint-imports"), "--no-logo", "--no-cache", "--config", str(CONFIG)],
            tree,
        ),
        "include direction": ([sys.executable, str(ROOT / "tools" / "check_includes.py")], ROOT),
    }


def any_python(folder: Path) -> bool:
    """Return whether ``folder`` holds a Python file directly."""
    return any(folder.glob("*.py"))


def main() -> int:
    """Run every check and print which ones complained; the process exit code."""
    tree = link_tree(ROOT / "build" / "lint")
    environment = dict(os.environ, PYTHONPATH=str(tree), MYPYPATH=f"{tree}:tools:models:benchmarks")
    failed = []
    for name, (command, folder) in steps(tree).items():
        print(f"== {name}", flush=True)
        if subprocess.run(command, cwd=folder, env=environment).returncode != 0:
            failed.append(name)
    print(f"lint: {', '.join(failed)} failed" if failed else "lint: all clean")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
