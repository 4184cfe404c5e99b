"""Build the zoo: export every registered network to ONNX, check it, write a manifest.

    python benchmarks/zoo/build.py --out .cache/zoo [--only RE] [--list]

Needs torch, timm, transformers, onnxscript, onnxruntime; README.md says how to get them in a
throw-away environment. A model that cannot be exported is recorded with its reason and the rest
goes on. Files that are there and whose definition did not change are kept (`--force` rebuilds).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import importlib
import importlib.util
import inspect
import json
import re
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_NEEDED = {
    "torch": "torch==2.13.0",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "timm": "--no-deps timm",
    "transformers": "transformers",
}
#: Modules that register cases when imported.
FAMILIES = (
    "classic",
    "dense_prediction",
    "detectors",
    "generative",
    "language",
    "nhwc",
    "sequence",
    "speech_vision",
    "mobile",
    "timm_cnn",
    "timm_vision",
)


def _missing() -> list[str]:
    return [
        f"pip install {how}" for name, how in _NEEDED.items() if not importlib.util.find_spec(name)
    ]


def _definition(case: Any) -> str:
    """Hash of what a file depends on: the family's source, the shared sources, the case."""
    parts = [repr({k: v for k, v in vars(case).items() if k != "build"})]
    for name in ("randomize", "export", "stubs", *(("post",) if case.post else ())):
        parts.append((Path(__file__).parent / f"{name}.py").read_text())
    parts.append(Path(inspect.getfile(case.build)).read_text())
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _input_specs(case: Any, args: tuple[Any, ...]) -> tuple[list[dict[str, Any]], dict[str, int]]:
    specs: list[dict[str, Any]] = []
    sizes: dict[str, int] = {}
    for name, arg in zip(case.inputs, args, strict=True):
        dims: list[int | str] = list(arg.shape)
        for axis, symbol in case.dynamic.get(name, {}).items():
            sizes[symbol] = int(arg.shape[axis])
            dims[axis] = symbol
        dtype = str(arg.dtype).removeprefix("torch.")
        fill = case.fill.get(name, "normal")
        specs.append({"name": name, "dtype": dtype, "dims": dims, "fill": fill})
    return specs, sizes


def _other_sizes(case: Any, sizes: dict[str, int]) -> dict[str, int]:
    steps = {"batch": 1, "height": 32, "width": 64}
    return {
        symbol: case.other.get(symbol, size + steps.get(symbol, 5))
        for symbol, size in sizes.items()
    }


def _run(path: Path, feeds: dict[str, Any]) -> list[Any]:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def _flatten(value: Any) -> list[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return [leaf for item in value for leaf in _flatten(item)]
    return [value] if hasattr(value, "detach") else []


def _verify(path: Path, module: Any, entry: dict[str, Any]) -> None:
    """Compare with torch at the traced sizes, run at the other ones; fills in `entry`."""
    import numpy as np
    import onnx
    import torch

    from zoo.feeds import deviation, make_feeds

    model = onnx.load(path)
    try:
        onnx.checker.check_model(model, full_check=True)
        entry["full_check"] = True
    except Exception as error:
        entry["full_check"] = False
        entry["full_check_error"] = str(error).strip().splitlines()[0][:200]
    feeds = make_feeds(entry, entry["sizes"])
    got = _run(path, feeds)
    with torch.no_grad():
        want = _flatten(module(*(torch.from_numpy(feed) for feed in feeds.values())))
    worst = 0.0
    for left, right in zip(got, want, strict=True):
        expected = right.detach().numpy().astype(np.float64)
        if not np.isfinite(expected).all():
            raise ValueError("the network's output is not finite with these weights")
        if expected.std() == 0 and expected.size > 1:
            raise ValueError("the network's output is constant with these weights")
        worst = max(worst, deviation(left, expected))
    entry["export_error"] = worst
    if worst > 5e-2:
        raise ValueError(
            f"exported file differs from torch by {worst:.3g} of the output's deviation"
        )
    if entry["other_sizes"]:
        _run(path, make_feeds(entry, entry["other_sizes"]))
    entry["ops"] = dict(sorted(Counter(_qualified(node) for node in model.graph.node).items()))
    entry["params"] = sum(
        int(np.prod(tensor.dims))
        for tensor in model.graph.initializer
        if tensor.data_type in (1, 10, 16)
    ) + sum(
        int(np.prod(attribute.t.dims))
        for node in model.graph.node
        if node.op_type == "Constant"
        for attribute in node.attribute
        if attribute.name == "value" and attribute.t.data_type in (1, 10, 16)
    )
    entry["opset"] = {item.domain or "ai.onnx": item.version for item in model.opset_import}


def _qualified(node: Any) -> str:
    return f"{node.domain}::{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type


def build_one(case: Any, out: Path) -> dict[str, Any]:
    """Build, export and verify one case; returns its manifest entry. Raises what went wrong."""
    import torch

    from zoo.export import export
    from zoo.post import POST
    from zoo.randomize import calibrate, randomize

    start = time.perf_counter()
    torch.manual_seed(zlib.crc32(case.arch.encode()))
    module, args = case.build()
    if case.norm == "calibrate":
        randomize(module)
        calibrate(module, args)
    module.eval()
    specs, sizes = _input_specs(case, args)
    final = out / f"{case.name}.onnx"
    path = out / f".{case.name}.part.onnx"
    try:
        export(case, module, args, path)
        for name in case.post:
            POST[name](path)
        entry: dict[str, Any] = {
            "name": case.name,
            "arch": case.arch,
            "family": case.family,
            "kind": case.kind,
            "exporter": case.exporter,
            "unfolded": case.unfolded,
            "post": list(case.post),
            "file": final.name,
            "inputs": specs,
            "outputs": list(case.outputs),
            "sizes": sizes,
            "other_sizes": _other_sizes(case, sizes),
            "definition": _definition(case),
        }
        _verify(path, module, entry)
        data = path.read_bytes()
        path.replace(final)
    finally:
        path.unlink(missing_ok=True)
    entry["bytes"] = len(data)
    entry["sha256"] = hashlib.sha256(data).hexdigest()
    entry["seconds"] = round(time.perf_counter() - start, 2)
    return entry


def _write(out: Path, models: dict[str, Any], failed: dict[str, Any]) -> None:
    manifest = {
        "models": [models[name] for name in sorted(models)],
        "failed": [failed[name] for name in sorted(failed)],
    }
    part = out / ".manifest.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    part.replace(out / "manifest.json")


def main() -> int:
    """Entry point; returns the number of cases that failed, capped at 1."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path(".cache/zoo"), help="folder for the models"
    )
    parser.add_argument("--only", default="", help="regular expression on case or family names")
    parser.add_argument("--force", action="store_true", help="rebuild what is already there")
    parser.add_argument("--list", action="store_true", help="print the cases and stop")
    options = parser.parse_args()
    if missing := _missing():
        print("The zoo needs packages that are not installed here:", *missing, sep="\n  ")
        print("See benchmarks/zoo/README.md for a throw-away environment.")
        return 1
    from zoo.registry import CASES

    for family in FAMILIES:
        importlib.import_module(f"zoo.{family}")
    chosen = [c for c in CASES.values() if re.search(options.only, f"{c.name} {c.family} {c.kind}")]
    if options.list:
        for case in chosen:
            print(f"{case.name:32} {case.kind:12} {case.family:16} {case.exporter} {case.opset}")
        print(len(chosen), "cases,", len({case.arch for case in chosen}), "architectures")
        return 0
    return _build(chosen, options.out, options.force, set(CASES))


def _build(chosen: list[Any], out: Path, force: bool, known: set[str]) -> int:
    import torch

    torch.set_num_threads(2)
    out.mkdir(parents=True, exist_ok=True)
    old = (
        json.loads((out / "manifest.json").read_text()) if (out / "manifest.json").exists() else {}
    )
    models = {entry["name"]: entry for entry in old.get("models", []) if entry["name"] in known}
    failed = {entry["name"]: entry for entry in old.get("failed", []) if entry["name"] in known}
    for case in chosen:
        there = models.get(case.name)
        fresh = (
            there and there["definition"] == _definition(case) and (out / there["file"]).exists()
        )
        if fresh and not force:
            continue
        models.pop(case.name, None)
        failed.pop(case.name, None)
        try:
            entry = build_one(case, out)
            models[case.name] = entry
            note = f"{entry['bytes'] / 1e6:7.2f} MB {entry['seconds']:6.1f} s"
        except Exception as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            failed[case.name] = {"name": case.name, "arch": case.arch, "reason": reason}
            note = f"FAILED {reason}"
        print(f"{case.name:36} {note}", flush=True)
        _write(out, models, failed)
        gc.collect()
        torch._dynamo.reset()
    total = sum(entry["bytes"] for entry in models.values())
    print(f"{len(models)} models, {len({e['arch'] for e in models.values()})} architectures,")
    print(f"{total / 1e6:.0f} MB, {len(failed)} failed, in {out}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
