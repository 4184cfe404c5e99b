"""The package as it will be installed, as links: ``build/lint/onnxprune`` with ``passes`` inside.

The sources keep ``passes/`` at the top of the repository, the wheel has it as
``onnxprune.passes``. Tools that read source files (mypy, import-linter) need the second view.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def link_tree(folder: Path) -> Path:
    """Make ``folder`` anew, holding a package ``onnxprune`` made of links, and return it."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "onnxprune"
    package.mkdir(parents=True)
    for source in [*sorted((ROOT / "onnxprune").iterdir()), ROOT / "passes"]:
        if source.name.startswith(".") or (source.is_dir() and not any(source.rglob("*.py"))):
            continue
        target = package / source.name
        target.symlink_to(os.path.relpath(source, package), target_is_directory=source.is_dir())
    return folder
