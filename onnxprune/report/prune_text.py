"""The report of a prune as tables."""

from __future__ import annotations

from typing import Any

from onnxprune.report.facts import by_reason
from onnxprune.report.inspect_text import MANY, frozen_table
from onnxprune.report.tables import Table, percent, shorten, size_text


def tables(report: dict[str, Any]) -> list[Table | str]:
    """Return what a person wants to see of a report: sums, groups, what stayed and why."""
    parts: list[Table | str] = [_sums(report), ""]
    if report["groups"]:
        parts += [_groups(report["groups"]), ""]
    if report["frozen"] and report["kind"] == "structure":
        parts += [frozen_table(by_reason(report["frozen"])), ""]
    if report["skipped"]:
        parts += [_skipped(report["skipped"]), ""]
    if report.get("recovery"):
        parts += [_recovery(report["recovery"]), ""]
    parts += [f"note: {n}" for n in report["notes"]]
    if report["kind"] == "structure" and not report["units"]["removed"]:
        parts.append("note: nothing was removed")
    parts.append(_verdict(report))
    return parts


def _sums(report: dict[str, Any]) -> Table:
    table = Table(["", ">before", ">after", ">kept"])
    for what, label in (("params", "parameters"), ("macs", "MACs"), ("bytes", "file")):
        before, after = report[what]["before"], report[what]["after"]
        kept = percent(after / before) if before else ""
        if what == "bytes":
            table.add(label, size_text(before), size_text(after), kept)
        else:
            table.add(label, before, after, kept)
    table.add("zero weights", "", percent(report["sparsity"]), "")
    units = report["units"]
    if report["kind"] == "structure":
        table.add("units removed", "", f"{units['removed']:,} of {units['total']:,}", "")
        table.add("units frozen", "", units["frozen"], "")
    return table


def _groups(groups: list[dict[str, Any]]) -> Table:
    structural = "units" in groups[0]
    heads = ("kind", ">units", ">kept", "layers") if structural else (">weights", ">kept", "tensor")
    table = Table(["group" if structural else "layer", *heads])
    for group in groups:
        if structural:
            layers = shorten(group["layers"], 4)
            table.add(group["name"], group.get("kind", ""), group["units"], group["kept"], layers)
        else:
            table.add(group["name"], group["weights"], group["kept"], group["tensor"])
    return table


def _skipped(skipped: list[dict[str, str]]) -> Table:
    table = Table(["layer left alone", "because"])
    for row in skipped[:MANY]:
        table.add(row["layer"], row["why"])
    if len(skipped) > MANY:
        table.add(f"{len(skipped) - MANY} more", "see --json")
    return table


def _recovery(recovery: dict[str, Any]) -> Table:
    table = Table([f"{recovery['held_out']} held-out samples", ">loss", ">agreement", "kept"])
    for step in recovery["steps"]:
        top1 = "" if step["top1"] is None else percent(step["top1"])
        table.add(step["step"], f"{step['loss']:.4g}", top1, "yes" if step["kept"] else "no")
    return table


def _verdict(report: dict[str, Any]) -> str:
    proof = report["proof"]
    if proof["passed"] is None:
        told = "not proved (--no-proof)"
    else:
        error = proof["max_rel_error"]
        told = f"proved: {proof['kind']}, largest relative error {error:.1e}"
        if "approximation" in proof:
            far = proof["approximation"]
            told += (
                f"; with the dense statistics in {far['normalisations']} normalisations it would "
                f"differ by {far['max_rel_error']:.1e}"
            )
    where = f" -> {report['output']}" if report.get("output") else ""
    return f"{told}; {report['seconds']:.2f} s{where}"
