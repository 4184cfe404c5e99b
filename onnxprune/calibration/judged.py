"""Which values tell how far a pruned network is from the dense one.

The outputs, where these are numbers whose count the samples do not change. What a network has
decided already (class numbers, the boxes that are left after suppression) says little, and boxes
have no counterpart in another network's; there the last numbers before the decision are compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy.typing as npt
import onnx

from onnxprune.calibration.stages import Stages, Stream, used
from onnxprune.errors import DataError
from onnxprune.gradients import SIZES

Array = npt.NDArray[Any]
#: Operators whose results are as many as their input's numbers say.
COUNTING = ("NonZero", "NonMaxSuppression", "Compress", "Unique")
FLOATS = {
    onnx.TensorProto.FLOAT,
    onnx.TensorProto.DOUBLE,
    onnx.TensorProto.FLOAT16,
    onnx.TensorProto.BFLOAT16,
}


def judged_values(stages: Stages, feed: Mapping[str, Array]) -> list[str]:
    """Return the names of the values to compare, the graph's outputs where they will do.

    Args:
        stages: the dense network.
        feed: samples; run only where some output will not do.
    """
    uncounted = _uncounted(stages)
    types = {v.name: v.type.tensor_type.elem_type for v in stages.proto.graph.output}
    good = [n for n in stages.outputs if types[n] in FLOATS and n not in uncounted]
    doubtful = [n for n in stages.outputs if n in uncounted and types[n] in FLOATS]
    if not doubtful and good:
        return stages.outputs
    if not good:
        doubtful = [n for n in stages.outputs if stages.place(n) is not None]
    try:
        values = _values(stages, feed)
    except DataError:  # something that is no tensor
        return stages.outputs
    found = dict.fromkeys(good)
    todo, seen = list(doubtful), set(doubtful)
    while todo:
        place = stages.place(todo.pop(0))
        for name in () if place is None else used(stages.nodes[place]):
            array = values.get(name)
            if name in seen or stages.place(name) is None:
                continue
            seen.add(name)
            if array is not None and array.dtype.kind == "f" and array.ndim and array.size > 1:
                found.setdefault(name)
            else:
                todo.append(name)
    order = [n for n in found if n not in uncounted or n in good]
    return order or stages.outputs


def _uncounted(stages: Stages) -> set[str]:
    """Values whose sizes depend on the numbers in the samples."""
    numbers, found = set(stages.inputs), set()
    for node in stages.nodes:
        reads = list(used(node))
        if node.op_type in SIZES or not any(n in numbers for n in reads):
            continue
        numbers.update(node.output)
        if node.op_type in COUNTING or any(n in found for n in reads):
            found.update(node.output)
    return found


def _values(stages: Stages, feed: Mapping[str, Array]) -> dict[str, Array]:
    """What every node makes of the samples, as far as it is a tensor of fixed sizes."""
    stream = Stream(stages, [feed])
    uncounted = _uncounted(stages)
    names = [n for node in stages.nodes for n in node.output if n and n not in uncounted]
    return dict(zip(names, stream.peek(stages.nodes, names)[0], strict=True))
