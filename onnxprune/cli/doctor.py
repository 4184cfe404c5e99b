"""``onnxprune doctor``: say what the sparse runtime finds on this machine, and try it."""

from __future__ import annotations

import click

from onnxprune.cli._console import show
from onnxprune.errors import RuntimeUnavailableError


@click.command("doctor")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def command(as_json: bool) -> None:
    """Show versions, the sparse runtime's library, instruction sets and kernels; run a self-test.

    Exits with 1 when the sparse runtime cannot be used here or its self-test fails. Everything else
    of onnxprune works without it.
    """
    from onnxprune import runtime
    from onnxprune.report.doctor_text import doctor_tables
    from onnxprune.report.jsonable import dumps

    report = runtime.doctor()
    if as_json:
        click.echo(dumps(report))
    else:
        show(doctor_tables(report))
    if not report["available"]:
        raise RuntimeUnavailableError(report["reason"])
    if not report["self_test"]["passed"]:
        raise RuntimeUnavailableError(f"the self-test failed: {report['self_test']['error']}")
