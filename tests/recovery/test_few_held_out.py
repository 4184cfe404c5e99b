"""Few held-out samples: more of them are held out, and a step must gain more."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from onnxprune.calibration.agreement import Agreement, Judge
from onnxprune.recovery.apply import Recovered, held_out
from onnxprune.recovery.recover_masks import Contest

MODEL = "models/digits_resnet.onnx"


@pytest.mark.parametrize(
    ("samples", "held"), [(2, 1), (3, 1), (8, 2), (16, 5), (24, 8), (32, 8), (48, 8), (1024, 170)]
)
def test_up_to_a_third_is_held_out_until_there_are_eight(samples, held):
    assert sum(held_out(i, samples) for i in range(samples)) == held


def test_a_first_step_must_gain_more_where_few_decide():
    judge = Judge([[np.ones((2, 3), np.float32)]])
    plain = Recovered()
    for doubt, loss, kept in ((1.0, 0.9, True), (0.5, 0.9, False), (0.5, 0.4, True)):
        contest = Contest(judge, plain, Agreement(1.0, None, 1.0), doubt)
        assert contest.enter("reconstruct", Recovered(), Agreement(loss, None, loss)) is kept
        if kept:  # what follows is measured against what has shown its worth
            assert contest.enter("train", Recovered(), Agreement(0.95 * loss, None, loss))


@pytest.mark.parametrize("samples", [1, 2, 3, 8])
def test_any_number_of_samples_works_and_few_are_told(samples, pytestconfig):
    x = np.random.default_rng(0).random((samples, 1, 16, 16), np.float32)
    model = pytestconfig.rootpath / MODEL
    result = onnxprune.prune(model, "element", 0.5, data={"image": x}, recover="reconstruct")
    assert any(f"only {samples} sample" in note for note in result.report["notes"])
    told = result.report["recovery"]
    assert told["samples"] == samples and told["doubt"] < 1
    if samples == 1:
        assert not any(step["kept"] for step in told["steps"][1:])
