"""What onnx-ir logs and nobody here needs to hear."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep onnx-ir from logging warnings while it reads or writes a model.

    What is wrong becomes an error of ours, and a shape without a type (behind an operator that
    inference does not know) is left out of a file as it should be.
    """
    logger = logging.getLogger("onnx_ir.serde")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
