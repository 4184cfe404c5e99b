"""Folders of pictures: every preprocessing step against numpy and Pillow by hand."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from onnxprune import io
from onnxprune.calibration.feed_images import Preprocess
from onnxprune.calibration.feeds import open_feeds
from onnxprune.errors import DataError, UsageError

Image = pytest.importorskip("PIL.Image")


def model(shape, dtype=TensorProto.FLOAT):
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", dtype, None)
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return io.load(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])).model


@pytest.fixture
def photos(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(3)]
    (tmp_path / "sub").mkdir()
    for i, array in enumerate(arrays):
        Image.fromarray(array).save(tmp_path / ("sub/c.png" if i == 2 else f"{'ab'[i]}.png"))
    return tmp_path, arrays


def feeds(folder, spec, shape=("n", 3, 16, 16), dtype=TensorProto.FLOAT):
    text = f"{folder}::{spec}" if spec is not None else str(folder)
    return np.concatenate([f["x"] for f in open_feeds(text, model(list(shape), dtype))])


def centre(array, edge):
    top, left = (array.shape[0] - edge) // 2, (array.shape[1] - edge) // 2
    return array[top : top + edge, left : left + edge].astype(np.float32)


def test_a_fixed_input_is_cut_from_the_centre(photos):
    folder, arrays = photos
    want = np.stack([centre(a, 16).transpose(2, 0, 1) for a in arrays])
    np.testing.assert_array_equal(feeds(folder, None), want)
    last = feeds(folder, "", ("n", 16, 16, 3))
    np.testing.assert_array_equal(last, want.transpose(0, 2, 3, 1))


def test_scale_mean_std_and_order(photos):
    folder, arrays = photos
    spec = "crop=8,scale=1/255,mean=0.1/0.2/0.3,std=0.5/0.25/2,order=bgr"
    want = (centre(arrays[0], 8)[:, :, ::-1] / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2]
    got = feeds(folder, spec, ("n", 3, "h", "w"))
    np.testing.assert_allclose(got[0], want.transpose(2, 0, 1), rtol=1e-5, atol=1e-5)


def test_resize_takes_the_shorter_edge(photos):
    folder, arrays = photos
    resized = Image.fromarray(arrays[1]).resize((60, 40), Image.Resampling.BILINEAR)
    got = feeds(folder, "resize=40", ("n", 3, "h", "w"))
    np.testing.assert_array_equal(got[1], np.asarray(resized, np.float32).transpose(2, 0, 1))


def test_gray_and_bytes(photos):
    folder, arrays = photos
    gray = np.asarray(Image.fromarray(arrays[0]).convert("L"))
    got = feeds(folder, "crop=16", ("n", 1, 16, 16))
    np.testing.assert_array_equal(got[0, 0], centre(gray, 16))
    raw = feeds(folder, "layout=nhwc", ("n", 16, 16, 3), TensorProto.UINT8)
    assert raw.dtype == np.uint8
    np.testing.assert_array_equal(raw[2], centre(arrays[2], 16))


@pytest.mark.parametrize(
    "spec", ["size=3", "crop", "mean=a", "order=xyz", "layout=cn", "std=0", "scale=1/0", "crop=-1"]
)
def test_nonsense_is_a_usage_error(spec):
    with pytest.raises(UsageError):
        Preprocess.parse(spec)


def test_what_cannot_be_fed_says_so(photos, tmp_path_factory):
    folder, _ = photos
    with pytest.raises(DataError, match="four axes"):
        feeds(folder, "crop=4", ("n", 3))
    with pytest.raises(DataError, match="1 or 3 channels"):
        feeds(folder, "crop=4", ("n", 7, 4, 4))
    with pytest.raises(UsageError, match="2 numbers"):
        feeds(folder, "mean=1/2")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match="no pictures"):
        feeds(empty, "crop=4")
    (folder / "a.png").write_bytes(b"not a picture")
    with pytest.raises(DataError, match="not a readable picture"):
        feeds(folder, None)
