"""``onnxprune list``: show the patterns, criteria, allocations, passes, rules or formats."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any

import click

from onnxprune.cli._console import show
from onnxprune.report.tables import Table

Rows = list[dict[str, Any]]


def _spelt(members: Any) -> Rows:
    return [
        {"name": m.syntax, "summary": m.summary, "examples": list(m.examples)}
        for _, m in members.items()
    ]


def patterns() -> Rows:
    """Return what weights can be removed together."""
    from onnxprune.patterns.base import PATTERNS

    return _spelt(PATTERNS)


def criteria() -> Rows:
    """Return the scores."""
    from onnxprune.criteria.base import CRITERIA

    return _spelt(CRITERIA)


def allocations() -> Rows:
    """Return the ways to divide the sparsity."""
    from onnxprune.allocation.base import ALLOCATIONS

    return [{"name": name, "summary": s.summary} for name, s in ALLOCATIONS.items()]


def passes() -> Rows:
    """Return the rewriting passes with their options."""
    from onnxprune.passes.base import PASSES

    return [
        {
            "name": name,
            "summary": _first_sentence(member),
            "options": {
                f.name: None if f.default is dataclasses.MISSING else f.default
                for f in dataclasses.fields(member)
            },
        }
        for name, member in PASSES.items()
    ]


def rules() -> Rows:
    """Return the operators pruning understands."""
    import onnxprune.rules.families  # noqa: F401  (registers every rule)
    from onnxprune.rules.base import RULES

    return [
        {"name": e.op, "domain": e.domain or "ai.onnx", "rule": e.text, "exact": e.exact}
        for _, e in sorted(RULES.items())
    ]


def formats() -> Rows:
    """Return the sparse encodings."""
    from onnxprune.formats import FORMATS

    return [{"name": name, "summary": m.summary} for name, m in FORMATS.items()]


def _first_sentence(member: type) -> str:
    first = " ".join((inspect.getdoc(member) or "").partition("\n\n")[0].split())
    return first.partition(". ")[0].rstrip(".").replace("``", "`")


KINDS: dict[str, Callable[[], Rows]] = {
    f.__name__: f for f in (patterns, criteria, allocations, passes, rules, formats)
}


@click.command("list")
@click.argument("kind", type=click.Choice(list(KINDS)))
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(kind: str, as_json: bool) -> None:
    """Show what there is to choose from, as the program itself knows it."""
    rows = KINDS[kind]()
    if as_json:
        from onnxprune.report.jsonable import dumps

        click.echo(dumps({kind: rows}))
        return
    columns = list(rows[0])
    table = Table(columns)
    for row in rows:
        table.add(*(_cell(row[c]) for c in columns))
    show([table])


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v!r}" for k, v in value.items())
    return " ".join(value) if isinstance(value, list) else value
