"""What ``doctor`` found, as tables."""

from __future__ import annotations

from typing import Any

from onnxprune.report.tables import Table


def _known(info: dict[str, Any]) -> tuple[str | None, ...]:
    """Wishes for an instruction set that are met."""
    return (None, "", *info["isa_supported"])


def doctor_tables(report: dict[str, Any]) -> list[Table | str]:
    """Return the findings, and what each kernel can do here."""
    facts = Table(["what", "found"])
    facts.add("machine", report["machine"])
    for name, version in report["versions"].items():
        facts.add(name, version)
    facts.add("library", report["library"] or "none")
    parts: list[Table | str] = [facts]
    info = report["info"]
    if info is not None:
        oldest, newest = info["interface_versions"]
        facts.add("library version", info["version"])
        facts.add("provider", info["provider"])
        facts.add("works with", f"onnxruntime 1.{oldest} and newer, written against 1.{newest}")
        wanted = report["isa_wanted"]
        missed = f" (ONNXPRUNE_ISA={wanted} is none of them)" if wanted not in _known(info) else ""
        facts.add(
            "instruction sets", f"{' '.join(info['isa_supported'])}, {info['isa']} in use{missed}"
        )
        reason = info["code_generation_reason"]
        facts.add("generates code", "yes" if info["code_generation"] else f"no: {reason}")
        kernels = Table(["kernel", "instruction set", "usable here"])
        for row in info["kernels"]:
            kernels.add(row["name"], row["isa"], row["usable"])
        parts += ["", kernels]
    test = report["self_test"]
    if test is None:
        told = f"sparse runtime: cannot be used here: {report['reason']}"
    elif test["passed"]:
        told = (
            f"self-test: passed in {test['seconds']:.2f} s, {test['claimed']} nodes by "
            f"{', '.join(test['kernels'])}; largest relative error {test['max_rel_error']:.1e}"
        )
    else:
        told = f"self-test: FAILED: {test['error']}"
    return [*parts, "", told]
