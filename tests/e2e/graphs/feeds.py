"""Random inputs for any model of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

#: Size of a symbolic dim when none is given.
DEFAULTS = {"height": 8, "width": 8, "H": 8, "W": 8, "time": 24}


def random_feeds(
    model: onnx.ModelProto, sizes: dict[str, int] | None = None, seed: int = 0
) -> dict[str, npt.NDArray[Any]]:
    """One array for every input that is not also an initializer.

    sizes: of symbolic dims; others get DEFAULTS, or 1. Integers are drawn from [0, 4), booleans
    are True or False, floats are standard normal.
    """
    rng = np.random.default_rng(seed)
    given = {**DEFAULTS, **(sizes or {})}
    own = {tensor.name for tensor in model.graph.initializer}
    feeds: dict[str, npt.NDArray[Any]] = {}
    for value in model.graph.input:
        if value.name in own:
            continue
        tensor = value.type.tensor_type
        shape = [d.dim_value or given.get(d.dim_param, 1) for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype == np.bool_:
            feeds[value.name] = np.asarray(rng.random(shape) < 0.5)
        elif np.issubdtype(dtype, np.integer):
            feeds[value.name] = np.asarray(rng.integers(0, 4, shape), dtype)
        else:
            feeds[value.name] = np.asarray(rng.standard_normal(shape), dtype)
    return feeds
