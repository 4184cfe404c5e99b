"""Build the C++ tests under AddressSanitizer and UBSan, and run them.

    python tools/native_tests.py [--build build/native-tests] [--jobs 2] [--no-sanitizers]

The provider's library is built under them too, and loaded into Python: damaged models
(fuzz_packed.py), and random networks on the provider.

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

from fuzz_packed import LIBRARY, sanitizer_environment

ROOT = Path(__file__).resolve().parent.parent
COMPILERS = ("c++", "g++", "clang++")
DAMAGED = "150"
RANDOM_NETWORKS = ("test_runtime_regions.py", "test_runtime_moves.py")


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
        [
            tool("ctest"),
            "--test-dir",
            build,
            "--output-on-failure",
            "--no-tests=error",
            "--parallel",
            options.jobs,
        ],
    ]
    for step in steps:
        if subprocess.run(step, cwd=ROOT).returncode != 0:
            print(f"C++ tests: {Path(step[0]).name} failed")
            return 1
    return 0 if options.no_sanitizers else in_python(options.build / LIBRARY)


def in_python(library: Path) -> int:
    """Load the sanitized library into Python; the process exit code."""
    if sys.platform != "linux":
        print("the library under sanitizers is only loaded into Python on Linux")
        return 0
    environment = dict(os.environ) | sanitizer_environment()
    if not all(Path(path).is_absolute() for path in environment["LD_PRELOAD"].split()):
        print("the compiler has no shared libasan and libubsan to load into Python first")
        return 0
    environment["ONNXPRUNE_LIBRARY"] = str(library.resolve())
    tests = [str(ROOT / "tests" / "runtime" / name) for name in RANDOM_NETWORKS]
    steps = {
        "damaged models": [str(ROOT / "tools" / "fuzz_packed.py"), "--count", DAMAGED,
                           "--library", str(library)],
        "random networks": ["-m", "pytest", "-q", "-m", "not slow", *tests],
    }  # fmt: skip
    for name, step in steps.items():
        print(f"{name} under the sanitizers", flush=True)
        if subprocess.run([sys.executable, *step], cwd=ROOT, env=environment).returncode != 0:
            print(f"C++ tests: {name} under the sanitizers failed")
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
