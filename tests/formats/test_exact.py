"""decode(encode(x)) is x bit for bit, whatever x, and a second reader agrees."""

from __future__ import annotations

from typing import Any

import format_reference
import numpy as np
import pytest
from format_samples import OPTIONS, SHAPES, fit, option_id, random_bits
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import UnsupportedError, UsageError
from onnxprune.formats import (
    FORMATS,
    Matrix,
    View,
    decode,
    default_view,
    encode,
    encoded_size,
    format_name,
    last_axis_view,
    read_header,
    weight_view,
)
from onnxprune.formats.bits import DTYPES


def check(tensor: Any, format: str, block: tuple[int, int] | None, view: View | None) -> None:
    tensor = fit(tensor, format, block, view)
    seen = view or default_view(tensor.ndim)
    if format == "eie" and block and block[0] > max(seen.shape(tensor.shape)[0], 1):
        with pytest.raises(UsageError, match="processing elements"):
            encode(tensor, format, view=view, block=block)
        return
    blob = encode(tensor, format, view=view, block=block)
    back = decode(blob)
    assert back.dtype == tensor.dtype
    assert back.shape == tensor.shape
    assert back.tobytes() == tensor.tobytes()
    assert back.flags.writeable and back.flags.c_contiguous
    assert encode(back, format, view=view, block=block) == blob
    assert encoded_size(Matrix.of(tensor, seen), format, block) == len(blob)
    assert format_reference.dense(blob) == tensor.tobytes()
    header = read_header(blob)
    assert (header.dims, header.view, header.total) == (tensor.shape, seen, len(blob))
    assert format_name(header) == format
    assert header.nnz == np.count_nonzero(tensor.reshape(-1).view(f"u{tensor.itemsize}"))


def test_every_registered_format_is_tested() -> None:
    assert {format for format, _ in OPTIONS} == set(FORMATS.names())
    assert len({member.number for _, member in FORMATS.items()}) == len(FORMATS.names())


@pytest.mark.parametrize("option", OPTIONS, ids=option_id)
@pytest.mark.parametrize("number", DTYPES, ids=lambda n: DTYPES[n].name)
def test_every_type(option: tuple[str, tuple[int, int] | None], number: int) -> None:
    rng = np.random.default_rng(number)
    check(random_bits(rng, (5, 3, 8), DTYPES[number], 0.3), *option, None)


@pytest.mark.parametrize("option", OPTIONS, ids=option_id)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("density", [0.0, 0.2, 1.0])
def test_every_shape(
    option: tuple[str, tuple[int, int] | None], shape: tuple[int, ...], density: float
) -> None:
    rng = np.random.default_rng(1)
    check(random_bits(rng, shape, DTYPES[1], density), *option, None)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Any, str, tuple[int, int] | None, View]:
    rank = draw(st.integers(0, 5))
    shape = tuple(draw(st.lists(st.integers(0, 9), min_size=rank, max_size=rank)))
    number = draw(st.sampled_from(sorted(DTYPES)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    tensor = random_bits(rng, shape, DTYPES[number], draw(st.floats(0, 1)))
    view = View(tuple(draw(st.permutations(range(rank)))), draw(st.integers(0, rank)))
    format = draw(st.sampled_from(FORMATS.names()))
    block: tuple[int, int] | None = None
    if format == "nm":
        group = draw(st.integers(2, 16))
        block = (draw(st.integers(1, group - 1)), group)
    elif format == "bsr":
        block = (draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    elif format == "eie":
        block = (draw(st.integers(1, 6)), 0)
    elif format == "coo":
        block = (draw(st.integers(0, 1)), 0)
    return tensor, format, block, view


@settings(max_examples=400)
@given(cases())
def test_any_view_and_option(case: tuple[Any, str, tuple[int, int] | None, View]) -> None:
    check(*case)


@pytest.mark.parametrize("format", [f for f in FORMATS.names() if f != "nm"])
def test_wide_indices(format: str) -> None:
    # wide enough that indices and pointers need 2 and 4 bytes
    rng = np.random.default_rng(3)
    for shape in [(3, 70_000), (70_000, 3), (300, 300)]:
        tensor = random_bits(rng, shape, DTYPES[3], 0.5)
        blob = encode(tensor, format)
        assert decode(blob).tobytes() == tensor.tobytes()
        assert encoded_size(Matrix.of(tensor, default_view(2)), format) == len(blob)


def test_memory_order_and_byte_order_do_not_matter() -> None:
    tensor = random_bits(np.random.default_rng(0), (7, 12), DTYPES[1], 0.4)
    blob = encode(tensor, "csr")
    assert encode(np.asfortranarray(tensor), "csr") == blob
    assert encode(tensor.astype(">f4"), "csr") == blob
    assert encode(np.repeat(tensor, 2, axis=1)[:, ::2], "csr") == blob


def test_negative_zero_is_not_zero() -> None:
    tensor = np.array([0.0, -0.0, 1.0], np.float32)
    assert read_header(encode(tensor, "csr")).nnz == 2
    assert np.signbit(decode(encode(tensor, "csr")))[1]


def test_nan_payload_survives() -> None:
    bits = np.array([0x7FC00001, 0xFFC12345, 0x7F800001, 0], np.uint32)
    assert (decode(encode(bits.view(np.float32), "bitmap")).view(np.uint32) == bits).all()


def test_conv_view_groups_input_channels_at_a_fixed_position() -> None:
    weight = np.zeros((2, 4, 3, 3), np.float32)
    weight[:, :2] = 1  # 2:4 along input channels, dense along the kernel
    view = weight_view("Conv", 1, weight.shape, channels_last=True, group=4)
    assert view == View((0, 2, 3, 1), 1)
    assert decode(encode(weight, "nm", view=view)).tobytes() == weight.tobytes()
    with pytest.raises(UsageError, match="not 2:4"):
        encode(weight, "nm")
    odd = weight_view("Conv", 1, (2, 6, 3, 3), channels_last=True, group=4)
    assert odd == View((0, 2, 3, 1), 3) == last_axis_view(4, 1)


def test_rows_are_outputs() -> None:
    assert weight_view("Conv", 1, (8, 3, 5, 5)).shape((8, 3, 5, 5)) == (8, 75)
    assert weight_view("Gemm", 1, (10, 6)).shape((10, 6)) == (6, 10)
    assert weight_view("Gemm", 1, (10, 6), trans_b=True).shape((10, 6)) == (10, 6)
    assert weight_view("MatMul", 1, (2, 10, 6)).shape((2, 10, 6)) == (12, 10)
    assert weight_view("MatMul", 1, (10,)).shape((10,)) == (1, 10)
    assert weight_view("MatMul", 0, (2, 10, 6)).shape((2, 10, 6)) == (20, 6)
    assert weight_view("Other", 0, (2, 10, 6)).shape((2, 10, 6)) == (2, 60)


def test_refusals_before_encoding() -> None:
    x = np.ones((4, 4), np.float32)
    with pytest.raises(UsageError, match="Did you mean 'csr'"):
        encode(x, "crs")
    with pytest.raises(UsageError, match="takes no block"):
        encode(x, "csr", block=(1, 1))
    with pytest.raises(UsageError, match="N < M"):
        encode(x, "nm", block=(4, 4))
    with pytest.raises(UsageError, match=r"1\.\.256"):
        encode(x, "bsr", block=(0, 1))
    with pytest.raises(UsageError, match="linear"):
        encode(x, "coo", block=(2, 0))
    with pytest.raises(UsageError, match=r"row 0, columns 0\.\.3 hold 4"):
        encode(x, "nm")
    with pytest.raises(UnsupportedError, match="complex64"):
        encode(x.astype(np.complex64), "csr")
    with pytest.raises(UsageError, match="for 1 axes"):
        encode(x, "csr", view=View((0,), 0))
    with pytest.raises(UsageError, match="not a permutation"):
        View((0, 0), 1)
    with pytest.raises(UsageError, match="split"):
        View((0, 1), 3)
    with pytest.raises(UsageError, match="not an axis"):
        last_axis_view(2, 2)
    with pytest.raises(UnsupportedError, match="too large"):
        encode(np.zeros((1,) * 17, np.float32), "csr")


@pytest.mark.slow
@pytest.mark.parametrize("format", [f for f in FORMATS.names() if f != "nm"])
def test_100_mb(format: str) -> None:
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((5120, 5120), np.float32)
    tensor[rng.random(tensor.shape, np.float32) < 0.9] = 0
    assert decode(encode(tensor, format)).tobytes() == tensor.tobytes()
