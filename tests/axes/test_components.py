"""Connected components: the same as SciPy's, numbers included."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components as reference

from onnxprune.axes.components import connected_components


def check(a: list[int], b: list[int], size: int) -> None:
    first, second = np.array(a, np.int64), np.array(b, np.int64)
    graph = coo_matrix((np.ones(len(a), np.bool_), (first, second)), shape=(size, size))
    count, labels = connected_components(first, second, size)
    wanted_count, wanted = reference(graph, directed=False)
    assert count == wanted_count
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, wanted)


@given(st.data())
def test_random_graphs(data: st.DataObject) -> None:
    size = data.draw(st.integers(1, 60))
    vertex = st.integers(0, size - 1)
    edges = data.draw(st.lists(st.tuples(vertex, vertex), max_size=80))
    check([a for a, _ in edges], [b for _, b in edges], size)


@pytest.mark.parametrize("shape", ["chain", "backwards", "shuffled", "star", "comb"])
def test_long_shapes(shape: str) -> None:
    """Shapes that make label propagation slow."""
    n = 20_000
    order = np.arange(n)
    if shape == "backwards":
        order = order[::-1]
    elif shape == "shuffled":
        order = np.random.default_rng(0).permutation(n)
    ends = order[:-1], order[1:]
    if shape == "star":
        ends = np.full(n - 1, n - 1), np.arange(n - 1)
    elif shape == "comb":
        ends = np.arange(0, n - 2, 2), np.arange(2, n, 2)
    check(list(ends[0]), list(ends[1]), n)


def test_no_edges_and_no_vertices() -> None:
    check([], [], 3)
    count, labels = connected_components(np.empty(0, np.int64), np.empty(0, np.int64), 0)
    assert (count, len(labels)) == (0, 0)
