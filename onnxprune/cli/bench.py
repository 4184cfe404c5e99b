"""``onnxprune bench``: time models against each other, interleaved, on the same inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from onnxprune.cli._console import progress_bar, show


def _counts(context: click.Context, parameter: click.Parameter, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise click.BadParameter(f"{text!r}: write numbers like 1,2") from None


def _words(context: click.Context, parameter: click.Parameter, text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


@click.command("bench")
@click.argument("models", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--threads",
    callback=_counts,
    default="1",
    show_default=True,
    metavar="N,N",
    help="Numbers of threads, 0 for onnxruntime's choice.",
)
@click.option(
    "--runtime",
    "runtimes",
    callback=_words,
    default="cpu",
    show_default=True,
    metavar="cpu,sparse",
    help="What runs the models.",
)
@click.option(
    "--seconds",
    type=float,
    default=3.0,
    show_default=True,
    help="How long each model is measured on each runtime.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the random inputs.")
@click.option("--data", metavar="PATH", help="Take the inputs from here.  [default: random]")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(models: tuple[Path, ...], as_json: bool, **options: Any) -> None:
    """Time MODELS on the same inputs; ratios are to the first, above 1 is faster."""
    from onnxprune import api
    from onnxprune.report.compare_text import bench_tables
    from onnxprune.report.jsonable import dumps

    with progress_bar() as progress:
        report = api.bench(models, progress=progress, **options)
    if as_json:
        click.echo(dumps(report))
    else:
        show(bench_tables(report))
