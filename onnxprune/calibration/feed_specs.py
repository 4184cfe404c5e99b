"""What a model asks of each input, and whether an array answers it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.errors import DataError

Array = npt.NDArray[Any]
Feed = dict[str, Array]
"""One call of the model: an array for each input, by name."""


@dataclass(frozen=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: its name.
        dtype: its element type.
        dims: for each axis its size, or its symbolic name, or None for any; None as a whole if
            the model does not even state the rank.
        optional: whether the model holds a default for it.
    """

    name: str
    dtype: ir.DataType
    dims: tuple[int | str | None, ...] | None
    optional: bool = False

    @property
    def rank(self) -> int | None:
        """Number of axes, None if the model does not state it."""
        return None if self.dims is None else len(self.dims)

    @property
    def is_string(self) -> bool:
        """Whether the elements are strings."""
        return self.dtype == ir.DataType.STRING

    def dim_key(self, axis: int) -> str | None:
        """Return the name of the unknown on an axis: its symbol, else its place; None if fixed."""
        dim = self.dims[axis] if self.dims is not None else None
        if isinstance(dim, int):
            return None
        return dim or f"{self.name}[{axis}]"

    def fit(self, array: Array, where: str) -> Array:
        """Return ``array`` as the model takes it: cast if nothing is lost, otherwise unchanged.

        Args:
            array: a whole input, batch axis included.
            where: what to call it in messages.

        Raises:
            DataError: wrong type, rank or fixed size; the message says which and what to do.
        """
        array = self._cast(array, where)
        if self.dims is None:
            return array
        if array.ndim != len(self.dims):
            raise DataError(f"{where} has shape {list(array.shape)}; the model takes {self}")
        for axis, (size, dim) in enumerate(zip(array.shape, self.dims, strict=True)):
            if isinstance(dim, int) and size != dim:
                raise DataError(
                    f"{where} has shape {list(array.shape)}; the model takes {self}: axis {axis} "
                    f"must be {dim}"
                )
        return array

    def _cast(self, array: Array, where: str) -> Array:
        if self.is_string:
            if array.dtype.kind not in "OUS":
                raise DataError(f"{where} has type {array.dtype}; the model takes strings")
            return array
        wanted = self.dtype.numpy()
        if array.dtype == wanted:
            return array
        if not np.can_cast(array.dtype, wanted, casting="safe"):
            raise DataError(
                f"{where} has type {array.dtype}, which does not fit into {wanted} without loss; "
                f"convert it yourself: .astype({wanted.name!r})"
            )
        return array.astype(wanted)

    def __str__(self) -> str:
        sizes = ["..."] if self.dims is None else ["?" if d is None else str(d) for d in self.dims]
        dims = ", ".join(sizes)
        return f"{self.dtype.name.lower()}[{dims}]"


def input_specs(inputs: ir.Model | Iterable[ir.Value | InputSpec]) -> list[InputSpec]:
    """Return the spec of each input, those with a default in the model marked optional.

    Raises:
        DataError: an input that is no tensor (a sequence, a map, an optional).
    """
    if isinstance(inputs, ir.Model):
        graph = inputs.graph
        return [_spec(v, v.name in graph.initializers) for v in graph.inputs]
    return [v if isinstance(v, InputSpec) else _spec(v, False) for v in inputs]


def _spec(value: ir.Value, optional: bool) -> InputSpec:
    name = value.name or ""
    if not isinstance(value.type, ir.TensorType):
        raise DataError(
            f"input {name!r} is not a tensor but {value.type}; such models can be read and "
            "written, but not run on data by onnxprune"
        )
    if value.shape is None:
        return InputSpec(name, value.dtype or ir.DataType.FLOAT, None, optional)
    return InputSpec(name, value.type.dtype, tuple(_dim(d) for d in value.shape), optional)


def _dim(dim: int | ir.SymbolicDim) -> int | str | None:
    if isinstance(dim, int):
        # Some exporters write 0 or -1 where they mean "any".
        return dim if dim > 0 else None
    return str(dim.value) if dim.value else None


def check_names(specs: Iterable[InputSpec], found: Iterable[str], where: str) -> None:
    """Raise DataError if ``found`` lacks an input that has no default."""
    found = list(found)
    missing = [s.name for s in specs if not s.optional and s.name not in found]
    if missing:
        held = ", ".join(map(repr, found)) or "nothing"
        raise DataError(
            f"{where} lacks input {', '.join(map(repr, missing))}; it holds {held}; name the "
            "arrays after the model's inputs"
        )


def fit_feed(specs: Iterable[InputSpec], feed: Mapping[str, Any], where: str) -> Feed:
    """Return the feed the model takes: inputs only, each fitted.

    Raises:
        DataError: a missing input, or one that does not fit.
    """
    specs = list(specs)
    check_names(specs, feed, where)
    return {
        s.name: s.fit(np.asarray(feed[s.name]), f"{where}: input {s.name!r}")
        for s in specs
        if s.name in feed
    }
