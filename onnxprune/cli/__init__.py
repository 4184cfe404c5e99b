"""The command line: parse, call the api, render.

Every module of this package whose name does not start with an underscore is a command: it holds
``command``, and its docstring reads ```` ``onnxprune NAME``: what it does.```` Modules are imported
when their command runs, so that ``--help`` need not wait for onnxruntime.
"""

from __future__ import annotations

import ast
import errno
import importlib
import importlib.util
import os
import pkgutil
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from functools import cache
from typing import Any

import click

from onnxprune import __version__
from onnxprune.errors import OnnxPruneError

ISSUES = "the project's issue tracker"
INTERRUPTED = 130


@cache
def _summary(module: str) -> str:
    """Return what a command's module says it does, without importing it."""
    spec = importlib.util.find_spec(module)
    loader: Any = spec.loader if spec else None
    source = loader.get_source(module) if loader else None
    doc = ast.get_docstring(ast.parse(source or "")) or ""
    return " ".join(doc.partition("\n\n")[0].partition(":")[2].split())


class _Commands(click.Group):
    """The modules of this package as commands, and one place where errors become messages."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands, sorted."""
        found = (info.name for info in pkgutil.iter_modules(__path__))
        return sorted(name for name in found if not name.startswith("_"))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command."""
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands by their modules' docstrings."""
        names = self.list_commands(ctx)
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(f"{__name__}.{name}")) for name in names])

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        """Run, and exit with 0, the exit code of the error, or 130 after Ctrl-C."""
        extra["standalone_mode"] = False
        code = 1
        try:
            _prepare()
            result = super().main(args, *rest, **extra)
            code = result if isinstance(result, int) else 0
            sys.stdout.flush()
        except OnnxPruneError as error:
            code = error.exit_code
            _complain(str(error))
        except click.ClickException as error:
            error.show()
            code = error.exit_code
        except (KeyboardInterrupt, click.Abort):
            code = INTERRUPTED
            click.echo("interrupted; nothing was written", err=True)
        except MemoryError:
            _complain("not enough memory for this model")
        except OSError as error:
            if error.errno == errno.EPIPE:
                _hush()
            else:
                _unexpected(error)
        except Exception as error:
            _unexpected(error)
        sys.exit(code)


def _prepare() -> None:
    if not _debugging():
        warnings.simplefilter("ignore")  # of libraries; what a user should know is in the report
    if hasattr(signal, "SIGTERM") and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        # As Ctrl-C, so that temporary files go before the process does.
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def _debugging() -> bool:
    context = click.get_current_context(silent=True)
    given = bool(context and context.find_root().params.get("debug"))
    asked = os.environ.get("ONNXPRUNE_DEBUG", "") not in ("", "0")
    return given or asked or "--debug" in sys.argv[1:]


def _complain(message: str) -> None:
    if _debugging():
        traceback.print_exc()
    click.echo(f"error: {message}", err=True)


def _unexpected(error: Exception) -> None:
    text = " ".join(str(error).split())[:300]
    _complain(
        f"this should not happen: {type(error).__name__}: {text}\n"
        f"Please report it on {ISSUES} with the model and the command"
        + ("" if _debugging() else "; ONNXPRUNE_DEBUG=1 shows where it happened")
    )


def _hush() -> None:
    """Whoever read our output has gone: keep Python from complaining when it flushes at exit."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        return


@click.command(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Exit codes: 0 done, 1 failed, 2 usage, 3 the result did not pass its proof or "
    "threshold (nothing written), 130 interrupted.",
)
@click.version_option(__version__, prog_name="onnxprune")
@click.option("--debug", is_flag=True, help="Show where an error happened.")
def main(debug: bool) -> None:
    """Prune ONNX models as ONNX graphs: smaller and faster, proved against the original."""
