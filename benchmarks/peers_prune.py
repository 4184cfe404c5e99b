"""Pruning compared with other tools: parameters kept, validity, time, memory, 2:4 patterns.

    python benchmarks/peers_prune.py [--part structure|speed|judge] [--repeats 3] [--json FILE]
                                     [--only RE] [--work .cache/peers/work]

structure   channels at 50 %, ours against onnxsim 0.8.1 (`apply_structured_pruning(model, 0.5)`)
            on the light graphs, the digits networks and, where they exist, the shared networks
speed       a 100 MB ResNet-50: 2:4 against `polygraphy surgeon prune`, and channels alone; whole
            processes, medians, peak memory as a multiple of the file
judge       `polygraphy inspect sparsity` on our 2:4 models: every eligible tensor must be sparse

A peer that cannot be installed is skipped with a notice. The exit code is 1 when one of our own
results is invalid, failed, or not accepted by the judge; the ratios are printed, not enforced.
"""

# bench: make

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from pathlib import Path
from typing import Any

import light
import onnx
import peers
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared" / "data"
PARTS = ("structure", "speed", "judge")
CHANNELS = ["--pattern", "channel", "--sparsity", "0.5", "--criterion", "l1"]
SMALL = ("densenet121", "inception_v1", "inception_v2", "shufflenet", "squeezenet")
console = Console(width=None if sys.stdout.isatty() else 140)


def ours(source: Path, target: Path, *options: str) -> peers.Run:
    """Run our command line on ``source``; with this Python."""
    target.unlink(missing_ok=True)
    command = [*peers.onnxprune(), "prune", str(source), "-o", str(target)]
    return peers.measure([*command, *options, "--json"])


def networks(work: Path, only: str) -> dict[str, Path]:
    """Return the networks to prune by name: light graphs, digits, shared convolutional ones.

    The light graphs hold the shapes of intermediate values, as onnx's own files of them do. Those
    files also declare every weight as an input, which is how IR version 3 had it; the smaller ones
    come in that form as well.
    """
    lights = light.write_all(work, only=only)
    found = {f"light {name}": with_shapes(path) for name, path in lights.items()}
    small = "|".join(name for name in lights if name in SMALL)
    if small:
        old = light.write_all(work, only=f"^({small})$", overridable=True)
        found |= {f"light {name}, IR 3": path for name, path in old.items()}
    found |= {path.stem: path for path in sorted((ROOT / "models").glob("*.onnx"))}
    shared = sorted(SHARED.glob("*/model.onnx"))
    found |= {path.parent.name: path for path in shared if convolutional(path)}
    return {name: path for name, path in found.items() if re.search(only, name)}


def with_shapes(path: Path) -> Path:
    """Return the path of the same model with inferred shapes in ``value_info``."""
    shaped = path.with_name(f"{path.stem}_shapes.onnx")
    if not shaped.exists():
        onnx.shape_inference.infer_shapes_path(str(path), str(shaped))
    return shaped


def convolutional(path: Path) -> bool:
    """Return whether a network holds Conv nodes."""
    return any(node.op_type == "Conv" for node in onnx.load(path).graph.node)


def last_line(text: str) -> str:
    """Return the last line that says something."""
    return next((line for line in reversed(text.splitlines()) if line.strip()), "")[:110]


def prune_with_onnxsim(source: Path, work: Path) -> dict[str, Any] | None:
    """Return what onnxsim makes of ``source``; None when it cannot be had."""
    binaries, _ = peers.environment("onnxsim")
    if binaries is None:
        return None
    target = work / "onnxsim.onnx"
    target.unlink(missing_ok=True)
    run = peers.measure(
        [str(binaries / "python"), "-c", peers.ONNXSIM, str(source), str(target)]
    )  # fmt: skip
    return outcome(source, target, run)


def outcome(source: Path, target: Path, run: peers.Run) -> dict[str, Any]:
    """Return kept share of parameters, verdict, seconds and memory of one pruning."""
    entry: dict[str, Any] = {"seconds": run.seconds, "peak_mb": run.peak_mb, "kept": None}
    if run.code != 0 or not target.exists():
        return entry | {"verdict": f"failed: {last_line(run.output)}"}
    dense = peers.parameters(onnx.load(source))
    entry["kept"] = peers.parameters(onnx.load(target)) / dense
    return entry | {"verdict": peers.validity(source, target)}


def structure(work: Path, only: str, _: int) -> tuple[dict[str, Any], bool]:
    """Prune half of the channels of every network with both tools."""
    binaries, why = peers.environment("onnxsim")
    if binaries is None:
        console.print(f"[yellow]skipped: {why}[/]")
    table = Table(title="Half of the channels: parameters kept")
    for column in ("network", "ours", "onnxsim", "ours is", "onnxsim is", "our error"):
        table.add_column(column, justify="right" if column in ("ours", "onnxsim") else "left")
    results: dict[str, Any] = {}
    good = True
    for name, source in networks(work, only).items():
        target = work / "ours.onnx"
        run = ours(source, target, *CHANNELS)
        mine = outcome(source, target, run)
        mine["proof"] = run.json().get("proof", {}).get("max_rel_error")
        theirs = prune_with_onnxsim(source, work)
        results[name] = {"ours": mine, "onnxsim": theirs}
        good &= mine["verdict"] == "valid"
        table.add_row(
            name,
            share(mine),
            share(theirs),
            str(mine["verdict"]),
            "skipped" if theirs is None else str(theirs["verdict"]),
            "" if mine["proof"] is None else f"{mine['proof']:.1e}",
        )
    console.print(table)
    return results, good


def share(entry: dict[str, Any] | None) -> str:
    """Return the kept share as text."""
    return "" if entry is None or entry["kept"] is None else f"{entry['kept']:.2f}"


def speed(work: Path, _: str, repeats: int) -> tuple[dict[str, Any], bool]:
    """Time whole processes on the ResNet-50 light graph with its 100 MB of weights."""
    source = light.write_all(work, only="^resnet50$")["resnet50"]
    megabytes = source.stat().st_size / 1e6
    target = work / "ours.onnx"
    cases: dict[str, list[peers.Run]] = {"2:4": [], "2:4 --no-proof": [], "channels": []}
    cases["channels --no-proof"] = []
    binaries, why = peers.environment("polygraphy")
    if binaries is None:
        console.print(f"[yellow]skipped: {why}[/]")
    else:
        cases["polygraphy surgeon prune"] = []
    for _round in range(repeats):  # interleaved, so that a busy moment does not hit one tool only
        for case, runs in cases.items():
            if case.startswith("polygraphy"):
                out = ["-o", str(work / "polygraphy.onnx")]
                command = [f"{binaries}/polygraphy", "surgeon", "prune", str(source), *out]
                runs.append(peers.measure(command))
                continue
            pattern = CHANNELS if case.startswith("channels") else ["--pattern", "2:4"]
            flags = ["--no-proof"] if case.endswith("--no-proof") else []
            runs.append(ours(source, target, *pattern, *flags))
    return report_speed(cases, megabytes)


def cpu_seconds(runs: list[peers.Run]) -> float:
    """Return the median of processor time."""
    return statistics.median(run.cpu for run in runs)


def report_speed(
    cases: dict[str, list[peers.Run]], megabytes: float
) -> tuple[dict[str, Any], bool]:
    """Print and return medians, and how polygraphy, where it ran, compares with each."""
    table = Table(title=f"ResNet-50, {megabytes:.0f} MB: whole process")
    for column in ("case", "seconds", "CPU s", "peak MB", "peak / file", "faster", "less CPU"):
        table.add_column(column, justify="left" if column == "case" else "right")
    reference = cases.get("polygraphy surgeon prune")
    slow = peers.median(reference)[0] if reference else None
    busy = cpu_seconds(reference) if reference else None
    results: dict[str, Any] = {"file_mb": megabytes}
    good = True
    for case, runs in cases.items():
        seconds, peak = peers.median(runs)
        failed = [run for run in runs if run.code != 0]
        if failed and not case.startswith("polygraphy"):
            good = False
            console.print(f"[red]{case}: {last_line(failed[0].output)}[/]")
        cpu = cpu_seconds(runs)
        ratio = None if slow is None else slow / seconds
        results[case] = {
            "seconds": seconds,
            "cpu_seconds": cpu,
            "peak_mb": peak,
            "peak_per_file": peak / megabytes,
            "times_faster": ratio,
            "times_less_cpu": None if busy is None else busy / cpu,
        }
        table.add_row(
            case,
            f"{seconds:.2f}",
            f"{cpu:.2f}",
            f"{peak:.0f}",
            f"{peak / megabytes:.2f}x",
            "" if ratio is None else f"{ratio:.1f}x",
            "" if busy is None else f"{busy / cpu:.1f}x",
        )
    console.print(table)
    return results, good


def judge(work: Path, only: str, _: int) -> tuple[dict[str, Any], bool]:
    """Let polygraphy say whether our 2:4 models are 2:4."""
    binaries, why = peers.environment("polygraphy")
    if binaries is None:
        console.print(f"[yellow]skipped: {why}[/]")
        return {}, True
    table = Table(title="2:4 as `polygraphy inspect sparsity` sees it")
    for column in ("network", "eligible tensors", "found dense"):
        table.add_column(column)
    results: dict[str, Any] = {}
    good = True
    wanted = only or "resnet50|shufflenet$|squeezenet|digits|cifar10|mobilenet"
    for name, source in networks(work, wanted).items():
        target = work / "ours.onnx"
        run = ours(source, target, "--pattern", "2:4")
        if run.code != 0:
            table.add_row(name, "", f"failed: {last_line(run.output)}")
            good = False
            continue
        eligible, dense = peers.judge(binaries, target)
        results[name] = {"eligible": eligible, "dense": dense}
        good &= not dense
        table.add_row(name, str(eligible), ", ".join(dense) or "none")
    console.print(table)
    return results, good


def main() -> int:
    """Run the chosen parts; 1 when a result of ours is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="regular expression on network names")
    parser.add_argument("--work", type=Path, default=peers.CACHE / "work")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    functions = {"structure": structure, "speed": speed, "judge": judge}
    results: dict[str, Any] = {}
    good = True
    for part in options.part or PARTS:
        results[part], fine = functions[part](options.work, options.only, options.repeats)
        good &= fine
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
