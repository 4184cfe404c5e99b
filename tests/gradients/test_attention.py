"""Attention in one node against central differences."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import helper
from test_gradients import check, rand

MS = "com.microsoft"
PAIRS = np.random.default_rng(7).random((3, 4)) < 0.7
PAIRS[:, 0] = True


@pytest.mark.parametrize(
    ("shapes", "constants", "how"),
    [
        ([(2, 4, 3, 5), (2, 4, 3, 5), (2, 4, 3, 2)], {}, {}),
        ([(2, 4, 3, 5), (2, 2, 3, 5), (2, 2, 3, 2)], {}, {"is_causal": 1, "scale": 0.3}),
        ([(2, 4, 3, 5), (2, 4, 4, 5), (2, 4, 4, 5)], {"m": PAIRS}, {}),
        ([(2, 4, 3, 5), (2, 4, 4, 5), (2, 4, 4, 5), (4, 3, 4)], {}, {}),
        ([(2, 3, 8), (2, 4, 4), (2, 4, 6)], {}, {"q_num_heads": 4, "kv_num_heads": 2}),
    ],
)
def test_standard_attention(shapes, constants, how):
    inputs = {
        name: rand(*s, seed=i) for i, (name, s) in enumerate(zip("qkvb", shapes, strict=False))
    }
    node = helper.make_node("Attention", [*inputs, *constants], ["y"], **how)
    check([node], inputs, constants, opset=23)


KEYS = np.array([[1, 1, 0, 1], [1, 0, 1, 1]], np.int32)
EVERY = np.random.default_rng(8).integers(0, 2, (2, 4, 4)).astype(np.int32) | np.eye(
    4, dtype=np.int32
)


@pytest.mark.parametrize(
    ("mask", "how"),
    [
        (None, {}),
        (KEYS, {}),
        (np.array([3, 1], np.int32), {}),
        (EVERY, {"scale": 0.3}),
        (None, {"unidirectional": 1}),
    ],
)
def test_attention_with_its_projections(mask, how):
    inputs = {"x": rand(2, 4, 6), "w": rand(6, 24, seed=2), "b": rand(24, seed=3)}
    constants = {} if mask is None else {"m": mask}
    node = helper.make_node(
        "Attention", [*inputs, *constants], ["y"], num_heads=2, domain=MS, **how
    )
    check([node], inputs, constants)


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("how", [{}, {"unidirectional": 1}])
def test_multi_head_attention(biased, how):
    inputs = {"q": rand(2, 4, 6), "k": rand(2, 4, 6, seed=2), "v": rand(2, 4, 6, seed=3)}
    names = [*inputs]
    if biased:
        inputs |= {"b": rand(18, seed=4), "s": rand(1, 2, 4, 4, seed=5)}
        names = ["q", "k", "v", "b", "m", "s"]
    constants = {"m": KEYS} if biased else {}
    node = helper.make_node("MultiHeadAttention", names, ["y"], num_heads=2, domain=MS, **how)
    check([node], inputs, constants)
