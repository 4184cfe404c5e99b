"""The bytes are what others mean by these names: scipy, the EIE paper, NVIDIA's metadata, ONNX."""

from __future__ import annotations

from typing import Any

import format_reference as ref
import numpy as np
import onnx
import pytest
import scipy.sparse
from format_samples import DTYPES, random_bits
from onnx.reference import ReferenceEvaluator

from onnxprune.errors import LoadError
from onnxprune.formats import Matrix, decode, default_view, encode, encoded_size
from onnxprune.formats.coo import SparseTensor, from_sparse_tensor, to_sparse_tensor


@pytest.fixture
def matrix() -> Any:
    rng = np.random.default_rng(5)
    dense = rng.standard_normal((24, 40)).astype(np.float32)
    dense[rng.random(dense.shape) < 0.8] = 0
    dense[3] = 0
    dense[:, 7] = 0
    return dense


def arrays(blob: bytes) -> tuple[Any, list[int], list[int]]:
    b = ref.read(blob)
    index, pointer = (ref.numbers(section, 1) for section in b.sections[1:])
    return np.frombuffer(b.sections[0], np.float32), index, pointer


@pytest.mark.parametrize("format", ["csr", "csc"])
def test_compressed_is_scipys(matrix: Any, format: str) -> None:
    theirs = getattr(scipy.sparse, f"{format}_array")(matrix)
    values, index, pointer = arrays(encode(matrix, format))
    assert (values == theirs.data).all()
    assert index == theirs.indices.tolist()
    assert pointer == theirs.indptr.tolist()


@pytest.mark.parametrize("block", [(4, 1), (1, 4), (3, 8)])
def test_bsr_is_scipys(matrix: Any, block: tuple[int, int]) -> None:
    theirs = scipy.sparse.bsr_array(matrix, blocksize=block)
    theirs.sort_indices()
    values, index, pointer = arrays(encode(matrix, "bsr", block=block))
    assert (values == theirs.data.reshape(-1)).all()
    assert index == theirs.indices.tolist()
    assert pointer == theirs.indptr.tolist()


def test_2_4_metadata_nibbles() -> None:
    # PTX ISA, mma.sp: the two 2-bit indices of a group, the lower element's in the lower bits
    nibbles = {(0, 1): 0x4, (0, 2): 0x8, (0, 3): 0xC, (1, 2): 0x9, (1, 3): 0xD, (2, 3): 0xE}
    row = np.zeros((1, 4 * len(nibbles)), np.float16)
    for group, pair in enumerate(nibbles):
        row[0, [4 * group + p for p in pair]] = 1 + np.arange(2) + 10 * group
    b = ref.read(encode(row, "nm"))
    words = ref.numbers(b.sections[1], 2)
    expected = sum(n << (4 * i) for i, n in enumerate(nibbles.values()))
    assert words == [expected & 0xFFFF, expected >> 16]
    assert (np.frombuffer(b.sections[0], np.float16) == row[row != 0]).all()


def test_2_4_spare_slots_take_the_smallest_positions() -> None:
    row = np.array([[0, 0, 0, 0, 0, 0, 0, 7, 5, 0, 0, 0]], np.float32)
    b = ref.read(encode(row, "nm"))
    assert ref.numbers(b.sections[1], 2) == [0x4 | 0xC << 4 | 0x4 << 8]
    assert np.frombuffer(b.sections[0], np.float32).tolist() == [0, 0, 0, 7, 5, 0]


def test_eie_paper_example() -> None:
    # section III.A: [0,0,1,2, eighteen zeros, 3] is v = [1,2,0,3], z = [2,0,15,2]
    column = np.array([0, 0, 1, 2, *[0] * 18, 3], np.float32).reshape(-1, 1)
    b = ref.read(encode(column, "eie"))
    assert np.frombuffer(b.sections[0], np.float32).tolist() == [1, 2, 0, 3]
    assert b.sections[1] == bytes([0x02, 0x2F])
    assert b.sections[2] == bytes([0, 4])


def test_eie_interleaves_rows_over_elements() -> None:
    dense = np.array([[1, 0], [0, 2], [3, 0], [0, 0], [0, 5]], np.int8)
    b = ref.read(encode(dense, "eie", block=(2, 0)))
    # element 0 holds rows 0, 2, 4; element 1 rows 1, 3
    assert b.sections[0] == bytes([1, 3, 5, 2])
    assert b.sections[1] == bytes([0x00, 0x02])
    assert b.sections[2] == bytes([0, 2, 3, 3, 4])


def test_bitmap_is_least_significant_first() -> None:
    b = ref.read(encode(np.array([0, 9, 0, 0, 0, 0, 0, 0, 7], np.int8), "bitmap"))
    assert b.sections == [bytes([9, 7]), bytes([2, 1])]


@pytest.mark.parametrize("nd", [False, True])
def test_coo_is_the_standards(nd: bool) -> None:
    dense = random_bits(np.random.default_rng(2), (3, 4, 5), DTYPES[1], 0.3)
    dense = np.where(np.isnan(dense), np.float32(1), dense)
    sparse = to_sparse_tensor(dense, nd=nd)
    assert sparse.indices.dtype == np.int64
    proto = onnx.SparseTensorProto(dims=dense.shape)
    proto.values.CopyFrom(onnx.numpy_helper.from_array(sparse.values, "w"))
    proto.indices.CopyFrom(onnx.numpy_helper.from_array(sparse.indices))
    onnx.checker.check_sparse_tensor(proto)
    node = onnx.helper.make_node("Constant", [], ["w"])
    node.attribute.append(onnx.AttributeProto(name="sparse_value", type=11, sparse_tensor=proto))
    output = onnx.helper.make_tensor_value_info("w", 1, dense.shape)
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output]))
    assert ReferenceEvaluator(model) is not None
    back = from_sparse_tensor(sparse)
    assert back.tobytes() == dense.tobytes()
    order = np.random.default_rng(0).permutation(sparse.values.size)
    mixed = SparseTensor(sparse.values[order], sparse.indices[order], sparse.dims)
    assert from_sparse_tensor(mixed).tobytes() == dense.tobytes()


@pytest.mark.parametrize(
    ("values", "indices", "dims", "reason"),
    [
        ([1, 2], [0], (4,), "indices of shape"),
        ([1, 2], [0, 4], (4,), "outside 0..3"),
        ([1, 2], [-1, 2], (4,), "outside 0..3"),
        ([1, 2], [2, 2], (4,), "repeated"),
        ([1], [[0, 3]], (2, 3), "outside"),
        ([1], [[0, -1]], (2, 3), "outside"),
        ([1], [0], (-4,), "negative dim"),
        ([1], [0], (1 << 40,), "exceeds"),
    ],
)
def test_bad_sparse_tensors(values: Any, indices: Any, dims: Any, reason: str) -> None:
    sparse = SparseTensor(np.array(values, np.float32), np.array(indices, np.int64), dims)
    with pytest.raises(LoadError, match=reason):
        from_sparse_tensor(sparse)


def align8(x: int) -> int:
    return (x + 7) // 8 * 8


@pytest.mark.parametrize("density", [0.0, 0.05, 0.3, 1.0])
def test_size_formulas_of_the_page(density: float) -> None:
    rng = np.random.default_rng(9)
    rows, cols = 96, 300
    values = rng.standard_normal((rows, cols)).astype(np.float32)
    dense = np.where(rng.random((rows, cols)) < density, values, np.float32(0))
    n = int(np.count_nonzero(dense))
    nb = sum(bool(dense[i : i + 4, j].any()) for i in range(0, rows, 4) for j in range(cols))
    w = ref.width
    s = ref.read(encode(dense, "eie")).stored
    expected = {
        "coo": [4 * n, n * w(rows * cols - 1)],
        "csr": [4 * n, n * w(cols - 1), (rows + 1) * w(n)],
        "csc": [4 * n, n * w(rows - 1), (cols + 1) * w(n)],
        "bsr": [16 * nb, nb * w(cols - 1), (rows // 4 + 1) * w(nb)],
        "bitmap": [4 * n, rows * cols // 8],
        "eie": [4 * s, (s + 1) // 2, (cols + 1) * w(s)],
    }
    for format, parts in expected.items():
        size = 64 + 2 * 8 + 8 + 16 * len(parts)
        size += sum(align8(p) for p in parts[:-1]) + parts[-1]
        assert len(encode(dense, format)) == size, format
        assert encoded_size(Matrix.of(dense, default_view(2)), format) == size, format


def test_eie_padding_count() -> None:
    # a gap of g zeros costs g // 16 padding entries
    for gap in (0, 1, 15, 16, 31, 32, 100):
        column = np.zeros((gap + 1, 1), np.int8)
        column[gap] = 1
        assert ref.read(encode(column, "eie")).stored == 1 + gap // 16


def test_2_4_halves_plus_one_bit_an_element() -> None:
    dense = np.tile(np.array([1, 0, 2, 0], np.float32), (64, 32))
    blob = encode(dense, "nm")
    assert len(blob) == 64 + 16 + 8 + 32 + dense.nbytes // 2 + dense.size // 8
    assert decode(blob).tobytes() == dense.tobytes()
