"""The command line: parse, call the api, render.

Every module of this package whose name does not start with an underscore is a command: it holds
``command``, and its docstring reads ```` ``onnxprune NAME``: what it does.```` Modules are imported
when their command runs, so that ``--help`` need not wait for onnxruntime.
"""

from __future__ import annotations

import ast
import difflib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import click

from onnxprune import __version__
from onnxprune.cli._errors import own_process, tell


@cache
def _summary(module: str) -> str:
    """Return what a command's module says it does, without importing it."""
    spec = importlib.util.find_spec(module)
    loader: Any = spec.loader if spec else None
    source = loader.get_source(module) if loader else None
    doc = ast.get_docstring(ast.parse(source or "")) or ""
    return " ".join(doc.partition("\n\n")[0].partition(":")[2].split())


def _module(command: str) -> str:
    return f"{__name__}.{command.replace('-', '_')}"


class _Commands(click.Group):
    """The modules of this package as commands, and one place where errors become messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        found = (info.name for info in pkgutil.iter_modules(__path__))
        return sorted(name.replace("_", "-") for name in found if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(_module(cmd_name)).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command that ``args`` start with; near names are part of the complaint."""
        names = self.list_commands(ctx)
        if args and args[0] not in names and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            told = f"unknown command {args[0]!r}.{hint} Commands: {', '.join(names)}"
            raise click.UsageError(told, ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by their modules' docstrings."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(_module(name))) for name in names])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run, and exit with 0, the exit code of the error, or 130 after Ctrl-C."""
        extra["standalone_mode"] = False
        try:
            with own_process():
                result = super().main(args, *rest, **extra)
            sys.stdout.flush()
            code = result if isinstance(result, int) else 0
        except (Exception, KeyboardInterrupt) as error:
            code = tell(error)
        sys.exit(code)


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 the result did not pass its proof or "
    "threshold (nothing written), 130 interrupted.",
)
@click.version_option(__version__, prog_name="onnxprune")
@click.option("--debug", is_flag=True, help="Show where an error happened.")
def main(debug: bool) -> None:  # debug is read where errors are told
    """Prune ONNX models as ONNX graphs: smaller and faster, proved against the original."""
