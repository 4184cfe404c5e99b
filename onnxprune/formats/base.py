"""What a format is, the registry of formats, and ``encode`` / ``decode`` over all of them.

A format is one file of this package: it turns the bits of a matrix into sections and back, and
says how large the result will be. Everything around it (header, checksum, view, element type,
limits) is common and lives in :mod:`.blob`, :mod:`.view` and :mod:`.bits`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UsageError
from onnxprune.formats.bits import Array, Bits, Index, dtype_number, to_bits
from onnxprune.formats.blob import Header, blob_size, build, parse, refuse
from onnxprune.formats.view import View, default_view
from onnxprune.registry import Registry

Params = tuple[int, int, int, int]
NO_PARAMS: Params = (0, 0, 0, 0)
MAX_DENSE_BYTES = 1 << 31
"""Default bound on what :func:`decode` allocates: 2 GiB, the size limit of a protobuf message."""


@dataclass(frozen=True, eq=False)
class Matrix:
    """The bits of a tensor in view order, and what several formats need to know about them."""

    flat: Bits
    """shape (rows * cols,), row-major."""
    rows: int
    cols: int
    dims: tuple[int, ...]
    """Permuted dims of the tensor."""

    @classmethod
    def of(cls, tensor: Array, view: View) -> Matrix:
        """Look at ``tensor`` through ``view``; copies only if the view permutes the axes."""
        rows, cols = view.shape(tensor.shape)
        return cls(view.flatten(to_bits(tensor)), rows, cols, view.permuted(tensor.shape))

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return self.flat.dtype.itemsize

    @cached_property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Where the elements are not zero, shape (rows, cols)."""
        mask: npt.NDArray[np.bool_] = self.flat != 0
        return mask.reshape(self.rows, self.cols)

    @cached_property
    def nonzero(self) -> Index:
        """Flat positions of the non-zero elements, increasing."""
        return np.flatnonzero(self.mask)

    @cached_property
    def nnz(self) -> int:
        """Number of non-zero elements."""
        return int(np.count_nonzero(self.mask))

    @property
    def grid(self) -> Bits:
        """The elements as a (rows, cols) matrix."""
        return self.flat.reshape(self.rows, self.cols)

    @cached_property
    def by_column(self) -> tuple[Index, Index]:
        """Rows and columns of the non-zero elements, in column order.

        Goes through the transposed mask: its bytes move faster than the elements themselves.
        """
        columns, rows = np.nonzero(self.mask.T)
        return rows, columns


class Format(ABC):
    """One way to store a matrix. Stateless; registered once, under :attr:`name`."""

    name: ClassVar[str]
    number: ClassVar[int]
    """The format's number in the blob header: never reused."""
    sections: ClassVar[int]
    """How many sections a blob of this format has; section 0 holds the values."""
    summary: ClassVar[str]
    """One line for the command line's list."""

    def params(self, matrix: Matrix, block: tuple[int, int] | None) -> Params:
        """Turn the user's option into header parameters.

        Args:
            matrix: the tensor to be encoded.
            block: the one option of a format: ``bsr`` block height and width, ``nm`` N and M,
                ``eie`` processing elements and 0; ``None`` for the format's default.

        Raises:
            UsageError: the option is out of range, or this format takes none.
        """
        if block is not None:
            raise UsageError(f"format {self.name} takes no block option, got {block}")
        return NO_PARAMS

    @abstractmethod
    def encode(self, matrix: Matrix, params: Params) -> list[Array]:
        """Return the sections; not called for tensors without elements.

        Raises:
            UsageError: the matrix does not have the structure this format demands (N:M).
        """

    @abstractmethod
    def lengths(self, matrix: Matrix, params: Params) -> list[int] | None:
        """Return the exact length of each section in bytes, or ``None`` if it does not fit."""

    @abstractmethod
    def decode(self, header: Header, sections: Sequence[memoryview]) -> Bits:
        """Return the flat matrix (rows * cols,); not called for tensors without elements.

        Must check everything the sections can get wrong, with :func:`.blob.refuse`, before
        allocating anything that their length does not bound, the dense result excepted.
        """

    @abstractmethod
    def check_params(self, header: Header) -> bool:
        """Say whether ``header.params`` are in range for this format."""


FORMATS: Registry[Format] = Registry("format", "onnxprune.formats")


def encode(
    tensor: Array,
    format: str,
    *,
    view: View | None = None,
    block: tuple[int, int] | None = None,
) -> bytes:
    """Pack a dense tensor; ``decode`` gives back exactly the same bits.

    Args:
        tensor: any shape, any type of :data:`.bits.DTYPES`.
        format: a name of :data:`FORMATS`.
        view: how to see the tensor as a matrix; axis 0 as rows by default.
        block: the format's option, see :meth:`Format.params`.

    Raises:
        UsageError: unknown format, option out of range, or a tensor without the structure that
            the format demands.
        UnsupportedError: an element type or size that has no packed form.
    """
    member = FORMATS.get(format)
    number = dtype_number(tensor.dtype)
    view = _checked_view(view, tensor)
    matrix = Matrix.of(tensor, view)
    params = member.params(matrix, block)
    if matrix.flat.size:
        sections = member.encode(matrix, params)
    else:
        sections = [np.empty(0, np.uint8)] * member.sections
    stored = sections[0].nbytes // matrix.itemsize
    header = Header(member.number, number, tensor.shape, view, matrix.nnz, stored, params)
    return build(header, sections)


def encoded_size(matrix: Matrix, format: str, block: tuple[int, int] | None = None) -> int | None:
    """Return ``len(encode(...))`` without encoding, or ``None`` where the format does not fit."""
    member = FORMATS.get(format)
    params = member.params(matrix, block)
    lengths = member.lengths(matrix, params) if matrix.flat.size else [0] * member.sections
    return None if lengths is None else blob_size(len(matrix.dims), lengths)


def decode(blob: bytes | bytearray | memoryview, *, max_bytes: int = MAX_DENSE_BYTES) -> Array:
    """Return the dense tensor of a blob, bit for bit what was encoded.

    Args:
        blob: one whole blob.
        max_bytes: refuse a tensor whose dense form is larger; checked before allocating.

    Raises:
        LoadError: the blob is damaged, of another version, or larger than ``max_bytes``.
    """
    header, sections = _checked(blob)
    if header.nbytes > max_bytes:
        refuse(f"the dense tensor has {header.nbytes} bytes, above the limit of {max_bytes}")
    dtype = header.numpy_dtype
    if not header.numel:
        return np.empty(header.dims, dtype)
    flat = _by_number(header).decode(header, sections)
    return header.view.unflatten(flat, header.dims).view(dtype)


def read_header(blob: bytes | bytearray | memoryview) -> Header:
    """Return a blob's header after checking the container (not the sections' content).

    Raises:
        LoadError: the container is damaged or of another version.
    """
    return _checked(blob)[0]


def format_name(header: Header) -> str:
    """Return the name of the format a header names.

    Raises:
        LoadError: the number is unknown.
    """
    return _by_number(header).name


def _by_number(header: Header) -> Format:
    for _, member in FORMATS.items():
        if member.number == header.format:
            return member
    known = ", ".join(f"{m.number} {n}" for n, m in FORMATS.items())
    refuse(f"format number {header.format} is unknown (this build knows {known})")


def _checked(blob: bytes | bytearray | memoryview) -> tuple[Header, list[memoryview]]:
    """Check everything but the format's own rules."""
    header, sections = parse(blob)
    member = _by_number(header)
    if len(sections) != member.sections:
        refuse(f"format {member.name} has {member.sections} sections, not {len(sections)}")
    if not member.check_params(header):
        refuse(f"format {member.name} cannot have parameters {list(header.params)}")
    if not header.numel:
        if header.stored or any(len(section) for section in sections):
            refuse("a tensor without elements has content")
        return header, sections
    if len(sections[0]) != header.stored * header.itemsize:
        refuse(f"{len(sections[0])} bytes of values are not {header.stored} elements")
    values = np.frombuffer(sections[0], f"<u{header.itemsize}")
    if int(np.count_nonzero(values)) != header.nnz:
        refuse(f"{header.nnz} non-zeros announced, another number stored")
    if header.numpy_dtype == np.dtype(np.bool_) and values.size and int(values.max()) > 1:
        refuse("a boolean element is neither 0 nor 1")
    return header, sections


def _checked_view(view: View | None, tensor: Array) -> View:
    if view is None:
        return default_view(tensor.ndim)
    if len(view.perm) != tensor.ndim:
        raise UsageError(
            f"view {view.perm} is for {len(view.perm)} axes, the tensor has {tensor.ndim}"
        )
    return view
