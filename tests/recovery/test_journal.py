"""What was worked out is found again, by the same model and samples alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import onnxprune
from onnxprune import io
from onnxprune.errors import UsageError
from onnxprune.recovery import solve_layers
from onnxprune.recovery.journal import Journal, digest_of

MODELS = Path(__file__).resolve().parents[2] / "models"
CALIB = f"{MODELS / 'calib.py'}:samples"


def test_answers_come_back_as_they_were(tmp_path):
    journal = Journal(tmp_path / "deep" / "cache", "a")
    answer = {"x": np.arange(6.0).reshape(2, 3) / 7, "told": np.array("{}")}
    journal.put("q", answer)
    found = Journal(journal.folder, "a").get("q")
    assert set(found) == set(answer) and str(found["told"]) == "{}"
    np.testing.assert_array_equal(found["x"], answer["x"])
    assert found["x"].dtype == np.float64
    assert journal.get("other") is None and Journal(journal.folder, "b").get("q") is None
    assert [p.suffix for p in journal.folder.iterdir()] == [".npz"]


def test_half_an_entry_is_none(tmp_path):
    journal = Journal(tmp_path, "a")
    journal.put("q", {"x": np.ones(1000)})
    (entry,) = tmp_path.iterdir()
    entry.write_bytes(entry.read_bytes()[:700])
    assert journal.get("q") is None
    entry.write_bytes(b"")
    assert journal.get("q") is None


def test_without_a_folder_nothing_is_kept():
    journal = Journal()
    journal.put("q", {"x": np.ones(2)})
    assert journal.get("q") is None


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "f").write_text("")
    with pytest.raises(UsageError, match="cache"):
        Journal(tmp_path / "f")


def test_digests_tell_models_samples_and_order_apart():
    one, two = {"x": np.zeros((2, 3))}, {"x": np.ones((2, 3))}
    found = {
        digest_of(b"m", [one, two]), digest_of(b"n", [one, two]), digest_of(b"m", [two, one]),
        digest_of(b"m", [one]), digest_of(b"m", [one, two], 1),
        digest_of(b"m", [{"x": np.zeros((3, 2))}, two]),
        digest_of(b"m", [{"x": np.zeros((2, 3), np.float32)}, two]),
    }  # fmt: skip
    assert len(found) == 7
    assert digest_of(b"m", [one, two]) == digest_of(b"m", [dict(one), dict(two)])


@pytest.mark.parametrize(("pattern", "sparsity"), [("element", 0.7), ("2:4", None)])
def test_an_interrupted_run_goes_on_and_gives_the_same_bytes(
    pattern, sparsity, tmp_path, monkeypatch
):
    def run(cache):
        return onnxprune.prune(
            MODELS / "digits_mobile.onnx", pattern, sparsity, data=CALIB, samples=48,
            cache=cache, recover="reconstruct,allocate",
        )  # fmt: skip

    solve, calls = solve_layers.solve_layer, []

    def counted(*args, **how):
        calls.append(1)
        if stop and len(calls) > stop:
            raise KeyboardInterrupt
        return solve(*args, **how)

    monkeypatch.setattr(solve_layers, "solve_layer", counted)
    stop = 0
    plain = run(None)
    whole, stop = len(calls), 3
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path)
    stop = 0
    calls.clear()
    again = run(tmp_path)
    assert len(calls) == whole - 3
    assert io.to_bytes(again.loaded.model) == io.to_bytes(plain.loaded.model)
    calls.clear()
    run(tmp_path)
    assert not calls
