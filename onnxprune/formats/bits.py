"""Element types, index widths and bit strings shared by every format.

Formats never look at numbers, only at bit patterns: an element is zero when all its bits are 0.
So -0.0 and NaN payloads survive, and one code path serves every type of a given size.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxprune.errors import UnsupportedError

Array: TypeAlias = npt.NDArray[Any]
Bits: TypeAlias = npt.NDArray[Any]
"""Unsigned integers (u8, u16, u32 or u64), one per element, holding its bits."""
Index: TypeAlias = npt.NDArray[np.int64]

DTYPES: dict[int, np.dtype[Any]] = {
    1: np.dtype(np.float32),
    2: np.dtype(np.uint8),
    3: np.dtype(np.int8),
    4: np.dtype(np.uint16),
    5: np.dtype(np.int16),
    6: np.dtype(np.int32),
    7: np.dtype(np.int64),
    9: np.dtype(np.bool_),
    10: np.dtype(np.float16),
    11: np.dtype(np.float64),
    12: np.dtype(np.uint32),
    13: np.dtype(np.uint64),
    16: np.dtype(ml_dtypes.bfloat16),
    17: np.dtype(ml_dtypes.float8_e4m3fn),
    18: np.dtype(ml_dtypes.float8_e4m3fnuz),
    19: np.dtype(ml_dtypes.float8_e5m2),
    20: np.dtype(ml_dtypes.float8_e5m2fnuz),
}
"""ONNX ``TensorProto.DataType`` number -> numpy type, for every type that has a packed form."""

_NUMBERS = {dtype: number for number, dtype in DTYPES.items()}
_UNSIGNED: dict[int, np.dtype[Any]] = {
    1: np.dtype("<u1"),
    2: np.dtype("<u2"),
    4: np.dtype("<u4"),
    8: np.dtype("<u8"),
}


def dtype_number(dtype: np.dtype[Any]) -> int:
    """Return the ONNX number of ``dtype`` (byte order ignored).

    Raises:
        UnsupportedError: the type has no packed form (strings, complex, 4- and 2-bit types).
    """
    number = _NUMBERS.get(dtype.newbyteorder("="))
    if number is None:
        raise UnsupportedError(
            f"element type {dtype} has no packed form; leave this tensor dense or cast it"
        )
    return number


def unsigned(itemsize: int) -> np.dtype[Any]:
    """Return the little-endian unsigned type of ``itemsize`` (1, 2, 4 or 8) bytes."""
    return _UNSIGNED[itemsize]


def to_bits(array: Array) -> Bits:
    """Return the elements of ``array`` as little-endian unsigned integers, same shape.

    Copies only when the array is not contiguous or not little-endian.
    """
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    contiguous = little if little.flags.c_contiguous else little.copy(order="C")
    # reshape to 1-D first: a 0-d array cannot change its type through view() in every numpy
    return contiguous.reshape(-1).view(unsigned(array.dtype.itemsize)).reshape(array.shape)


def index_dtype(largest: int) -> np.dtype[Any]:
    """Return the narrowest unsigned type that holds ``largest``; see docs, "Index width"."""
    for width in (1, 2, 4):
        if largest < 1 << (8 * width):
            return unsigned(width)
    return unsigned(8)


def pack_fields(fields: npt.NDArray[np.uint8], width: int, word: np.dtype[Any]) -> Array:
    """Pack small integers along the last axis into words, least significant bits first.

    Args:
        fields: shape (..., n), each value < 2**width.
        width: bits per field; divides the bits of ``word``.
        word: u8 or u16.

    Returns:
        Words of shape (..., ceil(n / fields per word)); unused bits are 0.
    """
    per = word.itemsize * 8 // width
    count = fields.shape[-1]
    words = -(-count // per)
    result = np.zeros((*fields.shape[:-1], words), word)
    for lane in range(min(per, count)):
        part = fields[..., lane::per].astype(word)
        result[..., : part.shape[-1]] |= part << word.type(lane * width)
    return result


def unpack_fields(words: Array, width: int, count: int) -> npt.NDArray[np.uint8]:
    """Undo :func:`pack_fields`; bits beyond ``count`` fields are not looked at."""
    per = words.dtype.itemsize * 8 // width
    result = np.empty((*words.shape[:-1], words.shape[-1] * per), np.uint8)
    mask = (1 << width) - 1
    for lane in range(per):
        result[..., lane::per] = (words >> words.dtype.type(lane * width)) & mask
    return result[..., :count]
