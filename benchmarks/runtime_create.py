# bench: make
"""How long does it take to make a session, against the CPU provider? In fresh processes.

    python benchmarks/runtime_create.py [--networks resnet50] [--kinds u80,u90,2:4]
        [--processes 3] [--sessions 3] [--no-code] [--json FILE]

Every process makes ``--sessions`` sessions of one file one after the other, all with one provider,
each dropped before the next; processes with either provider take turns. The first session of a
process pays for what the process does once (the library, its measurement of the machine, fresh
memory); the later ones show what every further session costs. Told are the shortest times in
milliseconds over the processes and their ratio, sparse over CPU, for each session of a process;
the last column is the memory that the generated code of a sparse session takes. Exit code 1 where
a ratio is above the bar of 1.5.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import onnx
import suite

from onnxprune import runtime

BAR = 1.5


def child(path: Path, provider: str, sessions: int) -> None:
    """Make the sessions; print the milliseconds of each and the bytes of generated code."""
    data = path.read_bytes()
    if provider == "sparse":
        runtime.available()  # loading the library is no part of making a session
    else:
        runtime.session(onnx_of_nothing(), 1, provider="cpu")
    times, code = [], 0
    for _ in range(sessions):
        start = time.perf_counter()
        made = runtime.session(data, 1, provider=provider)
        times.append(1e3 * (time.perf_counter() - start))
        if provider == "sparse":
            code = sum(d.code_bytes or 0 for d in runtime.explain(made))
        del made
        gc.collect()
    print(json.dumps({"ms": times, "code": code}))


def onnx_of_nothing() -> bytes:
    """A model of one Identity: onnxruntime is imported and started before anything is timed."""
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "nothing", [info], [out]))
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


def once(path: Path, provider: str, sessions: int) -> dict[str, Any]:
    """Run ``child`` in a fresh process."""
    command = [sys.executable, __file__, "--child", str(path), provider]
    command += ["--sessions", str(sessions)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(path: Path, processes: int, sessions: int) -> dict[str, Any]:
    """The shortest times of each session of a process, by provider, and their ratios."""
    best: dict[str, list[float]] = {}
    code = 0
    for _ in range(processes):
        for provider in ("cpu", "sparse"):
            found = once(path, provider, sessions)
            known = best.get(provider, found["ms"])
            best[provider] = [min(pair) for pair in zip(known, found["ms"], strict=True)]
            code = max(code, found["code"])
    ratios = [s / c for s, c in zip(best["sparse"], best["cpu"], strict=True)]
    return {"cpu_ms": best["cpu"], "sparse_ms": best["sparse"], "ratios": ratios, "code": code}


def main() -> int:
    """Measure; 1 if a ratio is above the bar."""
    parser = argparse.ArgumentParser(description="how long does it take to make a session?")
    parser.add_argument("--networks", default="^resnet50$", help="regular expression on names")
    parser.add_argument("--kinds", default=",".join(suite.KINDS))
    parser.add_argument("--processes", type=int, default=3, help="of each provider")
    parser.add_argument("--sessions", type=int, default=3, help="of each process")
    parser.add_argument("--models", type=Path, help="keep the pruned models in this folder")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "PROVIDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), given.child[1], given.sessions)
        return 0
    rows = []
    with tempfile.TemporaryDirectory(prefix="onnxprune-create-") as text:
        folder = given.models or Path(text)
        for name, load in suite.sources(given.networks).items():
            for kind in given.kinds.split(","):
                path = folder / f"{name.replace('/', '_')}.{kind.replace(':', 'of')}.onnx"
                if not path.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    onnx.save(suite.pruned(load(), kind), path)
                row = measure(path, given.processes, given.sessions)
                rows.append({"network": name, "kind": kind, **row})
                times = "  ".join(
                    f"{s:7.1f} / {c:6.1f} x{r:.2f}"
                    for s, c, r in zip(row["sparse_ms"], row["cpu_ms"], row["ratios"], strict=True)
                )
                print(f"{name} {kind:8} {times}  code {row['code'] / 1e6:6.1f} MB", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    above = [r for r in rows if max(r["ratios"]) > BAR]
    for row in above:
        print(f"above {BAR}: {row['network']} {row['kind']} x{max(row['ratios']):.2f}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
