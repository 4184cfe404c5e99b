"""What sort of dimension an open axis is."""

from __future__ import annotations

import pytest

from onnxprune.io.open_dims import BATCH, SEQUENCE, SOUND, SPATIAL, role


@pytest.mark.parametrize(
    ("value", "dims", "roles"),
    [
        ("image", ["N", 3, "H", "W"], [BATCH, None, SPATIAL, SPATIAL]),
        ("image", [None, None, None, 3], [BATCH, SPATIAL, SPATIAL, None]),
        ("pixels", ["h", "w", 3], [SPATIAL, SPATIAL, None]),
        ("ids", ["batch", "sequence"], [BATCH, SEQUENCE]),
        ("state", ["seq_len", "b", 64], [SEQUENCE, BATCH, None]),
        ("waveforms", ["batch_size", "N"], [BATCH, SOUND]),
        ("audio", ["b", 1, "t"], [BATCH, None, SOUND]),
        ("audio_signal", ["b", 80, "t"], [BATCH, None, SEQUENCE]),
        ("state", [2, None, 128], [None, BATCH, None]),
        ("features", [1, None, 80], [None, SEQUENCE, None]),
        ("x", ["batch", "N"], [BATCH, SEQUENCE]),
    ],
)
def test_roles(value: str, dims: list[int | str | None], roles: list[str | None]) -> None:
    found = [None if isinstance(d, int) else role(dims, i, value) for i, d in enumerate(dims)]
    assert found == roles
