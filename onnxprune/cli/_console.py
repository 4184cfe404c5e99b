"""How commands speak: results to stdout, progress to stderr, plain text where no terminal is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterable, Iterator

import click

from onnxprune.report.tables import Table


def show(parts: Iterable[Table | str], *, err: bool = False) -> None:
    """Print tables and lines, with rich on a terminal and as plain text in a pipe."""
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        for part in parts:
            click.echo(part.plain() if isinstance(part, Table) else part, err=err)
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable

    console = Console(file=stream, highlight=False, markup=False)  # knows about NO_COLOR
    for part in parts:
        if isinstance(part, str):
            console.print(part, soft_wrap=True)
            continue
        table = RichTable(
            title=part.title or None, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
        )
        for heading, right in zip(part.headings, part.right, strict=True):
            table.add_column(heading, justify="right" if right else "left", overflow="fold")
        for row in part.rows:
            table.add_row(*row)
        console.print(table)


def note(text: str) -> None:
    """Tell the person at the terminal something that is not the result."""
    click.echo(f"note: {text}", err=True)


@contextlib.contextmanager
def progress_bar() -> Iterator[Callable[[str, float], None]]:
    """Give a callback (stage, fraction done); nothing is shown unless stderr is a terminal."""
    if not sys.stderr.isatty():
        yield lambda stage, done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    console = Console(file=sys.stderr)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("load", total=1.0)
        shown = "load"

        def advance(stage: str, done: float) -> None:
            # The bar is drawn ten times a second, but a stage is never passed over unseen.
            nonlocal shown
            bar.update(task, description=stage, completed=done, refresh=stage != shown)
            shown = stage

        yield advance
