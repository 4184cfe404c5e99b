"""Coupled groups as a picture: a row a layer, a coloured line a group, as SVG or HTML.

The rows are the layers in graph order. A group of coupled units is a vertical line from the first
layer it touches to the last: a filled dot where a layer makes its units, a ring where a layer reads
them. Lines of groups that do not overlap share a column, so deep networks stay narrow.
"""

from __future__ import annotations

import colorsys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from onnxprune.report.tables import shape_text

LANE, ROW, LEFT, TOP = 18, 22, 14, 92
CHAR = 7.3  # width of a character of 12 px monospace
HUES = {"heads": 0.08, "head_dim": 0.15, "ffn": 0.58, "channels": 0.36, "hidden": 0.83}
SUFFIXES = (".svg", ".html")


@dataclass(frozen=True)
class Lane:
    """One group as it is drawn.

    Attributes:
        number: what people call it.
        kind: kind of its units.
        label: how many units, and how many stay when some go.
        makers: rows of the layers that make its units.
        readers: rows of those that read them.
        column: where its line runs.
        colour: of its line.
    """

    number: int
    kind: str
    label: str
    makers: frozenset[int]
    readers: frozenset[int]
    column: int
    colour: str

    @property
    def rows(self) -> tuple[int, int]:
        """First and last row that it touches."""
        touched = self.makers | self.readers
        return min(touched), max(touched)


def _colour(kind: str, index: int) -> str:
    """Return a colour: its hue says the kind, its shade tells neighbours apart."""
    light = (0.38, 0.50, 0.28, 0.44)[index % 4]
    rgb = colorsys.hls_to_rgb(HUES.get(kind, 0.0), light, 0.65)
    return "#" + "".join(f"{round(255 * x):02x}" for x in rgb)


def lanes(report: Mapping[str, Any], kept: Mapping[str, int] | None = None) -> list[Lane]:
    """Lay the groups of an inspection out.

    Args:
        report: what ``inspect`` returns.
        kept: units that stay, by group; groups not named lose none.
    """
    at = {row["name"]: i for i, row in enumerate(report["layers"])}
    free: list[int] = []  # first row at which a column is free
    seen: dict[str, int] = defaultdict(int)
    out: list[Lane] = []
    numbers = {id(g): i for i, g in enumerate(report["groups"], 1)}

    def span(group: Mapping[str, Any]) -> list[int]:
        return [at[n] for n in (*group["layers"], *group["consumers"]) if n in at]

    drawn = [g for g in report["groups"] if span(g)]
    for group in sorted(drawn, key=lambda g: (min(span(g)), -max(span(g)))):
        rows = span(group)
        column = next((i for i, row in enumerate(free) if row < min(rows)), len(free))
        free[column : column + 1] = [max(rows)]
        units = group["units"]
        stays = (kept or {}).get(group["name"], units)
        kind = group["kind"]
        out.append(
            Lane(
                numbers[id(group)],
                kind,
                f"{units}" if stays == units else f"{units}\u2192{stays}",
                frozenset(at[n] for n in group["layers"] if n in at),
                frozenset(at[n] for n in group["consumers"] if n in at),
                column,
                _colour(kind, seen[kind]),
            )
        )
        seen[kind] += 1
    return out


def _text(x: float, y: float, text: str, style: str = "", title: str = "") -> str:
    inside = escape(text) + (f"<title>{escape(title)}</title>" if title else "")
    return f'<text x="{x:.0f}" y="{y:.0f}" {style}>{inside}</text>'


def _lane(lane: Lane, names: Sequence[str]) -> Iterable[str]:
    first, last = lane.rows
    x = LEFT + LANE * lane.column
    top, bottom = TOP + ROW * first, TOP + ROW * last
    told = f"group #{lane.number}, {lane.kind}: {lane.label} units; made by " + ", ".join(
        names[i] for i in sorted(lane.makers)
    )
    yield f'<g stroke="{lane.colour}" fill="{lane.colour}"><title>{escape(told)}</title>'
    yield f'<path d="M{x} {top}V{bottom}" stroke-width="3" fill="none"/>'
    for row in sorted(lane.makers | lane.readers):
        y = TOP + ROW * row
        if row in lane.makers and row in lane.readers:
            yield f'<circle cx="{x}" cy="{y}" r="7" fill="none" stroke-width="1.5"/>'
        hollow = row not in lane.makers
        fill = ' class="paper" stroke-width="2"' if hollow else ' stroke="none"'
        yield f'<circle cx="{x}" cy="{y}" r="4.5"{fill}/>'
    yield "</g>"


def _legend(drawn: Sequence[Lane], title: str) -> Iterable[str]:
    yield _text(LEFT, 22, title, 'class="title"')
    x = LEFT + 4.0
    y = 46
    for mark, told in (("", "makes the units"), ("ring", "reads them"), ("both", "both")):
        if mark == "both":
            yield f'<circle cx="{x}" cy="{y - 4}" r="7" class="sign ring"/>'
        inside = "sign paper" if mark == "ring" else "sign full"
        yield f'<circle cx="{x}" cy="{y - 4}" r="4.5" class="{inside}"/>'
        yield _text(x + 12, y, told, 'class="dim"')
        x += 12 + CHAR * len(told) + 22
    x, y = LEFT + 0.0, 68
    for kind in (k for k in HUES if any(lane.kind == k for lane in drawn)):
        colour = _colour(kind, 0)
        yield f'<rect x="{x:.0f}" y="{y - 9}" width="14" height="9" rx="2" fill="{colour}"/>'
        yield _text(x + 20, y, kind, 'class="dim"')
        x += 20 + CHAR * len(kind) + 20


def _short(name: str, room: int = 46) -> str:
    return name if len(name) <= room else "\u2026" + name[1 - room :]


def svg(report: Mapping[str, Any], kept: Mapping[str, int] | None = None, title: str = "") -> str:
    """Return the picture of an inspection as SVG.

    Args:
        report: what ``inspect`` returns.
        kept: units that stay, by group.
        title: first line.
    """
    drawn = lanes(report, kept)
    rows = report["layers"]
    names = [row["name"] for row in rows]
    because: dict[str, list[str]] = defaultdict(list)
    for row in report["frozen"]:
        because[row["where"]].append(f"{row['units']} stay: {row['why']}")
    made: dict[int, list[Lane]] = defaultdict(list)
    read: dict[int, list[Lane]] = defaultdict(list)
    for lane in drawn:
        for row in lane.makers:
            made[row].append(lane)
        for row in lane.readers:
            read[row].append(lane)
    columns = 1 + max((lane.column for lane in drawn), default=-1)
    labels = [_short(n) for n in names]
    x_name = LEFT + LANE * columns + 8
    x_shape = x_name + CHAR * max((len(t) for t in labels), default=0) + 16
    shapes = [f"{r['op']} {shape_text(r['weight_shape'])}" for r in rows]
    x_made = x_shape + CHAR * max((len(t) for t in shapes), default=0) + 16
    ends: list[float] = [640.0]
    body: list[str] = []
    for i in range(len(rows)):
        y = TOP + ROW * i
        here = [LEFT + LANE * lane.column for lane in (*made[i], *read[i])]
        if here:
            body.append(f'<path d="M{min(here)} {y}H{x_name - 6}" class="lead"/>')
    for lane in drawn:
        body.extend(_lane(lane, names))
    for i, row in enumerate(rows):
        y = TOP + ROW * i + 4
        body.append(_text(x_name, y, labels[i], title=names[i]))
        body.append(_text(x_shape, y, shapes[i], 'class="dim"'))
        x = x_made
        for verb, found in (("makes", made[i]), ("reads", read[i])):
            for lane in sorted(found, key=lambda lane: lane.number):
                told = f"{verb} #{lane.number} ({lane.label})"
                body.append(_text(x, y, told, f'fill="{lane.colour}"'))
                x += CHAR * len(told) + 10
        if because[row["name"]]:
            told = "; ".join(because[row["name"]])
            body.append(_text(x, y, _front(told), 'class="held"', told))
            x += CHAR * min(len(told), 90)
        ends.append(x)
    width, height = max(ends) + 16, TOP + ROW * len(rows) + 8
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height}" '
        f'viewBox="0 0 {width:.0f} {height}" font-family="ui-monospace, Menlo, Consolas, '
        f'DejaVu Sans Mono, monospace" font-size="12">\n<style>{_STYLE}</style>\n'
        f'<rect width="100%" height="100%" class="paper" stroke="none"/>\n'
        + "\n".join([*_legend(drawn, title), *body])
        + "\n</svg>\n"
    )


def _front(text: str, room: int = 90) -> str:
    return text if len(text) <= room else text[: room - 1] + "\u2026"


_STYLE = """
.paper { fill: #ffffff; }
.title { font-size: 15px; font-weight: 600; } .dim { fill: #6e7781; } .held { fill: #a3402f; }
.lead { stroke: #8c959f; stroke-width: 1; stroke-dasharray: 1 4; fill: none; }
.sign { stroke: #57606a; stroke-width: 2; } .full { fill: #57606a; stroke: none; }
.ring { fill: none; stroke-width: 1.5; }
"""

_PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>body {{ margin: 1rem; background: #fff; color: #1f2328; font: 14px/1.5 system-ui,
sans-serif; }} .picture {{ overflow-x: auto; }} table {{ border-collapse: collapse; }}
td, th {{ text-align: left; padding: .15rem 1rem .15rem 0; border-bottom: 1px solid #d0d7de;
vertical-align: top; overflow-wrap: anywhere; }}</style></head>
<body><div class="picture">{picture}</div>
<p>Units of one group live and die together, wherever its line has a dot. Groups compete only
inside themselves.</p>
<h2>Groups</h2>
<table><tr><th>group</th><th>kind</th><th>units</th><th>made by</th><th>read by</th></tr>
{groups}</table>
<h2>What stays, and because of what</h2>
<table><tr><th>units</th><th>because of</th><th>layer</th></tr>
{frozen}</table>
</body></html>
"""


def html(report: Mapping[str, Any], kept: Mapping[str, int] | None = None, title: str = "") -> str:
    """Return the picture as a page, with the groups and what is frozen as tables below."""

    def row(*cells: object) -> str:
        return "<tr>" + "".join(f"<td>{escape(str(c))}</td>" for c in cells) + "</tr>"

    def units(group: Mapping[str, Any]) -> str:
        stays = (kept or {}).get(group["name"], group["units"])
        return f"{group['units']}" + ("" if stays == group["units"] else f"\u2192{stays}")

    groups = [
        row(f"#{i}", g["kind"], units(g), ", ".join(g["layers"]), ", ".join(g["consumers"]))
        for i, g in enumerate(report["groups"], 1)
    ]
    frozen = [row(r["units"], r["why"], r["where"]) for r in report["frozen"]]
    return _PAGE.format(
        title=escape(title),
        picture=svg(report, kept, title),
        groups="\n".join(groups),
        frozen="\n".join(frozen) or row("none", "", ""),
    )
