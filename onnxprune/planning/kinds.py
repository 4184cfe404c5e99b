"""What kind of units a group holds: heads, feed-forward width, channels, the hidden stream."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxprune.axes import Bools, Ids
from onnxprune.planning.layers import Layer
from onnxprune.rules.analysis import Analyzer

RECURRENT = "recurrent"


def kinds_of(analyzer: Analyzer, layers: list[Layer]) -> list[str]:
    """Return the kind of every group of ``analyzer.groups``.

    ``hidden``: a normalisation takes statistics over the units. ``heads``: an attention product
    goes over them one by one. ``head_dim``: the inside of such heads. ``channels``: a layer with
    a kernel, or a recurrent one, makes them. ``ffn``: what is left, the width between matrix
    products.
    """
    labels = analyzer.partition.labels
    count = analyzer.partition.count

    def touched(blocks: Iterable[Ids]) -> Bools:
        out = np.zeros(count, np.bool_)
        for ids in blocks:
            out[labels[ids]] = True
        return out

    mixed = touched(ids for found in analyzer.restated for ids in found.over)
    heads = touched(analyzer.space.marks.get("heads", []))
    inside = np.zeros(count, np.bool_)
    inside[analyzer.partition.parts[:, 1]] = True
    recurrent = touched(analyzer.space.marks.get(RECURRENT, []))
    kernels = {
        layer.value.name
        for layer in layers
        if any(role == "k" for atoms in layer.atoms for role, _ in atoms)
    }
    kinds = []
    for group in analyzer.groups:
        if mixed[group.labels].any():
            kinds.append("hidden")
        elif heads[group.labels].any():
            kinds.append("heads")
        elif inside[group.labels].any():
            kinds.append("head_dim")
        elif recurrent[group.labels].any() or any(s.tensor in kernels for s in group.spans):
            kinds.append("channels")
        else:
            kinds.append("ffn")
    return kinds
