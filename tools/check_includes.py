"""Which way C++ includes may point: ``ep -> {abi, kernels}`` and nothing else across folders.

``kernels/`` is plain pointers and strides and never sees onnxruntime; ``abi/`` is onnxruntime's
interface and knows nothing of us. A file that breaks this is printed; the exit code is then 1.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ALLOWED: dict[str, set[str]] = {"kernels": set(), "abi": set(), "ep": {"abi", "kernels"}}
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', re.MULTILINE)
SUFFIXES = {".h", ".hpp", ".inc", ".cc", ".cpp"}
FOREIGN = re.compile(r"onnxruntime|\bort_|onnx/")


def target_folder(source: Path, name: str, root: Path) -> str | None:
    """Return the top folder below ``root`` that ``#include "name"`` in ``source`` points into.

    A quoted include is looked up beside the file first and from ``root`` then, as the build does
    it. None for a header that is not ours.
    """
    for base in (source.parent, root):
        path = (base / name).resolve()
        if path.is_relative_to(root) and path.exists():
            return path.relative_to(root).parts[0]
    first = Path(name).parts[0]
    return first if first in ALLOWED else None


def violations(root: Path) -> Iterator[str]:
    """Yield one line for each include below ``root`` that points the wrong way."""
    root = root.resolve()
    for folder, allowed in ALLOWED.items():
        for source in sorted((root / folder).rglob("*")):
            if source.suffix not in SUFFIXES:
                continue
            text = source.read_text()
            for match in INCLUDE.finditer(text):
                where = f"{source.relative_to(root)}:{text.count(chr(10), 0, match.start()) + 1}"
                target = target_folder(source, match[2], root)
                if target is not None and target != folder and target not in allowed:
                    yield f"{where}: {folder}/ must not include {match[2]} (of {target}/)"
                elif target is None and folder == "kernels" and FOREIGN.search(match[2]):
                    yield f"{where}: kernels/ must not see onnxruntime ({match[2]})"


def main() -> int:
    """Check runtime_ext; the process exit code."""
    found = list(violations(ROOT / "runtime_ext"))
    print("\n".join(found) or "C++ includes point the right way")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
