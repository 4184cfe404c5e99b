"""Recover the zoo's networks from samples after pruning, and judge what comes of it from outside.

    python benchmarks/zoo/recover.py --zoo .cache/zoo --out build/recover [--only RE]
        [--ask element:0.5 2:4 block:4x1:0.7 channel:0.7] [--samples 64] [--twice]

A process of its own for every model and request prunes with samples, and again without recovery.
Samples are random, but differ from each other (`samples`). onnxruntime alone then tells, of the
written file: does it run, at the traced and at the model's other sizes, is all of it finite, is its
distance from the dense network on the held-out samples the one that the report tells, and how far
is it on new samples, next to zeros alone. Random weights give little back, so that what is looked
at is whether recovery breaks anything, where training is refused or layers are left out, and what
it takes in seconds and bytes.

One line of JSON a run is added to `results.jsonl` in --out; runs that are there are left out.
The exit code is 1 if any failed.
"""

from __future__ import annotations

import argparse
import json
import re
import resource
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zoo.feeds import Feeds, make_feeds

REQUESTS = ("element:0.5", "2:4", "block:4x1:0.7", "channel:0.7")
TIMEOUT = 900.0
#: Samples of a feed where the model leaves the batch open; new ones that results are compared on.
BATCH, NEW = 4, 32
#: Share by which a distance may differ from the one reported, whose unit is the variance over all
#: samples where they are few.
ROUNDING = 0.05

Outputs = list[list[npt.NDArray[Any]]]


def samples(entry: Mapping[str, Any], sizes: Mapping[str, int], seed: int) -> Feeds:
    """Draw one feed whose samples differ from each other, unlike white noise.

    Numbers get an offset and a strength a sample, and coarse structure along the last axis; whole
    numbers are drawn unevenly, each sample from a part of them.
    """
    feeds = make_feeds(entry, sizes, seed)
    rng = np.random.default_rng((seed, 1))
    for spec in entry["inputs"]:
        array = feeds[spec["name"]]
        if not array.ndim or not len(array):
            continue
        each = (len(array), *(1,) * (array.ndim - 1))
        if spec["fill"] == "normal" and array.dtype.kind == "f":
            coarse = rng.standard_normal((*array.shape[:-1], -(-array.shape[-1] // 8)))
            mixed = 0.6 * array + np.repeat(coarse, 8, axis=-1)[..., : array.shape[-1]]
            mixed = mixed * rng.uniform(0.5, 1.5, each) + 0.3 * rng.standard_normal(each)
            feeds[spec["name"]] = mixed.astype(array.dtype)
        elif isinstance(spec["fill"], int) and array.ndim > 1:
            most = np.maximum(1, (rng.uniform(0.1, 1.0, each) * spec["fill"]).astype(np.int64))
            feeds[spec["name"]] = (array % most).astype(array.dtype)
    return feeds


def batch_of(entry: Mapping[str, Any]) -> tuple[int, dict[str, int]]:
    """How many samples a feed holds, and its sizes."""
    dims, sizes = entry["inputs"][0]["dims"], dict(entry["sizes"])
    first = dims[0] if dims else 1
    if isinstance(first, str):
        sizes[first] = max(sizes[first], BATCH)
        first = sizes[first]
    return max(1, first), sizes


def run(model: str | bytes, feeds: Sequence[Feeds]) -> Outputs:
    """Give the outputs of a file on every feed, by onnxruntime alone."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = {i.name for i in session.get_inputs()}
    return [session.run(None, {n: a for n, a in f.items() if n in names}) for f in feeds]


def _logs(rows: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Logarithms of the distributions that rows hold, or are the logits of."""
    if rows.min() >= 0 and np.abs(rows.sum(-1) - 1).max() < 1e-3:
        return np.log(np.maximum(rows, 1e-12))
    moved = rows - rows.max(-1, keepdims=True)
    return moved - np.log(np.exp(moved).sum(-1, keepdims=True))


def distance(dense: Outputs, other: Outputs, tokens: bool) -> dict[str, float]:
    """How far outputs are from the dense ones, as `docs/recovery.md` counts it.

    loss: divergence of rows of classes, squared error over the dense variance of other outputs,
    summed over outputs. error: the latter of all of them.
    """
    loss, error = 0.0, 0.0
    for want, have in zip(zip(*dense, strict=True), zip(*other, strict=True), strict=True):
        if want[0].dtype.kind != "f":
            continue
        a, b = (np.concatenate([x.astype(np.float64).ravel() for x in y]) for y in (want, have))
        there = np.isfinite(a)
        off = float(np.mean((a - b)[there] ** 2) / max(np.var(a[there]), 1e-12))
        error += off
        if want[0].ndim not in (2, 3 if tokens else 2) or want[0].shape[-1] < 2 or not there.all():
            loss += off
            continue
        logs = [_logs(x.reshape(-1, want[0].shape[-1])) for x in (a, b)]
        loss += float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(-1).mean())
    return {"loss": loss, "error": error}


def told_of(told: Mapping[str, Any]) -> dict[str, Any]:
    """What a report says, cut short."""
    row: dict[str, Any] = {"cross_check": told.get("cross_check"), "mirrored": told.get("mirrored")}
    training = dict(told.get("training") or {})
    row["steps"] = [{k: s[k] for k in ("step", "loss", "kept")} for s in told["steps"]]
    for step in told["steps"]:
        training.update({k: step[k] for k in ("why", "unfollowed", "epochs") if k in step})
    row |= {"why": training.get("why"), "unfollowed": training.get("unfollowed") or []}
    layers = told.get("layers") or []
    row["unsolved"] = dict(Counter(r["why"] for r in layers if r.get("why")))
    row["layers"] = len(layers)
    return row


def one(zoo: Path, out: Path, name: str, ask: str, count: int, twice: bool) -> dict[str, Any]:
    """Prune one model with samples and judge the file; returns a row of results."""
    import onnxprune

    manifest = json.loads((zoo / "manifest.json").read_text())
    entry = next(e for e in manifest["models"] if e["name"] == name)
    pattern, _, level = (ask, "", "") if ask[0].isdigit() else ask.rpartition(":")
    how: dict[str, Any] = {"pattern": pattern}
    if level:
        how |= {"target": {"macs": float(level)}} if pattern == "channel" else {
            "sparsity": float(level)
        }  # fmt: skip
    batch, sizes = batch_of(entry)
    feeds = [samples(entry, sizes, s) for s in range(max(2, count // batch))]
    new = [samples(entry, sizes, 1000 + s) for s in range(max(2, NEW // batch))]
    path, target = zoo / entry["file"], out / f"{name}.{ask.replace(':', '_')}.onnx"
    stages: Counter[str] = Counter()
    last = "start", time.process_time()

    def progress(stage: str, done: float) -> None:
        nonlocal last
        stages[last[0]] += time.process_time() - last[1]
        last = stage, time.process_time()

    start, cpu = time.perf_counter(), time.process_time()
    result = onnxprune.prune(path, data=feeds, progress=progress, **how)
    row: dict[str, Any] = {"name": name, "ask": ask, "count": count}
    row["seconds"] = round(time.perf_counter() - start, 1)
    row["cpu_seconds"] = round(time.process_time() - cpu, 1)
    row["stages"] = {k: round(v, 1) for k, v in stages.most_common(5)}
    row["peak_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    row["macs"] = result.report["macs"]["before"]
    onnxprune.save(result.loaded, target)
    told = result.report["recovery"]
    row |= {} if told is None else told_of(told)
    plain = onnxprune.prune(path, data=feeds, recover="none", **how)
    tokens = all(a.dtype.kind in "iu" for a in feeds[0].values())
    dense = run(str(path), new)
    row["ours"] = distance(dense, run(str(target), new), tokens)
    zeros = run(onnxprune.io.to_bytes(plain.loaded.model), new)
    row["zeros"] = distance(dense, zeros, tokens)
    if told is not None:
        step = min(6, max(len(feeds), 2))
        held = [f for i, f in enumerate(feeds) if i % step == step - 1]
        found = distance(run(str(path), held), run(str(target), held), tokens)["loss"]
        claimed = [s["loss"] for s in told["steps"] if s["kept"]][-1]
        row["as_told"] = abs(found - claimed) <= ROUNDING * max(found, claimed) + 1e-6
        row["found"] = found
    for other in (entry["sizes"], {**entry["sizes"], **entry["other_sizes"]}):
        feed = [samples(entry, other, 2000)]
        for want, have in zip(*(run(str(p), feed)[0] for p in (path, target)), strict=True):
            if want.dtype.kind == "f" and np.isfinite(want).all() and not np.isfinite(have).all():
                raise AssertionError(f"not finite at {other}")
    if twice:
        again = onnxprune.prune(path, data=feeds, **how)
        first = target.read_bytes()
        onnxprune.save(again.loaded, target)
        row["same"] = target.read_bytes() == first
    target.unlink()
    return row


def apart(options: argparse.Namespace, name: str, ask: str) -> dict[str, Any]:
    """Run :func:`one` in a process of its own."""
    command = [sys.executable, __file__, "--zoo", options.zoo, "--out", options.out, "--one", name]
    command += ["--ask", ask, "--samples", options.samples, *(["--twice"] if options.twice else [])]
    failed = {"name": name, "ask": ask, "count": options.samples}
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, timeout=TIMEOUT)
        return dict(json.loads(done.stdout.splitlines()[-1]))
    except subprocess.TimeoutExpired:
        return {**failed, "failed": f"no answer within {TIMEOUT:.0f} s"}
    except (ValueError, IndexError):
        return {**failed, "failed": done.stderr.decode()[-400:]}


def line(row: Mapping[str, Any]) -> str:
    """One run in a line of text."""
    head = f"{row['name']:32} {row['ask']:14}"
    if "failed" in row:
        return f"{head} FAILED {row['failed']}"
    steps = " ".join(
        f"{s['step']} {s['loss']:.3g}{'' if s['kept'] else '-'}," for s in row.get("steps") or ()
    )
    ratio = row["ours"]["error"] / max(row["zeros"]["error"], 1e-12)
    odd = {k: row[k] for k in ("why", "unsolved", "unfollowed") if row.get(k)}
    odd |= {k: row[k] for k in ("as_told", "same") if row.get(k) is False}
    spent = f"{row['seconds']:6.1f} s {row['cpu_seconds']:6.1f} cpu {row['peak_mb']:5} MB"
    return f"{head} {spent} x{ratio:.2f} {steps} {odd or ''}"


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, default=Path(".cache/zoo"))
    parser.add_argument("--out", type=Path, default=Path("build/recover"))
    parser.add_argument("--only", default="", help="regular expression on names")
    parser.add_argument("--ask", nargs="+", default=list(REQUESTS), help="pattern and level")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--twice", action="store_true", help="compare the bytes of a second run")
    parser.add_argument("--one", default="", help="run one model here and print its row")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.one:
        name, ask = options.one, options.ask[0]
        try:
            row = one(options.zoo, options.out, name, ask, options.samples, options.twice)
        except Exception as error:
            row = {"name": name, "ask": ask, "count": options.samples}
            row |= {"failed": f"{type(error).__name__}: {str(error)[:400]}"}
            row["trace"] = traceback.format_exc()[-1500:]
        print(json.dumps(row, default=str))
        return 0
    file = options.out / "results.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    there = {(r["name"], r["ask"], r["count"]) for r in map(json.loads, lines)}
    failed = False
    for entry in json.loads((options.zoo / "manifest.json").read_text())["models"]:
        for ask in options.ask:
            key = entry["name"], ask, options.samples
            if key in there or not re.search(options.only, entry["name"]):
                continue
            row = apart(options, entry["name"], ask)
            failed |= "failed" in row
            with file.open("a") as to:
                to.write(json.dumps(row) + "\n")
            print(line(row), flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
