"""No bytes whatever make the decoder crash, hang, allocate, or return something it should not."""

from __future__ import annotations

import json
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import format_reference
import numpy as np
import pytest
from format_samples import OPTIONS, fit, hostile, option_id, random_bits, vectors, with_crc

from onnxprune.errors import LoadError
from onnxprune.formats import decode, encode, format_name, read_header
from onnxprune.formats.bits import DTYPES

HERE = Path(__file__).parent
LIMIT = 1 << 20
MUTATIONS = 600


def test_vectors_are_current() -> None:
    assert json.loads((HERE / "vectors.json").read_text()) == json.loads(json.dumps(vectors()))
    assert json.loads((HERE / "hostile.json").read_text()) == hostile()


@pytest.mark.parametrize("vector", json.loads((HERE / "vectors.json").read_text()),
                         ids=lambda v: v["name"])  # fmt: skip
def test_vector(vector: dict[str, Any]) -> None:
    blob, dense = bytes.fromhex(vector["blob"]), bytes.fromhex(vector["dense"])
    assert decode(blob).tobytes() == dense
    assert format_reference.dense(blob) == dense
    assert list(decode(blob).shape) == vector["shape"]


@pytest.mark.parametrize("case", hostile(), ids=lambda c: c["name"])
def test_refused_with_the_reason(case: dict[str, str]) -> None:
    with pytest.raises(LoadError, match="packed weight refused") as caught:
        decode(bytes.fromhex(case["blob"]))
    assert case["reason"] in str(caught.value)


def survives(blob: bytes) -> bool:
    """Decode; what is accepted must be canonical: it encodes to the very same bytes."""
    try:
        array = decode(blob, max_bytes=LIMIT)
    except LoadError:
        return False
    header = read_header(blob)
    name = format_name(header)
    block = header.params[:2] if name in ("coo", "bsr", "nm", "eie") else None
    assert encode(array, name, view=header.view, block=block) == blob
    assert format_reference.dense(blob) == array.tobytes()
    return True


def sample(option: tuple[str, tuple[int, int] | None], seed: int) -> bytes:
    rng = np.random.default_rng(seed)
    shape = [(6, 16), (4, 8, 3, 3), (40, 2), (9,)][seed % 4]
    if option[0] == "eie" and len(shape) == 1:
        option = ("eie", None)
    number = [1, 10, 3, 9][seed // 4 % 4]
    dense = fit(random_bits(rng, shape, DTYPES[number], 0.3), *option, None)
    return encode(dense, option[0], block=option[1])


@pytest.mark.parametrize("option", OPTIONS, ids=option_id)
def test_mutations(option: tuple[str, tuple[int, int] | None]) -> None:
    # 14 options x 600: byte changes anywhere, wide fields, cuts, growth, swapped stretches;
    # the checksum is put right, so that the checks behind it are reached
    rng = np.random.default_rng(len(option_id(option)))
    accepted = refused = 0
    for step in range(MUTATIONS):
        blob = bytearray(sample(option, step % 16))
        for _ in range(int(rng.integers(1, 4))):
            blob = mutate(blob, rng)
        if survives(with_crc(blob)):
            accepted += 1
        else:
            refused += 1
    assert refused > MUTATIONS // 2
    assert accepted > 0  # changed values are fine: they only change the tensor


def mutate(blob: bytearray, rng: np.random.Generator) -> bytearray:
    kind = int(rng.integers(0, 9))
    at = int(rng.integers(0, max(len(blob), 1)))
    if kind == 0 and blob:
        return blob[:at]
    if kind == 1:
        return blob + bytes(rng.integers(0, 256, int(rng.integers(1, 9)), np.uint8))
    if kind == 2 and len(blob) >= 8:
        at = at % (len(blob) // 8) * 8
        edge = [0, 1, 2**31, 2**32, 2**48, 2**63, 2**64 - 1, len(blob)]
        struct.pack_into("<Q", blob, at, edge[int(rng.integers(0, len(edge)))])
    elif kind == 3 and len(blob) >= 64:
        header = int(rng.integers(8, 64))
        blob[header] = int(rng.integers(0, 256))
    elif kind == 4 and len(blob) > 24:
        other = int(rng.integers(0, len(blob) - 16))
        at = min(at, len(blob) - 16)
        blob[at : at + 8], blob[other : other + 8] = blob[other : other + 8], blob[at : at + 8]
    elif blob:
        blob[at] ^= 1 << int(rng.integers(0, 8)) if kind < 7 else int(rng.integers(1, 256))
    return blob


def test_random_bytes() -> None:
    rng = np.random.default_rng(11)
    for size in [*range(0, 200), 1000]:
        raw = bytes(rng.integers(0, 256, size, np.uint8))
        with pytest.raises(LoadError):
            decode(raw)
        with pytest.raises(LoadError):
            decode(with_crc(b"OPSW" + raw[4:]))


def test_every_truncation_is_refused() -> None:
    blob = encode(np.eye(9, dtype=np.float32), "csr")
    for size in range(len(blob)):
        with pytest.raises(LoadError):
            decode(with_crc(blob[:size]))


@pytest.mark.parametrize("option", OPTIONS, ids=option_id)
def test_no_large_allocation(option: tuple[str, tuple[int, int] | None]) -> None:
    rng = np.random.default_rng(21)
    tracemalloc.start()
    try:
        for step in range(60):
            blob = bytearray(sample(option, step % 16))
            # sizes and dims only: what could make a decoder reserve memory
            field = int(rng.choice([24, 32, 40, 44, 48, 64, 72]))
            value = int(rng.choice([2**16 - 1, 2**24, 2**31 - 1]))
            struct.pack_into("<I", blob, field, value)
            survives(with_crc(blob))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * LIMIT


def test_limit_is_the_callers() -> None:
    blob = encode(np.zeros((1024, 1024), np.float32), "coo")
    assert decode(blob).shape == (1024, 1024)
    with pytest.raises(LoadError, match="above the limit"):
        decode(blob, max_bytes=(4 << 20) - 1)
