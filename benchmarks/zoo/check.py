"""Prune every model of the zoo by command line and judge the result from outside.

    python benchmarks/zoo/check.py --zoo .cache/zoo --out build/zoo [--only RE] [--jobs 2]

For each model two processes run: `onnxprune prune IN -o OUT --pattern channel --sparsity 0.5
--criterion l1 --json --plan PLAN`, then the same plan with `--mask-only`, which writes the dense
model with the removed units' consumer weights zeroed. The judge (judge.py) then asks, with onnx and
onnxruntime only: does the checker accept what it accepted before, is the interface the same, does
the file run at the traced and at other sizes, does it compute what the masked model computes (to
1e-3 of each output's deviation, on inputs that the prune did not see), are the masked and the
shrunk weights really those of the dense model, and how many parameters are left.

Writes results.json and results.md to --out. Exit code 1 if any model is wrong or invalid.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import onnx

if __package__ in (None, ""):  # run as a script
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from zoo import judge, table
from zoo.feeds import deviation, make_feeds

#: What the issue asks for: no other option than these.
REQUEST = ("--pattern", "channel", "--sparsity", "0.5", "--criterion", "l1", "--json")
#: What the answer must hold at least.
KEYS = {"params", "macs", "bytes", "units", "frozen", "proof", "seconds", "plan"}
LIMIT = 1e-3
TIMEOUT = 600.0


def _prune(tool: list[str], arguments: list[str], cwd: Path) -> tuple[dict[str, Any], str]:
    """Run the command line; returns its JSON object, and what went wrong as text ("" if nothing).

    cwd: where it runs; not the checkout, whose folder would hide the installed package.
    """
    try:
        done = subprocess.run(
            [*tool, "prune", *arguments], capture_output=True, text=True, timeout=TIMEOUT, cwd=cwd
        )
    except subprocess.TimeoutExpired:
        return {}, f"no answer within {TIMEOUT:.0f} s"
    if done.returncode:
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [
            "no message"
        ]
        traceback = " [traceback]" if "Traceback (most recent" in done.stderr else ""
        return {}, f"exit {done.returncode}{traceback}: {' '.join(lines[-3:])[:400]}"
    try:
        answer: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        return {}, f"stdout is not one JSON object: {done.stdout[:120]!r}"
    missing = KEYS - set(answer)
    return answer, f"JSON lacks {sorted(missing)}" if missing else ""


def check_one(entry: dict[str, Any], zoo: Path, out: Path, tool: list[str]) -> dict[str, Any]:
    """Prune and judge one model; returns one row of the table."""
    source = zoo / entry["file"]
    target, masked = out / entry["file"], out / f"masked-{entry['file']}"
    plan = out / f"{entry['name']}.plan.json"
    row: dict[str, Any] = {key: entry[key] for key in ("name", "arch", "family", "kind")}
    for old in (target, masked, plan):
        old.unlink(missing_ok=True)
    start = time.perf_counter()
    answer, wrong = _prune(
        tool, [str(source), "-o", str(target), *REQUEST, "--plan", str(plan)], out
    )
    row["seconds"] = round(time.perf_counter() - start, 2)
    if wrong:
        return {**row, "status": "refused", "why": [wrong]}
    row["own_error"] = answer["proof"]["max_rel_error"]
    row["units"] = answer["units"]
    row["frozen"] = answer["frozen"][:20]
    row["notes"] = answer.get("notes", [])
    arguments = [str(source), "-o", str(masked), "--from-plan", str(plan), "--mask-only", "--json"]
    _, wrong = _prune(tool, arguments, out)
    if wrong:
        return {**row, "status": "refused", "why": [f"--mask-only: {wrong}"]}
    try:
        row |= _judge(entry, source, target, masked, json.loads(plan.read_text()))
    except Exception as error:
        row |= {"status": "wrong", "why": [f"{type(error).__name__}: {str(error)[:400]}"]}
    masked.unlink(missing_ok=True)
    return row


def _judge(
    entry: dict[str, Any], source: Path, target: Path, masked: Path, plan: dict[str, Any]
) -> dict[str, Any]:
    dense, shrunk, zeroed = (onnx.load(path) for path in (source, target, masked))
    invalid = judge.interface_differences(dense, shrunk)
    if not judge.full_check(source) and (complaint := judge.full_check(target)):
        invalid.append(f"checker: {complaint}")
    wrong = judge.mask_violations(dense, zeroed, plan) + judge.shrink_violations(
        dense, shrunk, plan
    )
    worst = 0.0
    for sizes in (entry["sizes"], entry["other_sizes"]):
        for seed in (11, 12):
            feeds = make_feeds(entry, sizes, seed)
            got, want = judge.run(target, feeds), judge.run(masked, feeds)
            worst = max([worst, *(deviation(a, b) for a, b in zip(got, want, strict=True))])
        if not entry["other_sizes"]:
            break
    if worst > LIMIT:
        wrong.append(f"differs from the masked model by {worst:.3g} of the output's deviation")
    before, after = judge.parameters(dense), judge.parameters(shrunk)
    body = before["all"] - before["embedding"]
    strict = before["all"] - before["looked_up"]
    return {
        "status": "wrong" if wrong else "invalid" if invalid else "right",
        "why": wrong + invalid,
        "error": worst,
        "params": {"before": before, "after": after},
        "kept": after["all"] / max(before["all"], 1),
        "kept_body": (after["all"] - after["embedding"]) / max(body, 1),
        "kept_not_looked_up": (after["all"] - after["looked_up"]) / max(strict, 1),
        "bytes": {"before": source.stat().st_size, "after": target.stat().st_size},
    }


def main() -> int:
    """Entry point of the script."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--zoo", type=Path, default=Path(".cache/zoo"))
    parser.add_argument("--out", type=Path, default=Path("build/zoo"))
    parser.add_argument("--only", default="", help="regular expression on name, family and kind")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument(
        "--tool", default=f"{sys.executable} -m onnxprune", help="command in place of `onnxprune`"
    )
    given = parser.parse_args()
    given.zoo, given.out = given.zoo.resolve(), given.out.resolve()
    manifest = given.zoo / "manifest.json"
    if not manifest.exists():
        print(f"{manifest} is not there; build the zoo first: see benchmarks/zoo/README.md")
        return 2
    entries = [
        entry
        for entry in json.loads(manifest.read_text())["models"]
        if re.search(given.only, f"{entry['name']} {entry['family']} {entry['kind']}")
    ]
    given.out.mkdir(parents=True, exist_ok=True)
    tool = shlex.split(given.tool)
    rows: list[dict[str, Any]] = []
    with ThreadPoolExecutor(max_workers=given.jobs) as pool:
        for row in pool.map(lambda entry: check_one(entry, given.zoo, given.out, tool), entries):
            rows.append(row)
            print(table.line(row), flush=True)
    summary = table.summary(rows)
    (given.out / "results.json").write_text(
        json.dumps({"summary": summary, "rows": rows}, indent=1)
    )
    text = table.markdown(rows, summary)
    (given.out / "results.md").write_text(text)
    print(text[: text.index("## Models")])
    return 0 if all(row["status"] == "right" for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
