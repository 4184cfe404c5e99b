"""A tour: prune a small trained network, look at what it costs, store it packed, run it.

    python tools/demo.py [--model models/digits_resnet.onnx] [--out build/demo]

Everything is done through the command line that it prints, so any step can be repeated by hand.
Accuracy is counted on 597 held-out images. The exit code is 1 when a step or its proof failed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
CALIBRATION = "models/calib.py:samples"
console = Console(width=None if sys.stdout.isatty() else 110, highlight=False)


class StepError(Exception):
    """A command of the tour failed."""


def accuracy(model: Path) -> float:
    """Return the share of held-out images that ``model`` labels rightly."""
    path = ROOT / "models" / "evaluate.py"
    spec = importlib.util.spec_from_file_location("models_evaluate", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return float(module.accuracy(model))


def onnxprune(*arguments: str, show: bool = False) -> str:
    """Print and run one command; return its standard output, also shown if ``show``.

    Raises:
        StepError: it failed; what it said is already on the screen.
    """
    console.print(f"[bold]$ onnxprune {escape(shlex.join(arguments))}[/]", soft_wrap=True)
    command = Path(sys.executable).with_name("onnxprune")
    done = subprocess.run([command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if show:
        console.print(escape(done.stdout), soft_wrap=True)
    if done.returncode != 0:
        raise StepError(f"onnxprune {arguments[0]} ended with exit code {done.returncode}")
    return done.stdout


def prune(model: str, target: str, *options: str) -> dict[str, Any]:
    """Prune, say how the proof went, and return the report."""
    arguments = ["prune", model, "-o", target, *options, "--data", CALIBRATION, "--json"]
    report: dict[str, Any] = json.loads(onnxprune(*arguments))
    proof = report["proof"]
    verdict = "[green]proved[/]" if proof["passed"] else "[red]NOT proved[/]"
    error = proof["max_rel_error"]
    console.print(f"  {verdict} in {report['seconds']:.2f} s, largest relative error {error:.1e}\n")
    return report


def size_table(model: Path, pruned: dict[str, tuple[Path, dict[str, Any]]]) -> Table:
    """Return what each pruned model costs and how well it still does."""
    table = Table(title="before and after")
    for column in ("", "parameters", "multiply-adds", "zeros", "file", "accuracy"):
        table.add_column(column, justify="left" if not column else "right")
    first = next(iter(pruned.values()))[1]
    table.add_row(
        "trained",
        f"{first['params']['before']:,}",
        f"{first['macs']['before']:,}",
        "0%",
        kilobytes(model),
        f"{accuracy(model):.1%}",
    )
    for name, (path, report) in pruned.items():
        table.add_row(
            name,
            f"{report['params']['after']:,}",
            f"{report['macs']['after']:,}",
            f"{report['sparsity']:.0%}",
            kilobytes(path),
            f"{accuracy(path):.1%}",
        )
    return table


def kilobytes(path: Path) -> str:
    """Return the size of a file."""
    return f"{path.stat().st_size / 1e3:,.0f} kB"


def run_sparse(model: str, half: str, sparse: str, packed: str) -> None:
    """Store a sparse model packed, compare and time it on the sparse execution provider."""
    from onnxprune import runtime

    console.rule("sparse storage and sparse runtime")
    stored = json.loads(onnxprune("convert", sparse, "-o", packed, "--format", "auto", "--json"))
    before, after = stored["file_bytes"]["before"], stored["file_bytes"]["after"]
    console.print(f"  {before / 1e3:,.0f} kB -> {after / 1e3:,.0f} kB, the same numbers\n")
    usable, why = runtime.available()
    if not usable:
        console.print(f"[yellow]The sparse runtime is left out: {escape(why)}[/]")
        return
    console.print(
        "The packed file on the sparse provider against the plain one on the CPU provider:"
    )
    data = ["--data", CALIBRATION, "--samples", "64"]
    onnxprune(
        "validate", sparse, packed, "--runtime", "sparse", "--max-error", "1e-4", *data, show=True
    )
    console.print("Time for one image, one thread, models and runtimes in turn:")
    onnxprune("bench", model, half, sparse, "--runtime", "cpu,sparse", "--seconds", "1", show=True)


def tour(model: str, out: Path) -> None:
    """Run all steps; files go to ``out``."""
    files = {name: str(out / f"{name}.onnx") for name in ("half", "two_of_four", "tenth", "packed")}
    console.rule("half of the channels of every layer, residual streams included")
    half = prune(model, files["half"], "--pattern", "channel", "--sparsity", "0.5")
    console.rule("two of every four weights")
    fours = prune(model, files["two_of_four"], "--pattern", "2:4")
    console.rule("nine of every ten weights, wherever they are")
    tenth = prune(model, files["tenth"], "--pattern", "element", "--sparsity", "0.9")
    pruned = {
        "half the channels": (ROOT / files["half"], half),
        "2:4": (ROOT / files["two_of_four"], fours),
        "90 % of the weights": (ROOT / files["tenth"], tenth),
    }
    console.print(size_table(ROOT / model, pruned))
    run_sparse(model, files["half"], files["tenth"], files["packed"])


def main() -> int:
    """Give the tour; the process exit code."""
    parser = argparse.ArgumentParser(description="the onnxprune demo")
    parser.add_argument("--model", default="models/digits_resnet.onnx")
    parser.add_argument("--out", type=Path, default=Path("build/demo"))
    options = parser.parse_args()
    (ROOT / options.out).mkdir(parents=True, exist_ok=True)
    try:
        tour(options.model, options.out)
    except StepError as error:
        console.print(f"[red]{escape(str(error))}[/]")
        return 1
    console.print(f"The files are in {options.out}.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
