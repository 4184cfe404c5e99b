"""Where errors become messages and exit codes."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator

import click

from onnxprune.errors import OnnxPruneError

INTERRUPTED = 130


def tell(error: BaseException) -> int:
    """Tell the user on stderr what went wrong; return the exit code."""
    if isinstance(error, OnnxPruneError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        if context is not None:
            click.echo(f"{context.get_usage()}\nTry '{context.command_path} --help'.", err=True)
        _complain(error.format_message())
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, click.Abort)):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    if isinstance(error, MemoryError):
        _complain("not enough memory for this model")
    elif isinstance(error, OSError):
        _silence_stdout()
        if error.errno != errno.EPIPE:
            where = f"{error.filename}: " if error.filename else ""
            _complain(f"{where}{error.strerror or error}")
    elif isinstance(error, ModuleNotFoundError) and error.name == "onnxprune.passes":
        _complain("a checkout of onnxprune has no 'onnxprune.passes'; install it first")
    else:
        _unexpected(error)
    return 1


@contextlib.contextmanager
def own_process() -> Iterator[None]:
    """Warnings of libraries stay quiet, and a request to end is treated as Ctrl-C."""
    with warnings.catch_warnings(), contextlib.ExitStack() as stack:
        if not _debugging():
            warnings.simplefilter("ignore")  # what a user should know is in the report
        with contextlib.suppress(ValueError):  # not the main thread: signals are not ours
            if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
                old = signal.signal(signal.SIGTERM, signal.default_int_handler)
                stack.callback(signal.signal, signal.SIGTERM, old)
        yield


def _debugging() -> bool:
    return "--debug" in sys.argv[1:] or os.environ.get("ONNXPRUNE_DEBUG", "") not in ("", "0")


def _complain(message: str) -> None:
    if _debugging():
        traceback.print_exc()
    click.echo(f"error: {message}", err=True)


def _unexpected(error: BaseException) -> None:
    text = " ".join(str(error).split())[:300]
    hint = "" if _debugging() else "; --debug before the command's name shows where it happened"
    _complain(
        f"this should not happen: {type(error).__name__}: {text}\n"
        f"Please report it with the model and the command{hint}"
    )


def _silence_stdout() -> None:
    """Nobody can take what is still buffered: keep Python from trying again at exit."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
