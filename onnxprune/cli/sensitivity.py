"""``onnxprune sensitivity``: measure what pruning each layer alone does to the outputs."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import click

from onnxprune.cli._console import note, progress_bar, show
from onnxprune.errors import UsageError


@click.command("sensitivity")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--data",
    required=True,
    metavar="PATH",
    help="Unlabelled samples: .npz, a folder of them, or file.py:function.",
)
@click.option(
    "--samples",
    type=click.IntRange(min=1),
    metavar="N",
    help="Use at most N of them.  [default: 1024, or down to 128 of a large network]",
)
@click.option(
    "--pattern", metavar="PATTERN", default="element", show_default=True, help="As for prune."
)
@click.option(
    "--levels",
    metavar="S,S,...",
    help="Fractions of each layer to remove.  [default: 0.3 to 0.95; for channels 0.125 to 0.75]",
)
@click.option("--only", metavar="RE", help="Measure only layers whose names match.")
@click.option("--keep", metavar="RE", help="Leave out layers whose names match.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated rows.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png|.svg",
    help="Draw the table as well; PNG needs Pillow.",
)
def command(
    model: Path,
    levels: str | None,
    as_csv: bool,
    as_json: bool,
    plot: Path | None,
    **options: Any,
) -> None:
    """Prune every layer of MODEL alone, at several levels, and compare outputs with the dense ones.

    With --pattern channel it is every group of coupled units. Kept weights are solved anew, as
    `prune --recover auto` does. What comes out is what `prune` divides a target by. No model is
    written.
    """
    from onnxprune import api
    from onnxprune.report.jsonable import dumps
    from onnxprune.report.plot import render, write_plot
    from onnxprune.report.tables import Table

    if as_csv and as_json:
        raise UsageError("give --csv or --json, not both")
    if plot is not None:
        render([], plot.suffix.lower())  # before the work
    with progress_bar() as progress:
        report = api.sensitivity(model, levels=_levels(levels), progress=progress, **options)
    for told in report["notes"]:
        note(told)
    rows = report["rows"]
    if plot is not None:
        title = f"{model.name}: {report['pattern']}, each pruned alone"
        write_plot(plot, rows, title)
    if as_json:
        click.echo(dumps({"model": str(model), **report}))
        return
    if as_csv:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        click.echo(buffer.getvalue(), nl=False)
        return
    found = sorted({row["sparsity"] for row in rows})
    size = "units" if "units" in rows[0] else "weights"
    table = Table(["layer", f">{size}", *(f">{level:.4g}" for level in found)])
    by_layer: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_layer.setdefault(row["layer"], []).append(row)
    for name, entries in by_layer.items():
        loss = {e["sparsity"]: f"{e['loss']:.3g}" for e in entries}
        table.add(name, entries[0][size], *(loss.get(level, "") for level in found))
    show([table, "", f"loss on {report['samples']} samples"])


def _levels(text: str | None) -> tuple[float, ...] | None:
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--levels {text!r}: write it like 0.5,0.7,0.9") from None
