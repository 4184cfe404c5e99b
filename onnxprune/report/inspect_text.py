"""What ``inspect`` found, as tables."""

from __future__ import annotations

from typing import Any

from onnxprune.formats.weights import DOMAIN
from onnxprune.report.tables import Table, percent, shape_text, shorten, size_text

MANY = 12


def tables(report: dict[str, Any], every_frozen: bool = False) -> list[Table | str]:
    """Return what a person wants to see of an inspection; ``every_frozen``: a row a layer."""
    numbers = {g["name"]: i for i, g in enumerate(report["groups"], 1)}
    parts: list[Table | str] = [_summary(report), "", _layers(report["layers"], numbers), ""]
    if report["groups"]:
        parts += [_groups(report["groups"], numbers), ""]
    if report["frozen_by"]:
        parts += [frozen_table(report["frozen_by"]), ""]
    if every_frozen and report["frozen"]:
        table = Table(["layer", ">units", "stay because of"])
        for row in report["frozen"]:
            table.add(row["where"], row["units"], row["why"])
        parts += [table, ""]
    if report["unsupported"]:
        told = ", ".join(f"{op} ({n})" for op, n in report["unsupported"].items())
        parts.append(f"operators without a rule: {told}")
    if DOMAIN in report["opsets"]:
        parts.append(
            "weights are packed, and what they hold is not shown; "
            "'onnxprune convert MODEL -o DENSE --format dense' restores them bit for bit"
        )
    if report["nonfinite"]:
        names = shorten(report["nonfinite"], 3)
        parts.append(f"weights that hold NaN or infinity: {names}; such a model cannot be pruned")
    return parts


def _summary(report: dict[str, Any]) -> Table:
    units, size = report["units"], size_text(report["bytes"])
    if report["external_data"]:
        size += f", external data in {shorten(report['external_data'], 3)}"
    table = Table(["model", str(report.get("model") or "")])
    opsets = ", ".join(f"{domain} {version}" for domain, version in report["opsets"].items())
    table.add("size", size)
    table.add("made by", report["producer"] or "?")
    table.add("IR version, opsets", f"{report['ir_version']}; {opsets}")
    for direction in ("inputs", "outputs"):
        for face in report[direction]:
            told = f"{face['name']}: {face['type']} {shape_text(face['shape'])}"
            table.add(direction[:-1], told)
    table.add("dynamic sizes", ", ".join(report["dynamic_dims"]) or "none")
    table.add("parameters", report["params"])
    table.add("MACs per sample", report["macs"])
    table.add("zero weights", percent(report["sparsity"]))
    table.add("units", f"{units['total']:,}, of which {units['prunable']:,} can be pruned")
    return table


def _layers(layers: list[dict[str, Any]], numbers: dict[str, int]) -> Table:
    heads = ["op", "weight", "output", ">params", ">MACs", ">zeros", ">frozen", "group", "fits"]
    table = Table(["layer", *heads])
    for row in layers:
        frozen = f"{row['frozen']} of {row['units']}" if row["frozen"] else ""
        table.add(
            row["name"],
            row["op"],
            shape_text(row["weight_shape"]),
            shape_text(row["output_shape"]),
            row["params"],
            row["macs"],
            percent(row["sparsity"]) if row["zeros"] else "",
            frozen,
            " ".join(f"#{numbers[g]}" for g in row["groups"]),
            fits(row),
        )
    return table


def fits(row: dict[str, Any]) -> str:
    """Return the patterns a layer can take; in brackets those its zeros follow already."""
    shown = [p for p in row["fits"] if p in ("2:4", "block:4x1")]
    followed = shorten(row["follows"], 3)
    return " ".join(shown) + (f" [{followed}]" if followed else "")


def _groups(groups: list[dict[str, Any]], numbers: dict[str, int]) -> Table:
    table = Table(["group", "kind", ">units", "made by", "read by"])
    for row in groups:
        made, read = shorten(row["layers"], 3), shorten(row["consumers"], 3)
        table.add(f"#{numbers[row['name']]}", row["kind"], row["units"], made, read)
    return table


def frozen_table(reasons: list[dict[str, Any]]) -> Table:
    """Return what is frozen by its reason."""
    table = Table([">units", "stay because of", "layers"])
    for row in reasons[:MANY]:
        table.add(row["units"], row["why"], shorten(row["layers"], 2))
    if len(reasons) > MANY:
        rest = reasons[MANY:]
        table.add(sum(r["units"] for r in rest), f"{len(rest)} more reasons, see --json", "")
    return table
