"""Whole networks on the sparse provider against dense onnxruntime, in one process, interleaved.

    python benchmarks/runtime_speed.py [--networks RE] [--kinds u80,u90] [--threads 1,2] [--json F]

Batch 1. Every network is pruned to every kind (see ``networks.prune``; first and depth-wise
convolutions stay dense) and timed in rounds with the dense network on the CPU provider; speed is
the median over the rounds of dense time / our time; beside it the ratio of the fastest rounds,
which says more where others use the machine. ``real/...`` are the networks of
``../shared/data``, as they are (``dense``) or pruned by magnitude. Also reported: the seconds that
making the session took, ours and the CPU provider's, and how many nodes were claimed. Nothing is
checked here; ``onnxprune validate --runtime sparse`` and the tests do that.
"""
# bench: make

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from networks import NETWORKS, light, prune
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument as OrtError
from timing import ratio, rounds

from onnxprune import runtime
from onnxprune.calibration.feeds import working_feeds

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
#: Networks that are timed only where asked for.
BY_NAME = ("bert", "llama", "llama_step")
DEFAULT = {
    "bert|llama|llama_step": "dense,u80,u90,u95",
    "resnet50": "dense,u70,u80,u90,u95,u99,b4x1_80,b4x1_90,2:4,1:4",
    "mobilenet_v2": "dense,u70,u80,u90,u95",
    "light_squeezenet": "dense,u80,u90",
    "light_resnet50": "u80,u90",
    "light_.*": "dense,u90",
    "real/imagenet_squeezenet10_dc": "dense,u90",
    "real/.*": "u50,u90",
}


def networks(wanted: str) -> Iterator[tuple[str, Callable[[], onnx.ModelProto]]]:
    """Names that match the regular expression, and what makes each."""
    for name, make in NETWORKS.items():
        if re.fullmatch(wanted, name) and (name not in BY_NAME or wanted == name):
            yield name, partial(light, name[6:]) if name.startswith("light_") else make
    for path in sorted(DATA.rglob("*.onnx")) if DATA.is_dir() else []:
        name = "real/" + str(path.relative_to(DATA).with_suffix("")).replace("/model", "")
        if re.fullmatch(wanted, name):
            yield name, partial(load, path)


def load(path: Path) -> onnx.ModelProto:
    """A network whose weights are constants; old files list them as inputs that may be set."""
    model = onnx.load(path)
    weights = {t.name for t in model.graph.initializer}
    kept = [i for i in model.graph.input if i.name not in weights]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.ir_version = max(model.ir_version, 4)
    return model


def kinds_of(name: str) -> list[str]:
    """Kinds a network is pruned to when nothing is asked."""
    return next(k for pattern, k in DEFAULT.items() if re.fullmatch(pattern, name)).split(",")


def feeds_of(session: ort.InferenceSession, dims: dict[str, int]) -> dict[str, Any]:
    """Random inputs; open sizes are 1, or as ``dims`` says."""
    rng = np.random.default_rng(0)
    feeds = {}
    for value in session.get_inputs():
        shape = [d if isinstance(d, int) and d > 0 else dims.get(str(d), 1) for d in value.shape]
        if "float" in value.type:
            feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
        else:
            kind = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}.get(value.type, np.uint8)
            feeds[value.name] = np.ones(shape, kind)
    return feeds


def sample(model: onnx.ModelProto, size: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Inputs that the model runs on, and the sizes they give its open dimensions."""
    dims = open_dims(model, size)
    session = cpu_session(model, 1, dims)
    feeds = feeds_of(session, dims)
    try:
        session.run(None, feeds)
    except OrtError:  # smaller than a window, or a rate that the network does not know
        feeds = working_feeds(model.SerializeToString(), 0, 1)[0]
        for value in model.graph.input:
            stated = value.type.tensor_type.shape.dim
            for dim, found in zip(stated, feeds[value.name].shape, strict=True):
                if dim.dim_param:
                    dims[dim.dim_param] = found
    return feeds, dims


def open_dims(model: onnx.ModelProto, size: int) -> dict[str, int]:
    """Sizes for the named open dimensions of the inputs: batch 1, images of ``size`` pixels."""
    dims: dict[str, int] = {}
    for value in model.graph.input:
        shape = value.type.tensor_type.shape.dim
        for i, dim in enumerate(shape):
            if dim.dim_param:
                spatial = len(shape) == 4 and i >= 2
                dims[dim.dim_param] = size if spatial else 1
    return dims


def quiet_afterwards() -> ort.SessionOptions:
    """Options of a session whose threads do not spin on while the next contender runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("session.force_spinning_stop", "1")
    return options


def cpu_session(model: onnx.ModelProto, threads: int, dims: dict[str, int]) -> ort.InferenceSession:
    """The dense network as onnxruntime runs it by itself."""
    options = quiet_afterwards()
    options.intra_op_num_threads = threads
    for name, size in dims.items():
        options.add_free_dimension_override_by_name(name, size)
    return ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    """What ``make`` returns, and the seconds it took."""
    start = time.perf_counter()
    return make(), time.perf_counter() - start


def measure(
    name: str, model: onnx.ModelProto, kinds: list[str], threads: int, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """One row for each kind, at one number of threads."""
    feeds, dims = sample(model, options.size)
    dense, cpu_created = timed(lambda: cpu_session(model, threads, dims))
    contenders: dict[str, Any] = {"": partial(dense.run, None, feeds)}
    rows: list[dict[str, Any]] = []
    for kind in kinds:
        data = prune(model, kind).SerializeToString()
        extra = {"isa": options.isa} if options.isa else {}
        make = partial(runtime.session, data, threads=threads, dims=dims, **extra)
        sparse, created = timed(partial(make, session_options=quiet_afterwards()))
        decisions = runtime.explain(sparse)
        rows.append(
            {
                "network": name,
                "kind": kind,
                "threads": threads,
                "create_s": round(created, 3),
                "cpu_create_s": round(cpu_created, 3),
                "claimed": sum(d.claimed for d in decisions),
                "nodes": len(decisions),
                "groups": len({d.group for d in decisions if d.claimed}),
            }
        )
        contenders[kind] = partial(sparse.run, None, feeds)
    times = rounds(contenders, options.seconds * len(contenders))
    for row in rows:
        row["cpu_ms"] = round(median(times[""]) * 1e3, 4)
        row["ms"] = round(median(times[row["kind"]]) * 1e3, 4)
        row["speed"] = round(ratio(times[""], times[row["kind"]]), 3)
        row["best_speed"] = round(min(times[""]) / min(times[row["kind"]]), 3)
    return rows


def show(row: dict[str, Any]) -> None:
    """One line of the table."""
    print(
        f"{row['network'][:34]:34} {row['kind']:8} {row['threads']} thr  "
        f"dense {row['cpu_ms']:9.3f} ms  ours {row['ms']:9.3f} ms  x{row['speed']:6.2f}  "
        f"(best rounds x{row['best_speed']:.2f})  "
        f"made in {row['create_s']:6.2f} s (cpu {row['cpu_create_s']:.2f})  "
        f"claimed {row['claimed']}/{row['nodes']} in {row['groups']}",
        flush=True,
    )


def main() -> int:
    """Measure, print a table and, with ``--json``, write all rows."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--networks", default="resnet50|mobilenet_v2|light_squeezenet|real/imagenet_squeeze.*"
    )
    parser.add_argument(
        "--kinds", default="", help="e.g. dense,u90,b4x1_90,2:4; default by network"
    )
    parser.add_argument("--threads", default="1")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each contender")
    parser.add_argument("--size", type=int, default=224, help="of images where the model is open")
    parser.add_argument("--isa", default="", help="avx512, avx2, scalar")
    parser.add_argument("--no-code", action="store_true", help="no run-time generated kernels")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    options = parser.parse_args()
    if options.no_code:
        os.environ["ONNXPRUNE_JIT"] = "0"
    usable, why = runtime.available()
    if not usable:
        print(f"no sparse provider here: {why}")
        return 1
    rows = []
    for name, make in networks(options.networks):
        model = make()
        kinds = options.kinds.split(",") if options.kinds else kinds_of(name)
        for threads in options.threads.split(","):
            try:
                found = measure(name, model, kinds, int(threads), options)
            except OrtError as error:
                print(f"{name}: not timed, onnxruntime says {str(error)[:120]}")
                continue
            for row in found:
                rows.append(row)
                show(row)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
