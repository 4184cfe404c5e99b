"""How many bytes a model occupies when stored."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.io import encode
from onnxprune.io.loading import Loaded


def stored_size(model: Loaded | ir.Model) -> int:
    """Return the bytes of a model as one message, external data counted as if inside."""
    return encode.encode(model.model if isinstance(model, Loaded) else model).size
