"""Build the C++ tests under AddressSanitizer and UBSan, and run them.

    python tools/native_tests.py [--build build/native-tests] [--jobs 2] [--no-sanitizers]

CMake, Ninja and ctest are those that `make` installed beside this Python. Without a C++ compiler
nothing can be tested: that is said, and is not a failure; a compiler that fails is one.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILERS = ("c++", "g++", "clang++")


def tool(name: str) -> str:
    """Return the path of ``name`` beside this Python, or on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def main() -> int:
    """Configure, build and run; the process exit code."""
    parser = argparse.ArgumentParser(description="build and run the C++ tests")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "native-tests")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--no-sanitizers", action="store_true")
    options = parser.parse_args()
    compiler = os.environ.get("CXX")
    if compiler is None and not any(shutil.which(name) for name in COMPILERS):
        print("!! no C++ compiler on the PATH and CXX is not set: the C++ tests are NOT run !!")
        return 0
    build = str(options.build)
    sanitizers = "OFF" if options.no_sanitizers else "ON"
    configure = [
        tool("cmake"),
        *("-S", str(ROOT / "runtime_ext"), "-B", build, "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=RelWithDebInfo",
        "-DONNXPRUNE_NATIVE_TESTS=ON",
        f"-DONNXPRUNE_SANITIZE={sanitizers}",
    ]
    steps = [
        configure,
        [tool("cmake"), "--build", build, "--parallel", options.jobs],
        [tool("ctest"), "--test-dir", build, "--output-on-failure", "--no-tests=error"],
    ]
    for step in steps:
        if subprocess.run(step, cwd=ROOT).returncode != 0:
            print(f"C++ tests: {Path(step[0]).name} failed")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
