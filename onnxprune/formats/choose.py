"""Which form a weight is written in: the one asked for, or the smallest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from onnxprune.errors import UsageError
from onnxprune.formats.base import FORMATS, Matrix, encode, encoded_size
from onnxprune.formats.bits import Array, dtype_number, index_dtype
from onnxprune.formats.blob import blob_size
from onnxprune.formats.view import View, weight_view

AUTO, DENSE, COO = "auto", "dense", "coo"

NODE_BYTES = 160
"""About what a packed operator adds to the file besides its weight: attributes, value_info."""

_SMALL_BLOCKS = ((4, 1), (1, 4))
_COMMON_NM = ((2, 4), (1, 4), (1, 2), (4, 8), (2, 8))


_BLOCK_FORMS = {"bsr": (r"(\d+)x(\d+)", "4x1"), "nm": (r"(\d+):(\d+)", "2:4")}


def parse_block(format: str, text: str) -> tuple[int, int] | None:
    """Turn the written form of a format's option into what ``encode`` takes.

    ``4x1`` for bsr, ``2:4`` for nm, a number of processing elements for eie, ``linear`` or ``nd``
    for coo; empty for the format's default.

    Raises:
        UsageError: not of that form, or the format has no option.
    """
    if not text:
        return None
    if format in _BLOCK_FORMS:
        pattern, example = _BLOCK_FORMS[format]
        if match := re.fullmatch(pattern, text):
            return int(match[1]), int(match[2])
        raise UsageError(f"block {text!r} does not fit format {format}; write it like {example}")
    if format == "eie" and re.fullmatch(r"\d+", text):
        return int(text), 0
    if format == COO and text in ("linear", "nd"):
        return int(text == "nd"), 0
    wanted = {"eie": "a number of processing elements", COO: "linear or nd"}.get(format)
    raise UsageError(
        f"format {format} takes {wanted}, not {text!r}"
        if wanted
        else f"format {format} takes no block, got {text!r}; leave it out"
    )


@dataclass(frozen=True)
class Role:
    """How a weight is used: all that the choice of its matrix view depends on."""

    op_type: str
    weight_input: int
    trans_b: bool = False

    def view(self, format: str, dims: tuple[int, ...], block: tuple[int, int] | None) -> View:
        """Return the canonical view for ``format``; docs/formats.md, "The matrix view"."""
        group = (block or (2, 4))[1] if format == "nm" else 1
        return weight_view(
            self.op_type,
            self.weight_input,
            dims,
            trans_b=self.trans_b,
            channels_last=format in ("nm", "bsr"),
            group=group,
        )


@dataclass(frozen=True, eq=False)
class Choice:
    """The form chosen for one weight."""

    format: str
    """``dense``, ``coo`` (the standard's sparse initializer) or a blob format."""
    blob: bytes | None
    """The packed weight; ``None`` for ``dense`` and for the standard's ``coo``."""
    nbytes: int
    """Bytes of the chosen form (values and indices for ``coo``)."""
    reason: str = ""
    """Why the weight stays dense."""


def choose(
    tensor: Array,
    role: Role,
    format: str = AUTO,
    *,
    block: tuple[int, int] | None = None,
    min_saving: float = 0.0,
) -> Choice:
    """Encode a weight in the form asked for, or say why it stays dense.

    Args:
        tensor: the dense weight.
        role: which operator uses it, and how.
        format: ``auto`` (the smallest), ``dense``, ``coo`` (standard sparse initializer, 8 bytes an
            index) or another name of :data:`.base.FORMATS`.
        block: the format's option; with ``auto`` it is ignored.
        min_saving: fraction of the dense bytes that must be saved, else it stays dense;
            :data:`NODE_BYTES` count as part of the packed form. Negative values allow the weight to
            grow, -inf any growth; ``auto`` never grows it.

    Raises:
        UsageError: unknown format, or an option that no weight could take.
        UnsupportedError: an element type without packed form.
    """
    if format == DENSE:
        return Choice(DENSE, None, tensor.nbytes)
    dtype_number(tensor.dtype)
    limit = tensor.nbytes * (1 - min_saving) - NODE_BYTES
    if format == AUTO:
        return _smallest(tensor, role, min(limit, tensor.nbytes - NODE_BYTES))
    if format == COO:
        nnz = Matrix.of(tensor, role.view(COO, tensor.shape, None)).nnz
        width = 8 * (tensor.ndim if block == (1, 0) else 1)
        size: int | None = nnz * (tensor.itemsize + width)
    else:
        view = role.view(format, tensor.shape, block)
        try:
            size = encoded_size(Matrix.of(tensor, view), format, block)
        except UsageError as error:
            if format != "eie":
                raise
            # more processing elements than this one weight has rows
            return Choice(DENSE, None, tensor.nbytes, str(error))
    if size is None:
        kept, group = block or (2, 4)
        return Choice(DENSE, None, tensor.nbytes, f"the weight is not {kept}:{group}")
    if size > limit:
        reason = f"{format} would take {size} bytes of {tensor.nbytes}"
        return Choice(DENSE, None, tensor.nbytes, reason)
    if format == COO:
        return Choice(COO, None, size)
    blob = encode(tensor, format, view=view, block=block)
    return Choice(format, blob, len(blob))


def _smallest(tensor: Array, role: Role, limit: float) -> Choice:
    """Return the smallest form; dense if none is at most ``limit`` bytes."""
    matrices: dict[View, Matrix] = {}
    best: tuple[int, str, tuple[int, int] | None] | None = None
    for format, block in _candidates():
        view = role.view(format, tensor.shape, block)
        if view not in matrices:
            matrices[view] = Matrix.of(tensor, view)
        matrix = matrices[view]
        bound = best[0] if best else limit + 1
        if _least(matrix, format) >= bound:
            continue
        size = encoded_size(matrix, format, block)
        if size is not None and size < bound:
            best = (size, format, block)
        del matrix
    matrices.clear()  # copies of the weight, which encoding does not need twice
    if best is None:
        return Choice(DENSE, None, tensor.nbytes, "no format is smaller")
    size, format, block = best
    view = role.view(format, tensor.shape, block)
    return Choice(format, encode(tensor, format, view=view, block=block), size)


def _candidates() -> Iterator[tuple[str, tuple[int, int] | None]]:
    """Yield (format, block); the first of equally small ones wins, so structure comes first."""
    yield from (("nm", block) for block in _COMMON_NM)
    yield from (("bsr", block) for block in _SMALL_BLOCKS)
    yield from ((name, None) for name in ("csr", "bitmap", "csc", "eie", "coo"))
    known = {"nm", "bsr", "csr", "bitmap", "csc", "eie", "coo"}
    yield from ((name, None) for name in FORMATS.names() if name not in known)


def _least(matrix: Matrix, format: str) -> int:
    """Return a lower bound of the size that is cheap to compute, to skip the others."""
    values = matrix.nnz * matrix.itemsize
    if format == "eie":
        pointers = (matrix.cols + 1) * index_dtype(matrix.nnz).itemsize
        return blob_size(len(matrix.dims), [values, -(-matrix.nnz // 2), pointers])
    return blob_size(len(matrix.dims), [values])
