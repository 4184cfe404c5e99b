"""Samples of every origin become the same feeds, and what does not fit is named."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper as h
from onnxruntime.quantization import CalibrationDataReader

from onnxprune import io
from onnxprune.calibration.feeds import Feed, input_specs, open_feeds
from onnxprune.errors import DataError

ROWS = np.arange(30, dtype=np.float32).reshape(10, 3)
LABELS = np.arange(10, dtype=np.int64).reshape(10, 1)


def model_of(*inputs: tuple[str, int, list[Any] | None]) -> ir.Model:
    """A model that only passes its inputs on."""
    infos = [h.make_tensor_value_info(*i) for i in inputs]
    nodes = [h.make_node("Identity", [i[0]], [i[0] + "_out"]) for i in inputs]
    outputs = [h.make_tensor_value_info(i[0] + "_out", i[1], None) for i in inputs]
    graph = h.make_graph(nodes, "g", infos, outputs)
    return io.load(h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=9)).model


TWO = model_of(("a", onnx.TensorProto.FLOAT, ["n", 3]), ("b", onnx.TensorProto.INT64, ["n", 1]))
ONE = model_of(("a", onnx.TensorProto.FLOAT, ["n", 3]))


def shapes(feeds: Any) -> list[dict[str, tuple[int, ...]]]:
    return [{n: a.shape for n, a in feed.items()} for feed in feeds]


def joined(feeds: Any) -> dict[str, np.ndarray]:
    held = list(feeds)
    return {n: np.concatenate([f[n] for f in held]) for n in held[0]}


def assert_all_samples(feeds: Any) -> None:
    for _ in range(2):  # as often as needed
        got = joined(feeds)
        np.testing.assert_array_equal(got["a"], ROWS)
        np.testing.assert_array_equal(got["b"], LABELS)
        assert got["a"].dtype == np.float32


class Reader(CalibrationDataReader):
    def __init__(self, rewindable: bool) -> None:
        self.position = 0
        if rewindable:
            self.rewind = lambda: setattr(self, "position", 0)

    def get_next(self) -> Any:
        if self.position == 10:
            return None
        i = self.position
        self.position += 1
        return {"a": ROWS[i : i + 1], "b": LABELS[i : i + 1]}


LOADERS = """
import numpy as np
A = np.arange(30, dtype=np.float32).reshape(10, 3)
B = np.arange(10, dtype=np.int64).reshape(10, 1)

def feeds():
    for i in range(0, 10, 4):
        yield {"a": A[i:i + 4], "b": B[i:i + 4]}

def samples():
    return [{"a": a, "b": b} for a, b in zip(A, B)]

def tuples():
    return zip(A, B)

def arrays():
    return {"a": A, "b": B}

def broken():
    yield {"a": A[:1], "b": B[:1]}
    raise RuntimeError("disk on fire")

constant = 3
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", a=ROWS, b=LABELS, y=np.zeros(10))
    np.savez_compressed(tmp_path / "packed.npz", b=LABELS, a=np.asfortranarray(ROWS))
    np.savez(tmp_path / "unnamed.npz", ROWS, LABELS)
    (tmp_path / "archives").mkdir()
    (tmp_path / "arrays").mkdir()
    for i in range(0, 10, 3):
        np.savez(tmp_path / "archives" / f"{i}.npz", a=ROWS[i : i + 3], b=LABELS[i : i + 3])
    np.save(tmp_path / "arrays" / "a.npy", ROWS)
    np.save(tmp_path / "arrays" / "b.npy", LABELS)
    (tmp_path / "loaders.py").write_text(LOADERS)
    return tmp_path


@pytest.mark.parametrize(
    "source",
    ["data.npz", "packed.npz", "unnamed.npz", "archives", "arrays"]
    + [f"loaders.py:{name}" for name in ("feeds", "samples", "tuples", "arrays")],
)
def test_files(place: Path, source: str) -> None:
    assert_all_samples(open_feeds(str(place / source), TWO))
    assert_all_samples(open_feeds(str(place / source), TWO, batch=3))
    limited = joined(open_feeds(str(place / source), TWO, samples=5))
    np.testing.assert_array_equal(limited["a"], ROWS[:5])


def feeds_of(step: int) -> Iterator[Feed]:
    for i in range(0, 10, step):
        yield {"a": ROWS[i : i + step], "b": LABELS[i : i + step]}


def test_objects() -> None:
    assert_all_samples(open_feeds({"a": ROWS, "b": LABELS}, TWO))
    assert_all_samples(open_feeds(list(feeds_of(4)), TWO))
    assert_all_samples(open_feeds(feeds_of(4), TWO))
    assert_all_samples(open_feeds(zip(ROWS, LABELS, strict=True), TWO))
    assert_all_samples(open_feeds(Reader(True), TWO))
    assert_all_samples(open_feeds(Reader(False), TWO))
    again = open_feeds(open_feeds({"a": ROWS, "b": LABELS}, TWO), ONE)
    np.testing.assert_array_equal(joined(again)["a"], ROWS)


def test_generator_partly_read_then_read_again() -> None:
    feeds = open_feeds(feeds_of(2), TWO)
    first = iter(feeds)
    next(first)
    assert_all_samples(feeds)
    assert len(list(first)) == 4


def test_folder_of_single_samples(tmp_path: Path) -> None:
    for i, row in enumerate(ROWS):
        np.save(tmp_path / f"{i}.npy", row)
    np.testing.assert_array_equal(joined(open_feeds(tmp_path, ONE))["a"], ROWS)


def test_batches() -> None:
    data = {"a": ROWS}
    assert shapes(open_feeds(data, ONE)) == [{"a": (8, 3)}, {"a": (2, 3)}]
    assert shapes(open_feeds(data, ONE).batched(5)) == [{"a": (5, 3)}] * 2
    fixed = model_of(("a", 1, [4, 3]))
    assert shapes(open_feeds(data, fixed)) == [{"a": (4, 3)}] * 2  # two samples are left over
    assert shapes(open_feeds(data, fixed, samples=7)) == [{"a": (4, 3)}]
    assert shapes(open_feeds([{"a": ROWS[:6]}, {"a": ROWS[6:]}], fixed)) == [{"a": (4, 3)}] * 2
    assert shapes(open_feeds([{"a": ROWS[:4]}], fixed)) == [{"a": (4, 3)}]
    one = model_of(("a", 1, [1, 3]))
    assert shapes(open_feeds(data, one, samples=3)) == [{"a": (1, 3)}] * 3
    with pytest.raises(DataError, match="fewer samples than the model's fixed batch of 16"):
        list(open_feeds(data, model_of(("a", 1, [16, 3]))))


def test_inputs_given_whole() -> None:
    """A recurrent state and a scalar have no batch axis in front: each sample holds them whole."""
    model = model_of(("x", 1, ["n", 5]), ("state", 1, [2, "n", 4]), ("sr", 7, []))
    data = {
        "x": np.zeros((6, 5), np.float32),
        "state": np.zeros((6, 2, 1, 4), np.float32),
        "sr": np.array(16000),
    }
    feeds = open_feeds(data, model)
    assert shapes(feeds) == [{"x": (1, 5), "state": (2, 1, 4), "sr": ()}] * 6
    data["sr"] = np.full(6, 8000)
    assert [int(f["sr"]) for f in feeds] == [16000] * 6
    assert [int(f["sr"]) for f in open_feeds(data, model, samples=2)] == [8000] * 2
    data["state"] = data["state"][:, :, 0]
    with pytest.raises(DataError, match="store each input whole"):
        list(open_feeds(data, model))


def test_safe_casts_only() -> None:
    assert next(iter(open_feeds({"a": ROWS.astype(np.float16)}, ONE)))["a"].dtype == np.float32
    for dtype in (np.float64, np.int32):
        with pytest.raises(DataError, match=r"input 'a'.*astype\('float32'\)"):
            list(open_feeds({"a": ROWS.astype(dtype)}, ONE))
    text = model_of(("s", 8, ["n"]))
    assert next(iter(open_feeds({"s": np.array(["a", "b"])}, text)))["s"].tolist() == ["a", "b"]
    with pytest.raises(DataError, match="takes strings"):
        list(open_feeds({"s": np.zeros(2)}, text))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"b": ROWS}, "lacks input 'a'; it holds 'b'"),
        ({}, "it holds nothing"),
        ({"a": ROWS[:, :2]}, r"shape \[8, 2\].*float\[n, 3\]: axis 1 must be 3"),
        ({"a": ROWS[None, None]}, r"shape \[1, 1, 10, 3\]"),
        ({"a": ROWS[:0]}, "holds no sample"),
        ([], "holds no sample"),
        ([{"b": ROWS}], "lacks input 'a'"),
        ([3.0], r"shape \[\]"),
        (7, "cannot read samples from a int"),
    ],
)
def test_data_that_does_not_fit(data: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        list(open_feeds(data, ONE))


def test_different_numbers_of_samples(tmp_path: Path) -> None:
    data = {"a": ROWS, "b": LABELS[:4]}
    np.savez(tmp_path / "d.npz", **data)
    for source in (data, tmp_path / "d.npz"):
        with pytest.raises(DataError, match=r"different numbers of samples.*'a': 10.*'b': 4"):
            list(open_feeds(source, TWO))


def test_files_that_are_no_data(place: Path) -> None:
    (place / "broken.npz").write_bytes(b"no zip at all")
    whole = (place / "data.npz").read_bytes()
    (place / "cut.npz").write_bytes(whole[:-40])
    (place / "objects").mkdir()
    np.savez(place / "objects.npz", a=np.array([{}], object))
    (place / "text.txt").write_text("hello")
    (place / "syntax.py").write_text("def f(:")
    for source, message in [
        ("none.npz", "does not exist"),
        ("broken.npz", "not a readable .npz"),
        ("cut.npz", "not a readable .npz"),
        ("objects.npz", "pickled"),
        ("objects", "neither .npz nor .npy"),
        ("text.txt", "cannot read samples"),
        ("loaders.py", "loaders.py:function"),
        ("none.py:f", "does not exist"),
        ("syntax.py:f", "failed: SyntaxError"),
        ("loaders.py:missing", "no function 'missing'"),
        ("loaders.py:constant", "no function 'constant'"),
        ("loaders.py:broken", "failed: RuntimeError: disk on fire"),
    ]:
        with pytest.raises(DataError, match=message):
            list(open_feeds(place / source, ONE))
    with pytest.raises(DataError, match="ask for one or more"):
        open_feeds({"a": ROWS}, ONE, samples=0)


def test_inputs_that_are_no_tensors_and_optional_ones() -> None:
    proto = h.make_model(
        h.make_graph(
            [h.make_node("Identity", ["s"], ["t"])],
            "g",
            [h.make_value_info("s", h.make_sequence_type_proto(h.make_tensor_type_proto(1, [])))],
            [h.make_value_info("t", h.make_sequence_type_proto(h.make_tensor_type_proto(1, [])))],
        ),
        ir_version=9,
    )
    with pytest.raises(DataError, match="input 's' is not a tensor"):
        input_specs(io.load(proto).model)
    model = model_of(("a", 1, ["n", 3]), ("w", 1, [3]))
    value = model.graph.inputs[1]
    value.const_value = ir.tensor(np.ones(3, np.float32), name="w")
    model.graph.register_initializer(value)
    assert shapes(open_feeds({"a": ROWS}, model, samples=1)) == [{"a": (1, 3)}]


def test_large_archive_is_streamed(tmp_path: Path) -> None:
    path = tmp_path / "big.npz"
    np.savez(path, a=np.zeros((3_000_000, 6), np.float32))
    model = model_of(("a", 1, ["n", 6]))
    tracemalloc.start()
    count = sum(len(f["a"]) for f in open_feeds(path, model, batch=10_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 3_000_000
    assert peak < 60 << 20  # the array is 69 MiB, a piece 16


@given(
    pieces=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    batch=st.integers(1, 9),
    fixed=st.booleans(),
    samples=st.none() | st.integers(1, 40),
)
def test_regrouping_keeps_order(
    pieces: list[int], batch: int, fixed: bool, samples: int | None
) -> None:
    """Whatever the pieces, feeds hold the samples in order, all of full size but the last."""
    total = sum(pieces)
    rows = np.arange(total, dtype=np.float32)[:, None]
    ends = np.cumsum(pieces)
    records = [rows[e - p : e] for e, p in zip(ends, pieces, strict=True)]
    model = model_of(("a", 1, [batch if fixed else "n", 1]))
    used = min(total, samples or total)
    expected = used - used % batch if fixed else used
    # As single samples, so that they are grouped.
    singles = [{"a": row} for piece in records for row in piece]
    feeds = open_feeds(singles, model, samples, batch=batch)
    if not expected:
        with pytest.raises(DataError):
            list(feeds)
        return
    got = [f["a"] for f in feeds]
    np.testing.assert_array_equal(np.concatenate(got)[:, 0], np.arange(expected))
    assert all(len(g) == batch for g in got[:-1])
