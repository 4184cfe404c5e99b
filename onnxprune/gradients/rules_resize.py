"""Derivatives of resizing: a linear map an axis, whose matrix the runtime itself tells."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxprune.gradients.backward import NoGradient, View, rule

Parts = Sequence[str | None]
F32 = npt.NDArray[np.float32]
#: Every attribute of Resize is known from it on.
OPSET = 19


@rule("Resize")
def _resize(v: View) -> Parts:
    if any(v.wants[1:]):
        raise NoGradient("Resize: sizes are no weights")
    e, inner, outer = v.e, v.shape(0), v.e.shapes[v.y]
    rank = len(inner)
    scales = _scales(v, rank)
    whole = all(o == n * s for o, n, s in zip(outer, inner, scales, strict=True))
    repeats = [int(s) if s == int(s) >= 1 else 0 for s in scales]
    mode = v.attr("mode", b"nearest")
    g = v.g
    if mode in (b"nearest", "nearest") and whole and all(repeats) and _repeats(v, scales):
        split = [n for pair in zip(inner, repeats, strict=True) for n in pair]
        apart = e.reshape(g, split)
        ways = [2 * i + 1 for i, r in enumerate(repeats) if r > 1]
        return [e.reshape(e.sum(apart, ways), inner), *[None] * (len(v.x) - 1)]
    for axis in range(rank):
        if outer[axis] == inner[axis] and scales[axis] == 1:
            continue
        matrix = e.const(_matrix(v, axis, scales[axis]))  # [outer, inner]
        if axis == rank - 1:
            g = e.matmul(g, matrix)
        elif axis == rank - 2:
            g = e.matmul(e.transpose(matrix, [1, 0]), g)
        else:
            turn = [i for i in range(rank) if i != axis] + [axis]
            back = [int(i) for i in np.argsort(turn)]
            g = e.transpose(e.matmul(e.transpose(g, turn), matrix), back)
    return [g, *[None] * (len(v.x) - 1)]


def _scales(v: View, rank: int) -> list[float]:
    """Factor of every axis."""
    named = v.attr("axes")
    axes = range(rank) if named is None else [a % rank for a in named]
    found = [1.0] * rank
    given = v.number(2) if len(v.x) > 2 else None
    if given is not None and np.size(given):
        for axis, scale in zip(axes, np.reshape(given, -1), strict=True):
            found[axis] = float(scale)
        return found
    outer, inner = v.e.shapes[v.y], v.shape(0)
    if v.attr("keep_aspect_ratio_policy", b"stretch") not in (b"stretch", "stretch"):
        raise NoGradient("Resize: keep_aspect_ratio_policy")
    for axis in axes:
        found[axis] = outer[axis] / inner[axis]
    return found


def _repeats(v: View, scales: Sequence[float]) -> bool:
    """Whether a nearest-neighbour enlargement repeats every element as often as the scale says."""
    for axis, scale in enumerate(scales):
        if scale > 1:
            want = np.repeat(np.eye(v.shape(0)[axis], dtype=np.float32), int(scale), axis=0)
            if not np.array_equal(_matrix(v, axis, scale), want):
                return False
    return True


def _matrix(v: View, axis: int, scale: float) -> F32:
    """The map of one axis [outer, inner]: what becomes of unit vectors."""
    inner, outer = v.shape(0)[axis], v.e.shapes[v.y][axis]
    inputs = ["x", "", "", "n"]
    sizes = {"n": np.array([1, 1, inner, outer], np.int64)}
    if len(v.x) > 2 and v.x[2]:
        inputs, sizes = ["x", "", "s"], {"s": np.array([1, 1, 1, scale], np.float32)}
    if v.attr("coordinate_transformation_mode") in (b"tf_crop_and_resize", "tf_crop_and_resize"):
        raise NoGradient("Resize: tf_crop_and_resize")
    node = helper.make_node("Resize", inputs, ["y"])
    left = ("axes", "keep_aspect_ratio_policy")
    node.attribute.extend(a for a in v.node.attribute if a.name not in left)
    plane = [1, 1, inner, inner]
    graph = helper.make_graph(
        [node],
        "axis",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, plane)],
        [helper.make_empty_tensor_value_info("y")],
        [numpy_helper.from_array(a, n) for n, a in sizes.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    try:
        runner = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        (found,) = runner.run(None, {"x": np.eye(inner, dtype=np.float32).reshape(plane)})
    except Exception as error:  # onnxruntime raises its own types, one per status code
        raise NoGradient("Resize: a form that onnxruntime does not run on one axis") from error
    found = np.asarray(found)[0, 0]
    rows: F32 = np.ascontiguousarray(found.T)
    if rows.shape != (outer, inner):
        raise NoGradient("Resize: sizes that a single axis does not tell")
    return rows
