"""``onnxprune inspect``: show layers, costs, sparsity, groups, and what is frozen and why."""

from __future__ import annotations

from pathlib import Path

import click

from onnxprune.cli._console import show


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path, as_json: bool) -> None:
    """Show what MODEL consists of and what of it can be pruned."""
    from onnxprune import api
    from onnxprune.report.inspect_text import tables
    from onnxprune.report.jsonable import dumps

    report = {"model": str(model), **api.inspect(model)}
    if as_json:
        click.echo(dumps(report))
    else:
        show(tables(report))
