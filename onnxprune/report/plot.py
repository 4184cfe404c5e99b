"""A table of damages as a picture: SVG by hand, or PNG where Pillow is installed.

Every layer is a line over the fraction removed, on a logarithmic scale of loss; the layers that
suffer most at the middle level are named.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO

from onnxprune.errors import UsageError

WIDTH, HEIGHT = 960, 600
LEFT, TOP, RIGHT, BOTTOM = 70, 40, 330, 50
COLOURS = (
    "#1f5fa8", "#c2410c", "#2f7d32", "#7c3aa8", "#a8174f", "#0f766e", "#8a6d00", "#475569",
    "#5b8def", "#e58a5b", "#6db36f", "#b58ad6",
)  # fmt: skip
NAMED = 24
Primitive = tuple[str, tuple[float, ...], str, str]


def sensitivity_picture(rows: Sequence[Mapping[str, Any]], title: str) -> list[Primitive]:
    """Lay out a table.

    Args:
        rows: with ``layer``, ``sparsity`` and ``loss``; losses that are not finite are left out.
        title: what to write above.

    Returns:
        Lines and texts: (kind, coordinates, colour, text).
    """
    layers: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        if math.isfinite(row["loss"]):
            layers.setdefault(row["layer"], []).append((row["sparsity"], max(row["loss"], 1e-7)))
    points = [p for line in layers.values() for p in line]
    low = math.floor(math.log10(min((y for _, y in points), default=1e-3)))
    high = math.ceil(math.log10(max((y for _, y in points), default=1.0)))
    high = max(high, low + 1)
    wide, tall = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def place(sparsity: float, loss: float) -> tuple[float, float]:
        up = (math.log10(loss) - low) / (high - low)
        return LEFT + sparsity * wide, TOP + (1 - up) * tall

    out: list[Primitive] = [("text", (LEFT, TOP - 24), "#111111", title)]
    for tenth in range(0, 11, 2):
        x, y = place(tenth / 10, 10.0**low)
        out.append(("line", (x, TOP, x, y), "#dddddd", ""))
        out.append(("text", (x - 8, y + 8), "#333333", f"{tenth / 10:.1f}"))
    for power in range(low, high + 1):
        x, y = place(0.0, 10.0**power)
        out.append(("line", (x, y, LEFT + wide, y), "#dddddd", ""))
        out.append(("text", (8, y - 7), "#333333", f"1e{power}"))
    out.append(("text", (LEFT + wide / 2 - 60, HEIGHT - 22), "#333333", "fraction removed"))
    ranked = sorted(layers, key=lambda n: -sorted(layers[n])[len(layers[n]) // 2][1])
    for number, name in enumerate(ranked):
        colour = COLOURS[number % len(COLOURS)]
        line = [place(*p) for p in sorted(layers[name])]
        for (a, b), (c, d) in pairwise(line):
            out.append(("line", (a, b, c, d), colour, ""))
        for x, y in line:
            out.append(("line", (x - 2, y, x + 2, y), colour, ""))
            out.append(("line", (x, y - 2, x, y + 2), colour, ""))
        if number < NAMED:
            height = TOP + number * (tall / NAMED)
            x = WIDTH - RIGHT + 14
            out.append(("line", (x, height + 6, x + 18, height + 6), colour, ""))
            label = name if len(name) <= 44 else f"...{name[-41:]}"
            out.append(("text", (x + 24, height), "#333333", label))
    return out


def render(picture: Sequence[Primitive], suffix: str) -> bytes:
    """Return the picture as a file's content.

    Args:
        picture: of :func:`sensitivity_picture`.
        suffix: ``.svg`` or ``.png``.

    Raises:
        UsageError: another suffix, or PNG without Pillow.
    """
    if suffix == ".svg":
        return _svg(picture).encode()
    if suffix != ".png":
        raise UsageError(f"a plot is .svg or .png, not {suffix or 'without a suffix'}")
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise UsageError(
            "a plot as .png needs Pillow: pip install pillow, or ask for .svg"
        ) from None
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(image)
    for kind, at, colour, text in picture:
        if kind == "line":
            draw.line(at, fill=colour, width=1)
        else:
            draw.text((at[0], at[1]), text, fill=colour)
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def write_plot(path: Path, rows: Sequence[Mapping[str, Any]], title: str) -> None:
    """Write a table's picture, replacing the file only when it is complete.

    Raises:
        UsageError: see :func:`render`.
    """
    from onnxprune.io.atomic import write_files

    content = render(sensitivity_picture(rows, title), path.suffix.lower())

    def write(file: BinaryIO) -> None:
        file.write(content)

    write_files([(path.absolute(), write)])


def _svg(picture: Sequence[Primitive]) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for kind, at, colour, text in picture:
        if kind == "line":
            a, b, c, d = (f"{v:.1f}" for v in at)
            parts.append(f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}" stroke="{colour}"/>')
        else:
            x, y = f"{at[0]:.1f}", f"{at[1] + 11:.1f}"
            parts.append(f'<text x="{x}" y="{y}" fill="{colour}">{escape(text)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
