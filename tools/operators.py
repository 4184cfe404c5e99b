"""The page of supported operators, made from the registry of rules.

python tools/operators.py > docs/operators.md
"""

from __future__ import annotations

import sys
from pathlib import Path

HEAD = """\
# Operators

This page is made from the rules by `python tools/operators.py > docs/operators.md`; do not edit it.

Structured pruning goes through these operators. The rule says how coordinates of the operands and
of the result go together: a name on both sides passes through, a name on the left only is summed
over, `*s` stands for any number of axes, `(g i)` is a product, `?` marks an optional operand.
Every rule is tested against onnxruntime on the samples it is registered with: removing coordinates
gives what zeros give where they are summed over.

*Exact*: the shrunk operator computes what the dense one does when removed coordinates count for
nothing. Where that is not so the axis is held, and with `--structure hidden` the statistics of a
normalisation become those of what stays, which the report says. Any other operator holds what it
touches, with a reason that `inspect` prints; single weights can be zeroed whatever is around them.

Softmax is never pruned along the axis it mixes: a zero is not absence there, it counts as exp(0).
"""


def page() -> str:
    """Return the page as Markdown."""
    import onnxprune.rules.families  # noqa: F401  (registers every rule)
    from onnxprune.rules.base import RULES

    lines = [HEAD]
    for domain in sorted({domain for domain, _ in RULES}):
        entries = [e for (d, _), e in sorted(RULES.items()) if d == domain]
        lines += [f"## {domain or 'ai.onnx'} ({len(entries)})", "", "| operator | rule | |"]
        lines.append("|---|---|---|")
        for entry in entries:
            text = entry.text.replace("|", "\\|")
            marks = ("`` ", " ``") if "`" in text else ("`", "`")
            lines.append(f"| {entry.op} | {text.join(marks)} | {entry.exact} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    sys.stdout.write(page())
