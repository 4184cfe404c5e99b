"""Random feeds are what the model expects, and onnxruntime runs on them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from io_corpus import assert_identical, run
from io_models import layers
from onnx import TensorProto as T
from onnx import helper as h

from onnxprune import io
from onnxprune.calibration.feed_sizes import size_of
from onnxprune.calibration.feeds import random_feeds, working_feeds
from onnxprune.errors import DataError


def model_of(nodes: list[Any], inputs: list[Any], outputs: list[str], **arrays: Any) -> Any:
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info(*i) for i in inputs],
        [h.make_value_info(o, onnx.TypeProto()) for o in outputs],
        [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items()],
    )
    return h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)


def feed_of(proto: onnx.ModelProto, seed: int = 0, **dims: int) -> dict[str, np.ndarray]:
    return random_feeds(io.load(proto).model, seed, dims)


TABLE = np.zeros((37, 4), np.float32)


@pytest.mark.parametrize(
    "before",
    [
        [],
        [h.make_node("Cast", ["ids"], ["i"], to=T.INT64)],
        [h.make_node("Unsqueeze", ["ids", "axis"], ["i"])],
        [h.make_node("Clip", ["ids", "zero"], ["j"]), h.make_node("Identity", ["j"], ["i"])],
    ],
    ids=["plain", "cast", "unsqueeze", "clip"],
)
def test_indices_stay_inside_their_table(before: list[Any]) -> None:
    ids = before[-1].output[0] if before else "ids"
    proto = model_of(
        [*before, h.make_node("Gather", ["table", ids], ["y"])],
        [("ids", T.INT32 if before and before[0].op_type == "Cast" else T.INT64, ["n", "t"])],
        ["y"],
        table=TABLE,
        axis=np.array([0]),
        zero=np.array(0),
    )
    feed = feed_of(proto, n=20, t=50)
    assert feed["ids"].shape == (20, 50)
    assert feed["ids"].min() == 0
    assert feed["ids"].max() == 36
    run(proto.SerializeToString(), feed)


def test_table_behind_a_cast_and_along_another_axis() -> None:
    proto = model_of(
        [
            h.make_node("Cast", ["half"], ["table"], to=T.FLOAT),
            h.make_node("Gather", ["table", "ids"], ["y"], axis=1),
        ],
        [("ids", T.INT64, ["n"])],
        ["y"],
        half=np.zeros((3, 5), np.float16),
    )
    assert feed_of(proto, n=100)["ids"].max() == 4


def test_offset_indices() -> None:
    """RoBERTa counts positions from 2: the table is that much smaller."""
    proto = model_of(
        [h.make_node("Add", ["ids", "two"], ["i"]), h.make_node("Gather", ["table", "i"], ["y"])],
        [("ids", T.INT64, ["n"])],
        ["y"],
        table=TABLE,
        two=np.array(2),
    )
    feed = feed_of(proto, n=500)
    assert feed["ids"].max() == 34
    run(proto.SerializeToString(), feed)


def test_smaller_of_two_tables_and_one_hot() -> None:
    proto = model_of(
        [
            h.make_node("Gather", ["table", "ids"], ["y"]),
            h.make_node("OneHot", ["ids", "depth", "values"], ["z"]),
        ],
        [("ids", T.INT64, ["n"])],
        ["y", "z"],
        table=TABLE,
        depth=np.array(6),
        values=np.array([0.0, 1.0]),
    )
    assert feed_of(proto, n=200)["ids"].max() == 5


def test_table_inside_a_function_and_a_branch() -> None:
    function = h.make_function(
        "org.example",
        "Embed",
        ["table", "i"],
        ["e"],
        [h.make_node("Gather", ["table", "i"], ["e"])],
        [h.make_opsetid("", 17)],
    )
    proto = model_of(
        [h.make_node("Embed", ["table", "ids"], ["y"], domain="org.example")],
        [("ids", T.INT64, ["n"])],
        ["y"],
        table=TABLE,
    )
    proto.functions.append(function)
    proto.opset_import.append(h.make_opsetid("org.example", 1))
    # A function does not know the shape of what it is called with; the bound needs the caller.
    run(proto.SerializeToString(), feed_of(proto, n=300))
    info = [h.make_tensor_value_info("o", T.FLOAT, None)]
    branch = h.make_graph([h.make_node("Gather", ["table", "ids"], ["o"])], "b", [], info)
    proto = model_of(
        [h.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)],
        [("ids", T.INT64, ["n"])],
        ["y"],
        table=TABLE,
        c=np.array(True),
    )
    assert feed_of(proto, n=300)["ids"].max() == 36


def test_masks_lengths_rates_and_flags() -> None:
    proto = model_of(
        [
            h.make_node("Cast", ["keep"], ["k"], to=T.FLOAT),
            h.make_node("Sub", ["one", "k"], ["s"]),
            h.make_node("Identity", ["attention_mask"], ["m"]),
            h.make_node("Identity", ["lengths"], ["l"]),
            h.make_node("Identity", ["sr"], ["r"]),
            h.make_node("Identity", ["use_cache"], ["u"]),
            h.make_node("Identity", ["x"], ["xx"]),
            h.make_node("Identity", ["position_ids"], ["p"]),
            h.make_node("Identity", ["image"], ["im"]),
        ],
        [
            ("x", T.FLOAT, ["batch", "sequence", 3]),
            ("keep", T.INT64, ["batch", "sequence"]),
            ("attention_mask", T.INT64, ["batch", "past + sequence"]),
            ("lengths", T.INT64, ["batch"]),
            ("sr", T.INT64, []),
            ("use_cache", T.BOOL, [1]),
            ("position_ids", T.INT64, ["batch", "sequence"]),
            ("image", T.UINT8, ["batch", 3, "h", "w"]),
        ],
        ["s", "m", "l", "r", "u", "xx", "p", "im"],
        one=np.array(1, np.float32),
    )
    feed = feed_of(proto, batch=2, sequence=9, past=4, h=32, w=16)
    assert feed["x"].shape == (2, 9, 3)
    assert (feed["keep"] == 1).all()
    assert feed["attention_mask"].shape == (2, 13)
    assert (feed["attention_mask"] == 1).all()
    assert feed["lengths"].tolist() == [9, 9]
    assert feed["sr"].tolist() == 16000
    assert feed["use_cache"].tolist() == [False]
    assert feed["position_ids"].tolist() == [list(range(9))] * 2
    assert feed["image"].shape == (2, 3, 32, 16)
    assert feed["image"].min() < 5
    assert feed["image"].max() > 250


def test_floats_are_standard_normal() -> None:
    proto = layers([1000, 3])
    values = feed_of(proto, n=100)["h0"]
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 1) < 0.02


def test_same_seed_same_bits_and_sizes_without_names() -> None:
    proto = model_of(
        [h.make_node("Identity", ["x"], ["y"])], [("x", T.FLOAT, [None, 3, None, None])], ["y"]
    )
    assert feed_of(proto)["x"].shape == (1, 3, 64, 64)
    model = io.load(proto).model
    sizes = {"x[0]": 2, "x[2]": 5, "x[3]": 7}
    first, again = random_feeds(model, 3, sizes), random_feeds(model, 3, sizes)
    assert first["x"].shape == (2, 3, 5, 7)
    assert_identical([first["x"]], [again["x"]])
    assert random_feeds(model, 4, sizes)["x"].tobytes() != first["x"].tobytes()


def test_dimensions_that_are_formulas() -> None:
    sizes = {"a": 6, "b": 4}
    assert size_of("a + b - 1", sizes) == 9
    assert size_of("2 * a // b", sizes) == 3
    assert size_of("a", sizes) == 6
    assert size_of("a + c", sizes) is None
    assert size_of("two words", sizes) is None


def test_working_feeds_of_the_shared_networks(shared_model: Path, tmp_path: Path) -> None:
    """Feeds fit, run, and give the same bits before and after a round trip."""
    feeds = working_feeds(shared_model, seed=1, n=2)
    assert len(feeds) == 2
    graph = onnx.load(shared_model, load_external_data=False).graph
    given = {t.name for t in graph.initializer}
    for info in graph.input:
        if info.name in given:
            continue
        shapes = [f[info.name].shape for f in feeds]
        for axis, dim in enumerate(info.type.tensor_type.shape.dim):
            if dim.dim_value:
                assert shapes[0][axis] == shapes[1][axis] == dim.dim_value
            elif info.name not in ("graphemes", "ids"):
                assert shapes[0][axis] != shapes[1][axis], (info.name, axis)
    out = tmp_path / "out.onnx"
    io.save(io.load(shared_model), out)
    for feed in feeds:
        outputs = run(str(shared_model), feed)
        assert all(np.isfinite(output).all() for output in outputs)
        assert_identical(outputs, run(str(out), feed))


def flattening(size: int) -> onnx.ModelProto:
    """A network whose height and width are declared open but must be ``size``."""
    return model_of(
        [h.make_node("Flatten", ["x"], ["f"]), h.make_node("MatMul", ["f", "w"], ["y"])],
        [("x", T.FLOAT, ["n", 2, "height", "width"])],
        ["y"],
        w=np.ones((2 * size * size, 3), np.float32),
    )


def test_ladder_finds_the_one_size_that_works() -> None:
    for size in (64, 96, 8):
        first, second = working_feeds(flattening(size), n=2)
        assert first["x"].shape == (1, 2, size, size)
        assert second["x"].shape == (2, 2, size, size)
    for source in (flattening(32).SerializeToString(), io.load(flattening(32)).model):
        assert working_feeds(source, n=1)[0]["x"].shape == (1, 2, 32, 32)


def test_finite_outputs_are_preferred() -> None:
    """At the first size of the ladder the output is empty."""
    proto = model_of(
        [h.make_node("Slice", ["x", "start", "end", "axis"], ["y"])],
        [("x", T.FLOAT, [1, "time"])],
        ["y"],
        start=np.array([20]),
        end=np.array([1 << 30]),
        axis=np.array([1]),
    )
    assert [f["x"].shape for f in working_feeds(proto)] == [(1, 32), (1, 64)]
    always = model_of(
        [h.make_node("Log", ["minus"], ["y"]), h.make_node("Identity", ["x"], ["z"])],
        [("x", T.FLOAT, ["n"])],
        ["y", "z"],
        minus=np.array([-1.0], np.float32),
    )
    assert len(working_feeds(always)) == 2


def test_same_seed_same_feeds() -> None:
    proto = flattening(32)
    first, again = (working_feeds(proto, seed=5, n=3) for _ in range(2))
    assert_identical([f["x"] for f in first], [f["x"] for f in again])
    assert len({f["x"].tobytes() for f in first}) == 3


def test_no_size_works() -> None:
    start = time.perf_counter()
    with pytest.raises(DataError, match=r"n, height, width.*give data.*onnxruntime said: .*MatMul"):
        working_feeds(flattening(17))
    assert time.perf_counter() - start < 20


def test_a_model_onnxruntime_does_not_know() -> None:
    proto = model_of(
        [h.make_node("Odd", ["x"], ["y"], domain="org.example")], [("x", T.FLOAT, ["n"])], ["y"]
    )
    proto.opset_import.append(h.make_opsetid("org.example", 1))
    with pytest.raises(DataError, match="onnxruntime cannot load the model"):
        working_feeds(proto)


def test_channels_left_open_are_those_the_weights_ask_for() -> None:
    proto = model_of(
        [h.make_node("Conv", ["x", "w"], ["y"])],
        [("x", T.FLOAT, ["batch_size", "num_channels", "height", "width"])],
        ["y"],
        w=np.ones((4, 3, 3, 3), np.float32),
    )
    shapes = [feed["x"].shape for feed in working_feeds(proto.SerializeToString())]
    assert {shape[1] for shape in shapes} == {3}
    assert shapes[0] != shapes[1]


def test_pictures_of_a_few_pixels() -> None:
    """Two convolutions of stride 2 meet what they read where a single pixel is left of both."""
    proto = model_of(
        [
            h.make_node("Conv", ["x", "w"], ["a"], kernel_shape=[3, 3], strides=[2, 2]),
            h.make_node("Conv", ["a", "w"], ["b"], pads=[1] * 4, strides=[2, 2]),
            h.make_node("Conv", ["b", "w"], ["c"], pads=[1] * 4, strides=[2, 2]),
            h.make_node("Add", ["a", "c"], ["y"]),
            h.make_node("Reshape", ["y", "size"], ["z"]),
        ],
        [("x", T.FLOAT, [1, 1, "height", "width"])],
        ["z"],
        w=np.ones((1, 1, 3, 3), np.float32),
        size=np.array([1, 1]),
    )
    assert working_feeds(proto, n=1)[0]["x"].shape == (1, 1, 4, 4)
