"""Build the wheel and install it, with what the tests need, into a virtual environment.

    python3 tools/install.py FOLDER [--extras test,lint] [--require-native]

`make` calls this; nothing but Python, pip and a C++17 compiler is needed on the machine (CMake and
Ninja come from pip). The native library is built with the package. Where that fails, the package
is built without it, which is said loudly and remembered in FOLDER/native-build-failed.txt;
everything but the sparse runtime then still works.

The build runs in the environment itself instead of a fresh one each time, so that a second build
is incremental and needs no network.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD_REQUIREMENTS = ["scikit-build-core>=0.10", "cmake>=3.20", "ninja"]
OLDEST = (3, 10)


def run(command: list[str], log: Path | None = None) -> int:
    """Run ``command`` in the repository; with ``log``, its output goes there and to the screen."""
    if log is None:
        return subprocess.run(command, cwd=ROOT).returncode
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    with log.open("w") as file:
        for line in process.stdout:
            sys.stdout.write(line)
            file.write(line)
    return process.wait()


def notice(log: Path) -> str:
    """Return what to print when the native library could not be built."""
    lines = [
        "The native library could NOT be built: onnxprune is installed WITHOUT its sparse runtime.",
        "Pruning, proofs and conversion work; `onnxprune.runtime` and its tests do not.",
        f"What the build said is in {log}.",
        "It needs a C++17 compiler (set CXX to choose one). Install one and run the same again.",
    ]
    bar = "!" * max(len(line) for line in lines)
    return "\n".join([bar, *lines, bar])


def main() -> int:
    """Install; 0 when something usable is installed (and, if required, with the library)."""
    parser = argparse.ArgumentParser(description="install onnxprune for development")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--extras", default="test")
    parser.add_argument("--require-native", action="store_true")
    options = parser.parse_args()
    if sys.version_info < OLDEST:
        print(f"onnxprune needs Python {OLDEST[0]}.{OLDEST[1]} or newer; this is {sys.version}")
        print("Name a newer one: make PYTHON=python3.12 ...")
        return 1

    folder: Path = options.folder.absolute()
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    if not python.exists():
        print(f"creating {folder}")
        venv.create(folder, with_pip=True, symlinks=sys.platform != "win32")
    pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    if run([*pip, *BUILD_REQUIREMENTS]) != 0:
        return 1

    package = [*pip, "--no-build-isolation", f"{ROOT}[{options.extras}]"]
    log = folder / "native-build.log"
    failed = folder / "native-build-failed.txt"
    failed.unlink(missing_ok=True)
    print("building and installing onnxprune with its native library", flush=True)
    if run(package, log) == 0:
        return 0
    print("trying again without the native library", flush=True)
    if run([*package, "--config-settings=wheel.cmake=false"]) != 0:
        print("onnxprune cannot be installed even without the native library; see above")
        return 1
    failed.write_text(notice(log) + "\n")
    print(notice(log), flush=True)
    return 1 if options.require_native else 0


if __name__ == "__main__":
    raise SystemExit(main())
