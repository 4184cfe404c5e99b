"""``onnxprune inspect``: show layers, costs, sparsity, groups, and what is frozen and why."""

from __future__ import annotations

from pathlib import Path

import click

from onnxprune.cli._console import show
from onnxprune.cli._outputs import Outputs
from onnxprune.cli._picture import PICTURE, check_picture, picture


@click.command("inspect")
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--structure-report", "drawing", **PICTURE)
@click.option(
    "--structure",
    default="auto",
    metavar="KINDS",
    help="With hidden among them, normalisations hold nothing (see prune).",
)
@click.option("--frozen", is_flag=True, help="List every layer that holds frozen units, with why.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(model: Path, drawing: Path | None, structure: str, frozen: bool, as_json: bool) -> None:
    """Show what MODEL consists of and what of it can be pruned."""
    check_picture(drawing)
    outputs = Outputs(None, {} if drawing is None else {drawing: str}, (model.absolute(),))
    outputs.check()
    from onnxprune import api
    from onnxprune.report.inspect_text import tables
    from onnxprune.report.jsonable import dumps

    report = {"model": str(model), **api.inspect(model, structure=structure)}
    if drawing is not None:
        outputs.texts[drawing] = lambda: picture(drawing, report, title=str(model))
        outputs.write_texts()
    if as_json:
        click.echo(dumps(report))
    else:
        show(tables(report, every_frozen=frozen))
