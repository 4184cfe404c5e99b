"""Per-item sparsities given by name or regular expression."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

from onnxprune.errors import UsageError


def resolve_overrides(names: Sequence[str], overrides: Mapping[str, float]) -> dict[str, float]:
    """Spread sparsities given by name or regular expression over the items they mean.

    A key that is an item's whole name means that item only; any other key is a regular expression
    searched for anywhere in the names. Keys are applied in order, later ones win, and whole names
    win over expressions.

    Args:
        names: the items that can be overridden.
        overrides: name or expression -> fraction to remove, 0..1.

    Raises:
        UsageError: a key matches nothing or is no valid expression, or a sparsity lies outside
            0..1.
    """
    known = set(names)
    matched: dict[str, float] = {}
    exact: dict[str, float] = {}
    for key, sparsity in overrides.items():
        if not 0.0 <= sparsity <= 1.0:  # NaN fails too
            raise UsageError(
                f"layer override {key}={sparsity:g}: a sparsity is a fraction, from 0 to 1"
            )
        if key in known:
            exact[key] = sparsity
            continue
        hits = _search(key, names)
        if not hits:
            near = difflib.get_close_matches(key, names, n=3)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise UsageError(
                f"layer override {key}={sparsity:g} matches none of the {len(names)} layers that "
                f"can be pruned.{hint}"
            )
        matched.update(dict.fromkeys(hits, sparsity))
    return matched | exact


def _search(key: str, names: Sequence[str]) -> list[str]:
    try:
        expression = re.compile(key)
    except re.error as error:
        raise UsageError(
            f"layer override {key!r} is neither a layer's name nor a regular expression: {error}"
        ) from None
    return [name for name in names if expression.search(name)]
