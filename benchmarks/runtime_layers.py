"""Every layer of ResNet-50 alone: GFLOP/s of the kept weights and share of this core's FMA peak.

    python benchmarks/runtime_layers.py [--patterns u80,u90] [--isa avx2] [--no-code] [--json F]

Builds and runs the C++ benchmark ``kernel_bench`` (needs a compiler): batch 1, one thread, hot, no
onnxruntime in it; the peak is that of independent register multiply-adds, measured in the same
process. A layer class is a size of image. After the layers come, for each pattern, the sum over the
network, the seconds that planning took (code generation included) and the size of the code when
the layers run one after the other.
"""
# bench: make

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "kernel-bench"
CELL = re.compile(r"\|\s*([\d.]+) GF\s+([\d.]+)%")
LAYER = re.compile(r"^(\d)x\d\s+(\d+)-\s*(\d+)@\s*(\d+) x(\d+)")
SUM = re.compile(r"^(\S+)\s+sum\s+([\d.]+) ms\s+([\d.]+) GF/s \(\s*([\d.]+)%.*planned in (\d+) ms")
CHAIN = re.compile(r"^(\S+)\s+chain\s+([\d.]+) ms; ([\d.]+) MB .*\(([\d.]+) MB code\).* (\d+) ms")


def tool(name: str) -> str:
    """Path of ``name`` beside this Python, or its bare name."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else name


def build() -> Path:
    """Configure and build the C++ benchmark; its path."""
    configure = [
        tool("cmake"),
        *("-S", str(ROOT / "runtime_ext" / "kernels"), "-B", str(BUILD), "-G", "Ninja"),
        f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}",
        "-DCMAKE_BUILD_TYPE=Release",
        "-DONNXPRUNE_NATIVE_TESTS=ON",
    ]
    target = [tool("cmake"), "--build", str(BUILD), "--target", "kernel_bench", "-j2"]
    for step in (configure, target):
        subprocess.run(step, check=True, stdout=subprocess.DEVNULL)
    return next(BUILD.rglob("kernel_bench"))


def parse(text: str, patterns: list[str]) -> dict[str, Any]:
    """Layers, classes (mean share over the time of their layers), sums and chains of the output."""
    layers: list[dict[str, Any]] = []
    sums: dict[str, dict[str, float]] = {p: {} for p in patterns}
    peak = 0.0
    for line in text.splitlines():
        if found := re.match(r"^\w+, peak ([\d.]+) GFLOP/s", line):
            peak = float(found[1])
        elif found := LAYER.match(line):
            kernel, inputs, outputs, size, count = (int(v) for v in found.groups())
            flops = kernel * kernel * inputs * outputs * size * size * count
            for pattern, (rate, share) in zip(patterns, CELL.findall(line), strict=True):
                layers.append(
                    {
                        "pattern": pattern,
                        "kernel": kernel,
                        "in": inputs,
                        "out": outputs,
                        "size": size,
                        "count": count,
                        "gflops": float(rate),
                        "share": float(share) / 100,
                        "weight": flops,
                    }
                )
        elif found := SUM.match(line):
            sums[found[1]].update(
                ms=float(found[2]), share=float(found[4]) / 100, planned_ms=float(found[5])
            )
        elif found := CHAIN.match(line):
            sums[found[1]].update(
                chain_ms=float(found[2]), packed_mb=float(found[3]), code_mb=float(found[4])
            )
    return {"peak_gflops": peak, "layers": layers, "classes": classes(layers), "sums": sums}


def classes(layers: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Share of the peak by pattern and image size: work done over what the time would allow."""
    work: dict[tuple[str, int], float] = defaultdict(float)
    room: dict[tuple[str, int], float] = defaultdict(float)
    for layer in layers:
        key = layer["pattern"], layer["size"]
        work[key] += layer["weight"]
        room[key] += layer["weight"] / layer["share"]
    result: dict[str, dict[str, float]] = defaultdict(dict)
    for pattern, size in work:
        result[pattern][f"{size}x{size}"] = round(work[pattern, size] / room[pattern, size], 3)
    return dict(result)


def main() -> int:
    """Build, measure, print and, with ``--json``, write everything."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--patterns", default="u80,u90,u95,b80,b90,nm24,dense")
    parser.add_argument("--isa", default="", help="avx512, avx2, scalar")
    parser.add_argument("--no-code", action="store_true", help="no run-time generated kernels")
    parser.add_argument("--quick", action="store_true", help="shorter measurements")
    parser.add_argument("--json", type=Path, help="write layers, classes and sums to this file")
    options = parser.parse_args()
    if not any(shutil.which(name) for name in ("c++", "g++", "clang++")):
        print("no C++ compiler on the PATH: not measured")
        return 0
    patterns = options.patterns.split(",")
    command = [str(build()), *(word for p in patterns for word in ("--pattern", p))]
    command += ["--isa", options.isa] if options.isa else []
    command += ["--no-code"] if options.no_code else []
    command += ["--quick"] if options.quick else []
    text = ""
    for extra in ([], ["--chain"]):
        run = subprocess.run([*command, *extra], check=True, capture_output=True, text=True)
        text += run.stdout
    result = parse(text, patterns)
    print(text)
    for pattern, sizes in result["classes"].items():
        shares = "  ".join(f"{size} {share:.0%}" for size, share in sizes.items())
        print(f"{pattern:6} share of the peak by class: {shares}")
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
