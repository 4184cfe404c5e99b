"""Connected components of an undirected graph.

SciPy has this routine too, but importing it costs more time and memory than pruning a small model.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]


def connected_components(a: Ids, b: Ids, size: int) -> tuple[int, Ids]:
    """Return the components of the graph with edges ``a[i] - b[i]``.

    Every vertex points at one of its component. In each round the roots of all edges that still
    join two trees are hooked, the larger to the smallest it has an edge to, and trees are made
    flat by pointer jumping (Shiloach and Vishkin, "An O(log n) parallel connectivity algorithm",
    1982; taking the smallest is what later work does, and converges in a few rounds).

    Args:
        a: one end of every edge, int64 [n_edges], 0 to ``size`` - 1.
        b: the other ends, alike.
        size: number of vertices.

    Returns:
        The number of components and the component of every vertex, int64 [size]; components are
        numbered in the order of their smallest vertices.
    """
    root = np.arange(size, dtype=np.int64)
    while True:
        a, b = root[a], root[b]
        apart = a != b
        if not apart.any():
            break
        a, b = a[apart], b[apart]
        np.minimum.at(root, np.maximum(a, b), np.minimum(a, b))
        while True:
            flatter = root[root]
            if np.array_equal(flatter, root):
                break
            root = flatter
    is_root = root == np.arange(size)
    numbers = np.cumsum(is_root) - 1
    return int(np.count_nonzero(is_root)), numbers[root].astype(np.int64, copy=False)
