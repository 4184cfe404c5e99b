"""``coo``: values with their coordinates, in the blob and in ONNX's own ``SparseTensorProto``.

Blob layout (docs/formats.md, 3.1): params ``[kind, 0, 0, 0]``; section 0 values in index order;
section 1 indices, kind 0: ``r * C + c``, strictly increasing, in the narrowest width for
``R * C - 1``; kind 1: one row of ``rank`` coordinates per value in permuted axis order, rows
lexicographically increasing, in the narrowest width for the largest dim.

The standard's form (onnx.proto3, SparseTensorProto; used for ``sparse_initializer``) holds int64
indices over the original axis order, ``[nnz]`` linear or ``[nnz, rank]`` N-d, sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.errors import LoadError, UsageError
from onnxprune.formats.base import FORMATS, NO_PARAMS, Format, Matrix, Params
from onnxprune.formats.bits import Array, Bits, Index, dtype_number, index_dtype, to_bits
from onnxprune.formats.blob import Header, refuse

LINEAR, ND = 0, 1


class Coo(Format):
    """Coordinates; smallest for extremely sparse tensors."""

    name = "coo"
    number = 1
    sections = 2
    summary = "coordinates (explicitly asked for: the standard's sparse_initializer)"

    def params(self, matrix: Matrix, block: tuple[int, int] | None) -> Params:
        """``block`` is (0, 0) for linear (the default) or (1, 0) for N-d indices."""
        if block is None:
            return NO_PARAMS
        if block not in ((LINEAR, 0), (ND, 0)):
            raise UsageError(f"coo takes (0, 0) for linear or (1, 0) for N-d indices, got {block}")
        return (*block, 0, 0)

    def check_params(self, header: Header) -> bool:
        """Only the kind of the indices may be set."""
        return header.params in ((LINEAR, 0, 0, 0), (ND, 0, 0, 0))

    def lengths(self, matrix: Matrix, params: Params) -> list[int]:
        """Return the lengths of values and indices."""
        dtype, per = _index_layout(matrix.dims, params[0])
        return [matrix.nnz * matrix.itemsize, matrix.nnz * per * dtype.itemsize]

    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return values and indices."""
        dtype, _ = _index_layout(matrix.dims, params[0])
        positions: Array = matrix.nonzero
        if params[0] == ND:
            positions = _unravel(matrix.nonzero, matrix.dims)
        return [matrix.flat[matrix.nonzero], positions.astype(dtype)]

    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Check the indices and scatter the values."""
        dims = header.view.permuted(header.dims)
        dtype, per = _index_layout(dims, header.params[0])
        if header.nnz != header.stored:
            refuse("coo stores an explicit zero")
        if len(sections[1]) != header.nnz * per * dtype.itemsize:
            refuse("coo has a wrong number of indices")
        raw = np.frombuffer(sections[1], dtype)
        if header.params[0] == ND:
            coordinates = raw.reshape(header.nnz, per)
            for axis, dim in enumerate(dims):
                if header.nnz and int(coordinates[:, axis].max()) >= dim:
                    refuse(f"a coo coordinate of axis {axis} is not below {dim}")
            positions = _ravel(coordinates, dims)
        else:
            if raw.size and int(raw.max()) >= header.numel:
                refuse("a coo index lies beyond the tensor")
            positions = raw.astype(np.int64)
        if np.any(positions[1:] <= positions[:-1]):
            refuse("coo indices are not strictly increasing")
        values = np.frombuffer(sections[0], f"<u{header.itemsize}")
        flat: Bits = np.zeros(header.numel, values.dtype)
        flat[positions] = values
        return flat


@dataclass(frozen=True, eq=False)
class SparseTensor:
    """The content of ONNX's ``SparseTensorProto``."""

    values: Array
    """shape (nnz,), the tensor's element type."""
    indices: Index
    """int64, shape (nnz,) linear or (nnz, rank) N-d; sorted, unique."""
    dims: tuple[int, ...]


def to_sparse_tensor(tensor: Array, *, nd: bool = False) -> SparseTensor:
    """Return the standard's COO form of ``tensor``; -0.0 and NaN are kept as non-zero.

    Raises:
        UnsupportedError: an element type without packed form.
    """
    dtype_number(tensor.dtype)
    bits = to_bits(tensor).reshape(-1)
    positions: Index = np.flatnonzero(bits)
    values = bits[positions].view(tensor.dtype.newbyteorder("="))
    indices = _unravel(positions, tensor.shape) if nd else positions
    return SparseTensor(values, indices, tensor.shape)


def from_sparse_tensor(sparse: SparseTensor, *, max_bytes: int = 1 << 31) -> Array:
    """Return the dense tensor; accepts unsorted indices as some writers leave them, not repeats.

    Raises:
        LoadError: an index out of range or repeated, shapes that disagree, or a dense tensor
            above ``max_bytes``.
    """
    numel = 1
    for dim in sparse.dims:
        if dim < 0:
            raise LoadError(f"sparse tensor with negative dim in {list(sparse.dims)}")
        numel *= dim
    values, indices = sparse.values, sparse.indices
    rank = len(sparse.dims)
    if numel * values.dtype.itemsize > max_bytes:
        raise LoadError(f"sparse tensor of shape {list(sparse.dims)} exceeds {max_bytes} bytes")
    if indices.shape not in ((values.size,), (values.size, rank)) or values.ndim != 1:
        raise LoadError(
            f"sparse tensor has {values.shape} values but indices of shape {indices.shape}"
        )
    if indices.ndim == 2:
        upper = np.asarray(sparse.dims, np.int64)
        if indices.size and (np.any(indices < 0) or np.any(indices >= upper)):
            raise LoadError(f"sparse tensor has an index outside {list(sparse.dims)}")
        indices = _ravel(indices, sparse.dims)
    elif indices.size and (int(indices.min()) < 0 or int(indices.max()) >= numel):
        raise LoadError(f"sparse tensor has a linear index outside 0..{numel - 1}")
    if np.unique(indices).size != indices.size:
        raise LoadError("sparse tensor has a repeated index")
    dense = np.zeros(numel, values.dtype)
    dense[indices] = values
    return dense.reshape(sparse.dims)


def _index_layout(dims: tuple[int, ...], kind: int) -> tuple[np.dtype[np.unsignedinteger], int]:
    """Return index type and number of indices per value."""
    if kind == ND:
        return index_dtype(max(dims, default=1) - 1), len(dims)
    numel = 1
    for dim in dims:
        numel *= dim
    return index_dtype(numel - 1), 1


def _unravel(positions: Index, dims: tuple[int, ...]) -> Index:
    """Linear -> (n, rank) coordinates, row-major."""
    result = np.empty((positions.size, len(dims)), np.int64)
    rest = positions
    for axis in range(len(dims) - 1, -1, -1):
        rest, result[:, axis] = np.divmod(rest, max(dims[axis], 1))
    return result


def _ravel(coordinates: Array, dims: tuple[int, ...]) -> Index:
    """(n, rank) coordinates within ``dims`` -> linear, row-major."""
    result = np.zeros(len(coordinates), np.int64)
    for axis, dim in enumerate(dims):
        result = result * dim + coordinates[:, axis].astype(np.int64)
    return result


FORMATS.register(Coo.name, Coo())
