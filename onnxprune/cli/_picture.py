"""The option that draws coupled groups, shared by commands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from onnxprune.errors import UsageError

PICTURE: dict[str, Any] = {
    "type": click.Path(path_type=Path),
    "metavar": "FILE.svg|.html",
    "help": "Draw which layers are coupled: a row a layer, a line a group.",
}


def check_picture(path: Path | None) -> None:
    """Make sure the file's name says what it is to hold.

    Raises:
        UsageError: another ending.
    """
    if path is not None and path.suffix.lower() not in (".svg", ".html"):
        raise UsageError(f"--structure-report {path}: the name must end in .svg or .html")


def picture(
    path: Path, report: Mapping[str, Any], kept: Mapping[str, int] | None = None, title: str = ""
) -> str:
    """Return the text of the picture of an inspection, as the ending of ``path`` says."""
    from onnxprune.report.picture import html, svg

    return (html if path.suffix.lower() == ".html" else svg)(report, kept, title)
