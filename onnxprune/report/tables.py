"""Tables as data, and as aligned plain text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """Rows of text under headings.

    Attributes:
        columns: headings; one that starts with ``>`` is right-aligned (the mark is not shown).
        rows: one text a column.
        title: a line above the table, empty for none.
    """

    columns: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    title: str = ""

    @property
    def headings(self) -> list[str]:
        """The headings as shown."""
        return [c.removeprefix(">") for c in self.columns]

    @property
    def right(self) -> list[bool]:
        """Which columns are right-aligned."""
        return [c.startswith(">") for c in self.columns]

    def add(self, *cells: object) -> None:
        """Append a row; numbers get thousands separators, None an empty cell."""
        self.rows.append([cell_text(c) for c in cells])

    def plain(self) -> str:
        """Return the table as aligned text without colour or lines."""
        rows = [self.headings, *self.rows]
        widths = [max(len(row[i]) for row in rows) for i in range(len(self.columns))]
        lines = [
            "  ".join(
                cell.rjust(width) if right else cell.ljust(width)
                for cell, width, right in zip(row, widths, self.right, strict=True)
            ).rstrip()
            for row in rows
        ]
        return "\n".join(([self.title] if self.title else []) + lines)


def cell_text(value: object) -> str:
    """Return how a value reads in a table."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def percent(value: float | None, digits: int = 1) -> str:
    """Return a fraction as a percentage; empty for None."""
    return "" if value is None else f"{value:.{digits}%}"


def shape_text(dims: Iterable[object] | None) -> str:
    """Return a shape as ``64x3x3x3``; one with symbols as ``[batch, 3, ?]``, ? for unknown."""
    if dims is None:
        return "?"
    held = ["?" if d is None else str(d) for d in dims]
    if all(d.isdigit() for d in held):
        return "x".join(held) or "scalar"
    return f"[{', '.join(held)}]"


def size_text(count: float) -> str:
    """Return bytes with a binary unit."""
    for unit in ("B", "KiB", "MiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.2f} GiB"


def shorten(names: Sequence[str], most: int) -> str:
    """Return names as one text, the last ones counted where there are too many."""
    if len(names) <= most + 1:
        return ", ".join(names)
    return ", ".join(names[:most]) + f" and {len(names) - most} more"
