"""Load mutated packed and compiled models over and over: no crash, no leak, only error messages.

    python tools/fuzz_packed.py [--count 10000] [--seed 0] [--library FILE.so] [--no-sanitizers]

Seeds are small networks with weights packed in every format, and compiled ones (EPContext). Each
case changes bytes of a blob, its header fields, its length, the node's attributes or its inputs,
and puts checksums right again half of the time. The model is loaded on the sparse provider, or on
the CPU provider with the custom operators, and run if it loads. Case N of seed S is always the same
one: ``--first N --count 1 --seed S`` repeats it.

The library is built here under AddressSanitizer and UBSan (build/native-tests, the folder of
``make test-native``), and worker processes load the sanitizers' runtime first. A worker that dies
is a crash, told with its case and report; after each batch the leak checker looks for memory that
the library's code has allocated and nobody holds.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from fuzz_mutations import Rng, mutated, seeds
from onnx import TensorProto, numpy_helper

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = "libonnxprune_runtime.so"
BATCH = 500


def attempt(model: onnx.ModelProto, rng: Rng) -> str:
    """Load and run one model; "ran", or whose error it was. Raises what must not happen."""
    import onnxruntime as ort

    from onnxprune import runtime

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    data = model.SerializeToString()
    try:
        if rng.random() < 0.7:
            force = bool(rng.random() < 0.5)
            session = runtime.session(data, 1, session_options=options, force=force, timing=False)
        else:
            options.register_custom_ops_library(str(runtime.library_path()))
            session = ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        feeds = {
            "x": np.zeros((2, 8, 9, 7), np.float32),
            "t": np.ones((16, 3), np.float32),
            "s": np.ones((3, 2, 8), np.float32),
            "lengths": np.array([3, 1], np.int32),
        }
        wanted = {i.name for i in session.get_inputs()}
        session.run(None, {k: v for k, v in feeds.items() if k in wanted})
    except Exception as error:
        text = str(error)
        if len(text) < 12 or "unknown exception" in text.lower():
            raise AssertionError(f"an error that says nothing: {error!r}") from error
        ours = any(word in text for word in ("onnxprune", "packed weight", "compiled model"))
        return "refused by onnxprune" if ours else "refused by onnxruntime"
    return "ran"


def leaks_of_ours() -> str:
    """Ask the leak checker; what it found that passed through the library, else nothing."""
    try:
        check = ctypes.CDLL(None).__lsan_do_recoverable_leak_check
    except AttributeError:
        return ""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            check()
        finally:
            os.dup2(saved, 2)
            os.close(saved)
        held.seek(0)
        text = held.read().decode(errors="replace")
    blocks = re.split(r"\n(?=(?:Direct|Indirect) leak of)", text)
    return "\n".join(b for b in blocks[1:] if LIBRARY in b)


def worker(first: int, count: int, seed: int, state: Path) -> int:
    """Try ``count`` cases; ``state`` always names the one at hand."""
    models = seeds()
    blobs = [numpy_helper.to_array(t).tobytes() for m in models for t in m.graph.initializer
             if t.data_type == TensorProto.UINT8]  # fmt: skip
    tally: collections.Counter[str] = collections.Counter()
    for case in range(first, first + count):
        state.write_text(json.dumps({"case": case, "tally": tally}))
        rng = np.random.default_rng([seed, case])
        model = mutated(models[int(rng.integers(len(models)))], rng, blobs)
        tally[attempt(model, rng)] += 1
    leaks = leaks_of_ours()
    state.write_text(json.dumps({"case": first + count, "tally": tally, "leaks": leaks}))
    return 1 if leaks else 0


def build() -> Path:
    """Build the library under sanitizers; its path."""
    folder = ROOT / "build" / "native-tests"
    beside = Path(sys.executable).parent
    cmake = str(beside / "cmake") if (beside / "cmake").exists() else "cmake"
    ninja = str(beside / "ninja") if (beside / "ninja").exists() else "ninja"
    configure = [cmake, "-S", str(ROOT / "runtime_ext"), "-B", str(folder), "-G", "Ninja"]
    configure += [f"-DCMAKE_MAKE_PROGRAM={ninja}", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    configure += ["-DONNXPRUNE_NATIVE_TESTS=ON", "-DONNXPRUNE_SANITIZE=ON"]
    subprocess.run(configure, check=True, stdout=subprocess.DEVNULL)
    subprocess.run(
        [cmake, "--build", str(folder), "--target", "onnxprune_runtime", "--parallel", "2"],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return folder / LIBRARY


def sanitizer_environment() -> dict[str, str]:
    """What a Python process needs so that a sanitized library can be loaded into it."""
    compiler = os.environ.get("CXX", "c++")
    found = [
        subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True)
        for name in ("libasan.so", "libubsan.so", "libstdc++.so.6")
    ]
    return {
        "LD_PRELOAD": " ".join(done.stdout.strip() for done in found),
        # Python itself never frees everything: leaks are looked for by the worker, in our code.
        "ASAN_OPTIONS": "detect_leaks=1:leak_check_at_exit=0:allocator_may_return_null=1:"
        "max_allocation_size_mb=4096:malloc_context_size=40",
        "LSAN_OPTIONS": "leak_check_at_exit=0:report_objects=0:max_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONMALLOC": "malloc",
    }


def fuzz(first: int, count: int, seed: int, environment: dict[str, str]) -> dict[str, Any]:
    """Run all cases in worker processes; the tally, crashes and leaks."""
    tally: collections.Counter[str] = collections.Counter()
    crashes: list[dict[str, Any]] = []
    leaks: list[str] = []
    end = first + count
    with tempfile.TemporaryDirectory(prefix="onnxprune-fuzz-") as folder:
        state = Path(folder) / "state.json"
        while first < end:
            size = min(BATCH, end - first)
            state.write_text(json.dumps({"case": first, "tally": {}}))
            command = [sys.executable, __file__, "--worker", str(state)]
            command += ["--first", str(first), "--count", str(size), "--seed", str(seed)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True)
            found = json.loads(state.read_text())
            tally.update(found["tally"])
            if found.get("leaks"):
                leaks.append(f"cases {first} to {first + size - 1}:\n{found['leaks']}")
            elif done.returncode != 0:
                crashes.append({"case": found["case"], "code": done.returncode,
                                "report": done.stderr[-6000:]})  # fmt: skip
                tally["crashed"] += 1
            first = found["case"] + (1 if done.returncode != 0 and not found.get("leaks") else 0)
            print(f"{first}: {dict(tally)}", file=sys.stderr, flush=True)
            if len(crashes) >= 20:
                break
    return {"tally": dict(tally), "crashes": crashes, "leaks": leaks}


def main() -> int:
    """Fuzz; 0 when nothing crashed or leaked."""
    parser = argparse.ArgumentParser(description="load mutated packed models in a loop")
    parser.add_argument("--count", type=int, default=10000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--library", type=Path, help="instead of building one")
    parser.add_argument("--no-sanitizers", action="store_true", help="the library as installed")
    parser.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.worker:
        return worker(given.first, given.count, given.seed, given.worker)
    environment = dict(os.environ)
    if not given.no_sanitizers:
        library = given.library or build()
        environment |= sanitizer_environment() | {"ONNXPRUNE_LIBRARY": str(library.resolve())}
    elif given.library:
        environment["ONNXPRUNE_LIBRARY"] = str(given.library.resolve())
    result = fuzz(given.first, given.count, given.seed, environment)
    for crash in result["crashes"]:
        print(f"CRASH in case {crash['case']} (exit code {crash['code']}):\n{crash['report']}\n")
    for leak in result["leaks"]:
        print(f"LEAK in {leak}\n")
    told = ", ".join(f"{count} {what}" for what, count in sorted(result["tally"].items()))
    print(f"{sum(result['tally'].values())} models: {told}; {len(result['leaks'])} batches leaked")
    return 1 if result["crashes"] or result["leaks"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
