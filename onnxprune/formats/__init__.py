"""Sparse storage forms of one tensor, exact, as documented byte by byte in docs/formats.md."""

from onnxprune.formats.base import (
    FORMATS,
    MAX_DENSE_BYTES,
    Format,
    Matrix,
    decode,
    encode,
    encoded_size,
    format_name,
    read_header,
)
from onnxprune.formats.blob import Header
from onnxprune.formats.pack import PackStats, TensorStats, convert_model, format_choices
from onnxprune.formats.view import View, default_view, last_axis_view, weight_view

__all__ = [
    "FORMATS",
    "MAX_DENSE_BYTES",
    "Format",
    "Header",
    "Matrix",
    "PackStats",
    "TensorStats",
    "View",
    "convert_model",
    "decode",
    "default_view",
    "encode",
    "encoded_size",
    "format_choices",
    "format_name",
    "last_axis_view",
    "read_header",
    "weight_view",
]
