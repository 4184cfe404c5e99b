"""The zoo's results as text: one line a model, medians a class, what froze."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import median
from typing import Any

#: Classes of the acceptance line; every other kind counts as convolutional.
ATTENTION = ("transformer", "mixer")
RECURRENT = ("rnn",)
#: Above this share a reason is owed.
MUCH = 0.9

Row = dict[str, Any]


def klass(row: Row) -> str:
    """Class of a model: convolutional, transformer or mixer, recurrent."""
    if row["kind"] in ATTENTION:
        return "transformers and mixers"
    return "recurrent" if row["kind"] in RECURRENT else "convolutional"


def line(row: Row) -> str:
    """One line of text about one model."""
    if "kept" not in row:
        return f"{row['name']:36} {row['status']:8} {'; '.join(row['why'])[:150]}"
    note = "; ".join(row["why"])[:100]
    return (
        f"{row['name']:36} {row['status']:8} kept {row['kept_body']:5.3f}"
        f"  error {row['error']:.1e}  {row['seconds']:6.1f} s  {note}"
    )


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """Counts by status, and by class: models, median and largest share of parameters kept.

    The share is of the parameters that are not an embedding table. `unexplained` lists models that
    keep more than 0.9 without a single frozen reason or note.
    """
    classes: dict[str, Any] = {}
    for name in sorted({klass(row) for row in rows}):
        kept = [row["kept_body"] for row in rows if klass(row) == name and "kept_body" in row]
        if kept:
            classes[name] = {
                "models": len(kept),
                "median_kept": round(median(kept), 4),
                "largest_kept": round(max(kept), 4),
                "above_0.9": sum(share > MUCH for share in kept),
            }
    return {
        "models": len(rows),
        "architectures": len({row["arch"] for row in rows}),
        "status": dict(Counter(row["status"] for row in rows)),
        "classes": classes,
        "unexplained": [
            row["name"]
            for row in rows
            if row.get("kept_body", 0.0) > MUCH and not row["frozen"] and not row["notes"]
        ],
        "largest_error": max((row["error"] for row in rows if "error" in row), default=0.0),
    }


def _reasons(rows: Sequence[Row]) -> list[tuple[str, int]]:
    """Frozen reasons, shortened to their first words, with the number of models that name them."""
    seen: Counter[str] = Counter()
    for row in rows:
        seen.update({" ".join(item["why"].split()[:14]) for item in row.get("frozen", [])})
    return seen.most_common(40)


def markdown(rows: Sequence[Row], found: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    status = ", ".join(f"{count} {name}" for name, count in sorted(found["status"].items()))
    lines = [
        "# Zoo: `--pattern channel --sparsity 0.5 --criterion l1`",
        "",
        f"{found['models']} files of {found['architectures']} architectures: {status}. Largest",
        f"difference between shrunk and masked model: {found['largest_error']:.1e} of the output's",
        "deviation. Share of parameters kept, embeddings left out:",
        "",
        "| class | models | median kept | largest | above 0.9 |",
        "|---|---|---|---|---|",
    ]
    for name, values in found["classes"].items():
        lines.append("| " + " | ".join([name, *(str(value) for value in values.values())]) + " |")
    if found["unexplained"]:
        lines += ["", f"Above 0.9 with no reason given: {', '.join(found['unexplained'])}."]
    bad = [row for row in rows if row["status"] != "right"]
    if bad:
        lines += ["", "| not right | status | why |", "|---|---|---|"]
        lines += [
            f"| {row['name']} | {row['status']} | {'; '.join(row['why'])[:300].replace('|', '/')} |"
            for row in bad
        ]
    lines += [
        "",
        "## Models",
        "",
        "| model | kind | status | kept | error | seconds |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        kept = f"{row['kept_body']:.3f}" if "kept_body" in row else ""
        error = f"{row['error']:.1e}" if "error" in row else ""
        cells = (row["name"], row["kind"], row["status"], kept, error, str(row["seconds"]))
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "## What froze", "", "| reason | models |", "|---|---|"]
    lines += [f"| {reason.replace('|', '/')} | {count} |" for reason, count in _reasons(rows)]
    return "\n".join(lines) + "\n"
