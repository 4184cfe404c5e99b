"""Samples joined and cut to the sizes of a training step."""

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune.calibration.samples import rows_of
from onnxprune.errors import DataError
from onnxprune.recovery.lesson_feeds import MOST_ROWS, cut_feeds

W = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)


def net(shape, batch="n"):
    """x [batch, t, 3] -> Reshape -> MatMul; ``shape`` is what Reshape is told."""
    graph = helper.make_graph(
        [
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, "t", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(W, "w"), numpy_helper.from_array(np.array(shape), "shape")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, ir.from_proto(model)


def feeds_of(rows, lengths):
    """Feeds whose numbers tell which sample they are."""
    made, at = [], 0
    for count, length in zip(rows, lengths, strict=True):
        numbers = np.arange(at, at + count, dtype=np.float32).reshape(-1, 1, 1)
        made.append({"x": np.broadcast_to(numbers, (count, length, 3)).copy()})
        at += count
    return made


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(1, 3)), min_size=1, max_size=8))
def test_every_sample_at_most_once_in_order_and_in_one_shape_a_length(sizes):
    sizes = sorted(sizes, key=lambda s: s[1])
    rows, lengths = zip(*sizes, strict=True)
    proto, model = net([0, 0, 3])
    cut = cut_feeds(feeds_of(rows, lengths), proto, model)
    for length in set(lengths):
        parts = [f["x"] for f in cut if f["x"].shape[1] == length]
        total = sum(r for r, n in zip(rows, lengths, strict=True) if n == length)
        (size,) = {len(p) for p in parts}
        assert size <= MOST_ROWS
        taken = np.concatenate(parts)[:, 0, 0]
        assert (np.diff(taken) == 1).all() if taken.size > 1 else taken.size == 1
        assert total - taken.size < -(-total // MOST_ROWS)  # less than one a part is left over


def test_one_sample_written_down_inside_is_not_joined():
    proto, model = net([1, -1, 3])
    feeds = feeds_of([1] * 6, [2] * 6)
    # Two samples become one of twice the length.
    assert [rows_of(f) for f in cut_feeds(feeds, proto, model)] == [1] * 6


def test_a_fixed_batch_stays():
    proto, model = net([0, 0, 3], batch=2)
    assert [rows_of(f) for f in cut_feeds(feeds_of([2] * 3, [4] * 3), proto, model)] == [2] * 3


def test_a_batch_without_samples():
    proto, model = net([0, 0, 3])
    with pytest.raises(DataError, match="without samples"):
        cut_feeds(feeds_of([3, 0], [2, 2]), proto, model)
