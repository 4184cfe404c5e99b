"""``onnxprune convert``: store a model's weights in another form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from onnxprune import io
from onnxprune.formats import format_choices
from onnxprune.passes.base import Context
from onnxprune.passes.emit import Emit


@click.command("convert")
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="File to write."
)
@click.option(
    "--format",
    "format_",
    default="auto",
    show_default=True,
    type=click.Choice(format_choices()),
    help="auto takes the smallest form for each weight; dense restores the standard model; "
    "coo is ONNX's own sparse_initializer; the others need the onnxprune runtime.",
)
@click.option("--block", default="", help="4x1 for bsr, 2:4 for nm, elements for eie, nd for coo.")
@click.option(
    "--min-saving",
    default=0.0,
    show_default=True,
    help="Leave a weight dense unless this fraction of its bytes is saved; -inf packs all.",
)
@click.option("--others", is_flag=True, help="Also pack weights of operators other than "
              "Conv, Gemm and MatMul, behind SparseDecode nodes.")  # fmt: skip
@click.option("--merge-zeros", is_flag=True, help="Store -0.0 as 0.0.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(
    model: Path,
    output: Path,
    format_: str,
    block: str,
    min_saving: float,
    others: bool,
    merge_zeros: bool,
    as_json: bool,
) -> None:
    """Write MODEL with its weights packed, or dense again."""
    loaded = io.load(model)
    emit = Emit(format_, min_saving, block, others, merge_zeros)
    result = emit.run(loaded.model, Context())
    io.save(loaded.with_model(result.model), output)
    report = {
        "input": str(model),
        "output": str(output),
        "file_bytes": {"before": _file_bytes(model), "after": _file_bytes(output)},
        **result.stats,
    }
    click.echo(json.dumps(report, indent=2) if as_json else _render(report))


def _file_bytes(path: Path) -> int:
    """Return the size of a model file with its external data."""
    return sum(file.stat().st_size for file in io.load(path).origin.files)


def _render(report: dict[str, Any]) -> str:
    """Return the table: one line a weight, then the sums."""
    rows = [("weight", "operator", "shape", "sparsity", "before", "after", "format")]
    for t in report["tensors"]:
        shape = "x".join(map(str, t["shape"])) or "scalar"
        form = t["format"] + (f" ({t['reason']})" if t["reason"] else "")
        if t["negative_zeros"]:
            form += f" [{t['negative_zeros']} values are -0.0: see --merge-zeros]"
        sizes = (f"{t['before']:,}", f"{t['after']:,}")
        rows.append((t["name"], t["operator"], shape, f"{t['sparsity']:.1%}", *sizes, form))
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    right = {3, 4, 5}
    lines = [
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    weights, files = report["bytes"], report["file_bytes"]
    lines += [
        "",
        f"weights {weights['before']:,} -> {weights['after']:,} bytes",
        f"file    {files['before']:,} -> {files['after']:,} bytes ({report['output']})",
    ]
    return "\n".join(lines)
