"""One thread for the solvers' BLAS, and several solvers side by side.

numpy and scipy wheels carry an OpenBLAS each. On matrices of a few hundred rows their thread pools
cost more than they give, fight each other when calls alternate, and make the last bits depend on
the number of cores. Where the libraries are not found (other BLAS, other packaging) nothing
happens.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import scipy

from onnxprune.runtime.sessions import cores

Item = TypeVar("Item")
Found = TypeVar("Found")
_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "", "_64")


@contextmanager
def one_thread() -> Iterator[None]:
    """Run numpy's and scipy's BLAS on one thread inside the context."""
    before = [(setter, getter()) for setter, getter in _controls()]
    try:
        for setter, _ in before:
            setter(1)
        yield
    finally:
        for setter, count in before:
            setter(count)


def side_by_side(
    work: Callable[[Item], Found], items: Sequence[Item], *, worth: bool = True
) -> list[Found]:
    """Return ``work(item)`` for all items, worked out on as many threads as there are cores.

    Args:
        work: of one item; depends on no other.
        items: a single one is worked out on the calling thread.
        worth: it takes long enough for threads to pay.
    """
    if not worth or len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(cores()) as pool:
        return list(pool.map(work, items))


@cache
def _controls() -> tuple[tuple[Any, Any], ...]:
    """(set, get) of every OpenBLAS that came with numpy or scipy."""
    found = []
    for package in (np, scipy):
        base = Path(str(package.__file__)).resolve().parent
        folders = (base.parent / f"{base.name}.libs", base / ".dylibs")
        for file in sorted(f for folder in folders for f in folder.glob("*openblas*")):
            try:
                library = ctypes.CDLL(str(file))
            except OSError:
                continue
            for prefix in _PREFIXES:
                for suffix in _SUFFIXES:
                    setter = getattr(library, f"{prefix}_set_num_threads{suffix}", None)
                    getter = getattr(library, f"{prefix}_get_num_threads{suffix}", None)
                    if setter is not None and getter is not None:
                        found.append((setter, getter))
    return tuple(found)
