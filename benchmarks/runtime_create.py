# bench: make
"""How long does it take to make a session, against the CPU provider? In fresh processes.

    python benchmarks/runtime_create.py [--networks resnet50] [--kinds u80,u90,2:4]
        [--processes 3] [--sessions 3] [--bytes] [--json FILE]

Every process makes ``--sessions`` sessions of one file one after the other, all with one provider,
each dropped before the next or, in other processes, all of them kept: then the sparse provider's
share what they can. Processes with either provider take turns. The first session of a process pays
for what the process does once (the library, its measurement of the machine, fresh memory); the
later ones show what every further session costs. Told are the shortest times in milliseconds over
the processes and their ratio, sparse over CPU, for each session of a process; then the pages that
the last session touched for the first time (thousands) and the memory that all of it holds beyond
what there was before the first (MB), for either provider; and the memory that the generated code
of a sparse session takes. Exit code 1 where a ratio is above the bar of 1.5.

``--bytes`` gives the model as bytes, which onnxruntime's binding copies first: that takes as many
new pages again, unless so much lies free in one piece of the heap, as the CPU provider leaves it.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
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


def resident() -> float:
    """Resident memory of this process, MB."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def child(path: Path, provider: str, sessions: int, keep: bool, as_bytes: bool) -> None:
    """Make the sessions; print the milliseconds of each, and what the last one took."""
    data = path.read_bytes() if as_bytes else path
    if provider == "sparse":
        runtime.available()  # loading the library is no part of making a session
    else:
        runtime.session(onnx_of_nothing(), 1, provider="cpu")
    times, code, pages, memory, kept = [], 0, 0, 0.0, []
    before = resident()
    for _ in range(sessions):
        pages = -resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start = time.perf_counter()
        made = runtime.session(data, 1, provider=provider)
        times.append(1e3 * (time.perf_counter() - start))
        pages += resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        memory = resident() - before
        if provider == "sparse":
            code = sum(d.code_bytes or 0 for d in runtime.explain(made))
        if keep:
            kept.append(made)
        del made
        gc.collect()
    print(json.dumps({"ms": times, "code": code, "pages": pages, "memory": memory}))


def onnx_of_nothing() -> bytes:
    """A model of one Identity: onnxruntime is imported and started before anything is timed."""
    info = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "nothing", [info], [out]))
    model.ir_version = 8
    data: bytes = model.SerializeToString()
    return data


def once(path: Path, provider: str, given: argparse.Namespace, keep: bool) -> dict[str, Any]:
    """Run ``child`` in a fresh process."""
    command = [sys.executable, __file__, "--child", str(path), provider]
    command += ["--sessions", str(given.sessions)]
    command += [*(["--keep"] if keep else []), *(["--bytes"] if given.bytes else [])]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(path: Path, given: argparse.Namespace, keep: bool) -> dict[str, Any]:
    """The least of everything over the processes, by provider, and the ratios of the times."""
    best: dict[str, dict[str, Any]] = {}
    for _ in range(given.processes):
        for provider in ("cpu", "sparse"):
            found = once(path, provider, given, keep)
            known = best.setdefault(provider, found)
            known["ms"] = [min(pair) for pair in zip(known["ms"], found["ms"], strict=True)]
            for key in ("code", "pages", "memory"):
                known[key] = min(known[key], found[key])
    pairs = zip(best["sparse"]["ms"], best["cpu"]["ms"], strict=True)
    return {**best, "ratios": [sparse / cpu for sparse, cpu in pairs]}


def told(row: dict[str, Any]) -> str:
    """One line of the table."""
    sparse, cpu = row["sparse"], row["cpu"]
    times = "  ".join(
        f"{s:7.1f} / {c:6.1f} x{r:.2f}"
        for s, c, r in zip(sparse["ms"], cpu["ms"], row["ratios"], strict=True)
    )
    pages = f"pages {sparse['pages'] / 1e3:5.1f} / {cpu['pages'] / 1e3:5.1f}"
    memory = f"memory {sparse['memory']:6.1f} / {cpu['memory']:6.1f}"
    name = f"{row['network']} {row['kind']:8} {'kept' if row['keep'] else 'dropped':8}"
    return f"{name} {times}  {pages}  {memory}  code {sparse['code'] / 1e6:6.1f}"


def main() -> int:
    """Measure; 1 if a ratio is above the bar."""
    parser = argparse.ArgumentParser(description="how long does it take to make a session?")
    parser.add_argument("--networks", default="^resnet50$", help="regular expression on names")
    parser.add_argument("--kinds", default=",".join(suite.KINDS))
    parser.add_argument("--processes", type=int, default=3, help="of each provider")
    parser.add_argument("--sessions", type=int, default=3, help="of each process")
    parser.add_argument("--models", type=Path, help="keep the pruned models in this folder")
    parser.add_argument("--bytes", action="store_true", help="give the model as bytes")
    parser.add_argument("--keep", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "PROVIDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(Path(given.child[0]), given.child[1], given.sessions, given.keep, given.bytes)
        return 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="onnxprune-create-") as text:
        folder = given.models or Path(text)
        for name, load in suite.sources(given.networks).items():
            for kind in given.kinds.split(","):
                path = folder / f"{name.replace('/', '_')}.{kind.replace(':', 'of')}.onnx"
                if not path.exists():
                    folder.mkdir(parents=True, exist_ok=True)
                    onnx.save(suite.pruned(load(), kind), path)
                for keep in (False, True):
                    row = {"network": name, "kind": kind, "keep": keep}
                    row |= measure(path, given, keep)
                    rows.append(row)
                    print(told(row), flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))
    above = [r for r in rows if max(r["ratios"]) > BAR]
    for row in above:
        print(f"above {BAR}: {told(row)}")
    return 1 if above else 0


if __name__ == "__main__":
    sys.exit(main())
