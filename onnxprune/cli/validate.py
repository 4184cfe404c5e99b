"""``onnxprune validate``: compare a pruned model with the original, on data or random inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli._console import progress_bar, show
from onnxprune.errors import ProofError


@click.command("validate")
@click.argument("dense", type=click.Path(path_type=Path))
@click.argument("pruned", type=click.Path(path_type=Path))
@click.option(
    "--data",
    metavar="PATH",
    help="Samples: .npz, a folder of them, or file.py:function.  [default: random]",
)
@click.option("--samples", type=click.IntRange(min=1), metavar="N", help="Use at most N of them.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of random inputs.")
@click.option(
    "--max-error",
    type=float,
    metavar="X",
    help="Largest relative error allowed, in units of the output's spread.",
)
@click.option(
    "--min-agreement",
    type=float,
    metavar="X",
    help="Smallest share of equal top-1 classes allowed, 0 to 1.",
)
@click.option(
    "--runtime",
    type=click.Choice(["cpu", "sparse"]),
    default="cpu",
    show_default=True,
    help="What runs PRUNED; DENSE always runs on cpu.",
)
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="Of both sessions.")
@click.option(
    "--metric",
    metavar="FILE.py:FUNCTION",
    help="Your own measure: called with an onnxruntime session and the feeds, for both models.",
)
@click.option("--layers", is_flag=True, help="Also compare layers that both models name alike.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(dense: Path, pruned: Path, as_json: bool, **options: Any) -> None:
    """Compare PRUNED with DENSE: interface, errors, agreement.

    Exits with 3 when the interfaces differ, PRUNED does not run, or a threshold is missed.
    """
    from onnxprune import api
    from onnxprune.report.compare_text import validate_tables
    from onnxprune.report.jsonable import dumps

    with progress_bar() as progress:
        progress("compare", 0.0)
        found = api.validate(dense, pruned, **options)
    report = {"dense": str(dense), "pruned": str(pruned), **found}
    if as_json:
        click.echo(dumps(report))
    else:
        show(validate_tables(report))
    if not report["passed"]:
        raise ProofError(f"{pruned} is no stand-in for {dense}: " + "; ".join(report["failures"]))
