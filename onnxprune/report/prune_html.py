"""The report of a prune as one self-contained page: no scripts, nothing loaded from elsewhere."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from string import Template
from typing import Any

import numpy as np

from onnxprune.planning import PrunePlan
from onnxprune.report.facts import by_reason
from onnxprune.report.tables import cell_text, percent, shape_text, size_text

_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #8884; --bar: #3b82c4; --dim: #888; --bad: #c43b3b; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; }
.card { border: 1px solid var(--line); border-radius: .5rem; padding: .75rem 1rem;
        min-width: 11rem; }
.card b { display: block; font-size: 1.5rem; } .card span, .dim { color: var(--dim); }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .25rem .75rem .25rem 0; border-bottom: 1px solid var(--line);
         overflow-wrap: anywhere; vertical-align: top; }
td.n, th.n { text-align: right; white-space: nowrap; }
.bar { display: inline-block; width: 8rem; height: .7rem; background: var(--line); }
.bar i { display: block; height: 100%; background: var(--bar); }
.bad { color: var(--bad); }
details pre { overflow-x: auto; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="dim">$subtitle</p>
<div class="cards">$cards</div>
<h2>Proof</h2>
$proof
$sections
</body>
</html>
""")


def page(report: dict[str, Any], plan: PrunePlan, recipe: str) -> str:
    """Return the page.

    Args:
        report: what ``prune --json`` prints.
        plan: what was kept.
        recipe: YAML that replays the run.
    """
    sections = [
        _tensors(plan),
        _groups(report["groups"]),
        _frozen(report["frozen"]),
        _pairs("Layers left alone", "layer", report["skipped"]),
        _unsupported(report["unsupported"]),
        _notes(report["notes"]),
        f"<h2>Recipe</h2>\n<details><summary>replays this run</summary><pre>{escape(recipe)}</pre>"
        "</details>",
    ]
    model = str(report.get("model") or "model")
    output = report.get("output")
    return _PAGE.substitute(
        title=escape(f"{model} pruned: {report['pattern']}"),
        subtitle=escape(f"written to {output}" if output else "nothing was written")
        + f", {report['seconds']:.2f} s",
        cards="\n".join(_cards(report)),
        proof=_proof(report["proof"]),
        sections="\n".join(s for s in sections if s),
    )


def _cards(report: dict[str, Any]) -> Iterable[str]:
    for what, label in (("params", "parameters"), ("macs", "MACs per sample"), ("bytes", "file")):
        before, after = report[what]["before"], report[what]["after"]
        show = size_text if what == "bytes" else cell_text
        kept = percent(after / before) if before else "-"
        yield _card(kept, f"of {label} kept", f"{show(before)} to {show(after)}")
    yield _card(percent(report["sparsity"]), "of the weights are zero", "")
    units = report["units"]
    yield _card(
        cell_text(units["removed"]),
        "units removed",
        f"of {units['total']:,}; {units['frozen']:,} cannot be removed",
    )


def _card(number: str, label: str, below: str) -> str:
    text = f"<b>{escape(number)}</b>{escape(label)}<br><span>{escape(below)}</span>"
    return f'<div class="card">{text}</div>'


def _proof(proof: dict[str, Any]) -> str:
    if proof["passed"] is None:
        return '<p class="bad">Not proved: the comparison was switched off.</p>'
    head = (
        f"<p>Passed: {escape(proof['kind'])}, {proof['samples']} samples. Largest relative error "
        f"{proof['max_rel_error']:.2e}, limit {proof['limit']:g}.</p>"
    )
    rows = [[escape(name), f"{error:.2e}"] for name, error in proof["values"].items()]
    return head + (_table(["value", ">error"], rows) if rows else "")


def _tensors(plan: PrunePlan) -> str:
    rows = []
    for name, shape in plan.shapes.items():
        if plan.kind == "mask":
            mask = plan.masks[name]
            kept, after = float(np.mean(mask)) if mask.size else 1.0, shape
        else:
            after = [
                size if indices is None else len(indices)
                for size, indices in zip(shape, plan.kept[name], strict=True)
            ]
            kept = math.prod(after) / max(1, math.prod(shape))
        rows.append([escape(name), shape_text(shape), shape_text(after), *_bar(kept)])
    heads = ["tensor", "before", "after", "kept", ">"]
    return _section("Tensors", _table(heads, rows)) if rows else ""


def _groups(groups: list[dict[str, Any]]) -> str:
    if not groups or "units" not in groups[0]:
        return ""
    rows = [
        [
            escape(g["name"]),
            escape(g.get("kind", "")),
            str(g["units"]),
            str(g["kept"]),
            *_bar(g["kept"] / max(1, g["units"])),
            escape(", ".join(g["layers"])),
        ]
        for g in groups
    ]
    heads = ["group", "kind", ">units", ">kept", "", ">", "made by"]
    return _section("Groups of coupled units", _table(heads, rows))


def _frozen(frozen: list[dict[str, Any]]) -> str:
    rows = [
        [str(r["units"]), escape(r["why"]), escape(", ".join(r["layers"]))]
        for r in by_reason(frozen)
    ]
    table = _table([">units", "because of", "layers"], rows)
    return _section("What cannot be removed, and why", table) if rows else ""


def _pairs(title: str, first: str, rows: list[dict[str, str]]) -> str:
    cells = [[escape(r[first]), escape(r["why"])] for r in rows]
    return _section(title, _table([first, "because"], cells)) if cells else ""


def _unsupported(counts: dict[str, int]) -> str:
    rows = [[escape(op), str(n)] for op, n in counts.items()]
    table = _table(["operator", ">nodes"], rows)
    return _section("Operators without a rule", table) if rows else ""


def _notes(notes: list[str]) -> str:
    items = "".join(f"<li>{escape(n)}</li>" for n in notes)
    return _section("Notes", f"<ul>{items}</ul>") if items else ""


def _section(title: str, body: str) -> str:
    return f"<h2>{escape(title)}</h2>\n{body}"


def _bar(kept: float) -> list[str]:
    return [f'<span class="bar"><i style="width:{kept:.1%}"></i></span>', percent(kept)]


def _table(heads: list[str], rows: list[list[str]]) -> str:
    """Return a table; cells are HTML already, headings with ``>`` are right-aligned."""
    marks = [' class="n"' if h.startswith(">") else "" for h in heads]
    lines = ["<table>", "<tr>"]
    lines += [f"<th{m}>{h.removeprefix('>')}</th>" for h, m in zip(heads, marks, strict=True)]
    lines.append("</tr>")
    for row in rows:
        cells = (f"<td{m}>{c}</td>" for c, m in zip(row, marks, strict=True))
        lines.append("<tr>" + "".join(cells) + "</tr>")
    return "\n".join([*lines, "</table>"])
