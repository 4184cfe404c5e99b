"""``onnxprune export-plan``: write what a plan keeps for a training framework to load."""

from __future__ import annotations

import json
from pathlib import Path

import click

from onnxprune.cli._console import note
from onnxprune.cli._outputs import Outputs


@click.command("export-plan")
@click.argument("plan", type=click.Path(path_type=Path))
@click.option(
    "--framework",
    type=click.Choice(["torch"]),
    default="torch",
    show_default=True,
    help="Whose parameters are meant.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    metavar="DENSE.onnx",
    help="The model that the plan was made for: parameters that its exporter renamed or "
    "transposed are then found by their values.",
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="File to write (JSON).")
def command(plan: Path, framework: str, model: Path | None, output: Path | None) -> None:
    """Write the kept indices of every parameter of PLAN (from prune --plan), by its ONNX name.

    \b
    onnxprune prune net.onnx -o small.onnx --sparsity 0.5 --plan plan.json
    onnxprune export-plan plan.json --framework torch --model net.onnx -o kept.json
    """
    read = tuple(p.absolute() for p in (plan, model) if p is not None)
    outputs = Outputs(None, {} if output is None else {output: str}, read)
    outputs.check()
    from onnxprune import api

    data = api.export_plan(plan, framework, model=model)
    text = json.dumps(data, indent=1) + "\n"
    if output is None:
        click.echo(text, nl=False)
        return
    outputs.texts[output] = lambda: text
    outputs.write_texts()
    note(f"{len(data['parameters'])} parameters -> {output}")
