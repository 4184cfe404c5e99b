"""What ``validate`` and ``bench`` found, as tables."""

from __future__ import annotations

import math
from typing import Any

from onnxprune.report.tables import Table, percent, shape_text, size_text


def validate_tables(report: dict[str, Any]) -> list[Table | str]:
    """Return the comparison of two models."""
    parts: list[Table | str] = []
    for what, rows in (("output", report["outputs"]), ("layer", report["layers"])):
        if rows:
            parts += [_similarities(what, rows), ""]
    across = report["provider"]
    if across is not None:
        name = f"{report['runtime']} provider against cpu provider: "
        for what, rows in (("output", across["outputs"]), ("layer", across["layers"])):
            if rows:
                parts += [_similarities(name + what, rows), ""]
        parts.append(f"the provider took {across['claimed']} of {across['nodes']} nodes")
    if report["metric"]:
        table = Table(["metric", ">dense", ">pruned", ">change"])
        for name, row in report["metric"].items():
            change = row["pruned"] - row["dense"]
            table.add(name, f"{row['dense']:.6g}", f"{row['pruned']:.6g}", f"{change:+.4g}")
        parts += [table, ""]
    sizes = "; ".join(
        ", ".join(f"{name} {shape_text(shape)}" for name, shape in feed.items())
        for feed in report["input_sizes"]
    )
    parts.append(f"{report['feeds']} feeds ({report['data']}) of sizes: {sizes or 'none'}")
    parts.append(f"interface: {'the same' if report['interface_same'] else 'differs'}")
    return parts


def _similarities(what: str, rows: dict[str, dict[str, Any]]) -> Table:
    heads = [">max error", ">relative", ">cosine", ">SNR", ">same top-1", ">KL"]
    table = Table([what, *heads])
    for name, row in rows.items():
        if row["shapes"] is not None:
            told = " became ".join(shape_text(s) for s in row["shapes"])
            table.add(name, told, "", "", "", "", "")
            continue
        snr, cosine = row["snr_db"], row["cosine"]
        table.add(
            name,
            f"{row['max_abs_error']:.3g}",
            f"{row['max_rel_error']:.3g}",
            None if cosine is None else f"{cosine:.6f}",
            None if snr is None else "exact" if math.isinf(snr) else f"{snr:.1f} dB",
            percent(row["top1_agreement"], 2),
            None if row["kl"] is None else f"{row['kl']:.3g}",
        )
    return table


def bench_tables(report: dict[str, Any]) -> list[Table | str]:
    """Return the race of models."""
    heads = ["runtime", ">threads", ">median ms", ">10 %", ">90 %", ">speed", ">load s", ">size"]
    table = Table(["model", *heads])
    for row in report["results"]:
        table.add(
            row["model"],
            row["runtime"],
            row["threads"] or "auto",
            f"{row['ms']:.3f}",
            f"{row['ms_p10']:.3f}",
            f"{row['ms_p90']:.3f}",
            f"{row['speedup']:.2f}x",
            f"{row['load_seconds']:.2f}",
            size_text(row["bytes"]),
        )
    sizes = ", ".join(f"{n} {shape_text(s)}" for n, s in report["input_sizes"].items())
    return [table, "", f"{report['rounds']} interleaved rounds; inputs: {sizes}"]
