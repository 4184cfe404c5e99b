"""Manifest entries of files that another tool wrote, read from the files themselves.

The zoo's own exports know their inputs from the case; here names, types and dims come from the
file, and how to draw a feed from the input's name.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from . import judge
from .feeds import make_feeds
from .registry import Fill

#: How inputs are drawn by name, the first match counts; everything else is normal.
FILLS: tuple[tuple[str, Fill], ...] = (
    ("mask", "ones"),
    ("token_type_ids|use_cache_branch", 2),
    ("position_ids|bbox", 8),
    ("ids", 90),
)
#: Sizes of symbolic dims by name, the first match counts: (traced, other). The lengths are even
#: and leave room for windows.
SIZES: tuple[tuple[str, tuple[int, int]], ...] = (
    ("batch", (2, 3)),
    ("channels", (3, 3)),
    ("past", (5, 9)),
    ("encoder", (8, 11)),
    ("sequence|seq|length", (7, 12)),
    ("height|width|size", (64, 64)),
    ("audio|samples|time|frames", (1600, 2400)),
)


def _size(symbol: str, given: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Sizes of one symbol; a sum like ``past + sequence`` is that of its parts."""
    if symbol in given:
        return given[symbol]
    if "+" in symbol:
        parts = [_size(part.strip(), given) for part in symbol.split("+")]
        return sum(a for a, _ in parts), sum(b for _, b in parts)
    for pattern, sizes in SIZES:
        if re.search(pattern, symbol):
            return sizes
    return 1, 2


def entry_of(
    path: Path,
    *,
    arch: str,
    family: str,
    kind: str,
    exporter: str,
    fills: Mapping[str, Fill] | None = None,
    sizes: Mapping[str, tuple[int, int]] | None = None,
) -> dict[str, Any]:
    """Return the manifest entry of a file and run it at both sizes.

    Args:
        path: the file.
        arch, family, kind, exporter: as in :class:`.registry.Case`.
        fills: how inputs are drawn, by name, before :data:`FILLS`.
        sizes: sizes of symbolic dims, before :data:`SIZES`.

    Raises:
        ValueError: the file's outputs are not finite, or say nothing.
    """
    model = onnx.load(path)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs: list[dict[str, Any]] = []
    symbols: dict[str, tuple[int, int]] = {}
    for value in model.graph.input:
        if value.name in held:
            continue
        tensor = value.type.tensor_type
        dims: list[int | str] = []
        for axis, dim in enumerate(tensor.shape.dim):
            if dim.HasField("dim_value"):
                dims.append(dim.dim_value)
                continue
            symbol = dim.dim_param or f"{value.name}.{axis}"
            symbols[symbol] = _size(symbol, sizes or {})
            dims.append(symbol)
        fill = (fills or {}).get(value.name)
        if fill is None:
            fill = next((f for p, f in FILLS if re.search(p, value.name)), "normal")
        dtype = str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)))
        inputs.append({"name": value.name, "dtype": dtype, "dims": dims, "fill": fill})
    data = path.read_bytes()
    entry: dict[str, Any] = {
        "name": path.stem,
        "arch": arch,
        "family": family,
        "kind": kind,
        "exporter": exporter,
        "file": path.name,
        "inputs": inputs,
        "sizes": {symbol: traced for symbol, (traced, _) in symbols.items()},
        "other_sizes": {symbol: other for symbol, (_, other) in symbols.items()},
        "ops": dict(sorted(Counter(_operators(model.graph)).items())),
        "opset": {item.domain or "ai.onnx": item.version for item in model.opset_import},
        "params": judge.parameters(model)["all"],
        "full_check": not judge.full_check(path),
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
    }
    for chosen in (entry["sizes"], entry["other_sizes"]):
        outputs = judge.run(path, make_feeds(entry, chosen))
        real = [array for array in outputs if array.dtype.kind == "f"]
        if not all(np.isfinite(array).all() for array in real):
            raise ValueError("the outputs are not finite with these weights")
        if real and not any(array.size > 1 and array.std() > 0 for array in real):
            raise ValueError("the outputs are constant with these weights")
    return entry


def _operators(graph: onnx.GraphProto) -> list[str]:
    found: list[str] = []
    for part in judge.graphs(graph):
        for node in part.node:
            named = f"{node.domain}::" if node.domain not in ("", "ai.onnx") else ""
            found.append(f"{named}{node.op_type}")
    return found


class Manifest:
    """The manifest of a folder, written after every change."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / "manifest.json"
        held = json.loads(self.path.read_text()) if self.path.exists() else {}
        self.models: dict[str, Any] = {e["name"]: e for e in held.get("models", [])}
        self.failed: dict[str, Any] = {e["name"]: e for e in held.get("failed", [])}

    def add(self, entry: Mapping[str, Any]) -> None:
        """Enter a file."""
        self.failed.pop(entry["name"], None)
        self.models[entry["name"]] = dict(entry)
        self._write()
        print(f"{entry['name']:44} {entry['bytes'] / 1e6:7.2f} MB", flush=True)

    def fail(self, name: str, error: Exception) -> None:
        """Enter what could not be written, with the reason."""
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        self.models.pop(name, None)
        self.failed[name] = {"name": name, "reason": reason}
        self._write()
        print(f"{name:44} FAILED {reason}", flush=True)

    def _write(self) -> None:
        rows = {
            "models": [self.models[name] for name in sorted(self.models)],
            "failed": [self.failed[name] for name in sorted(self.failed)],
        }
        part = self.path.with_name(".manifest.part")
        part.write_text(json.dumps(rows, indent=1) + "\n")
        part.replace(self.path)
