"""A slice of the onnx backend corpus as sandwiches; benchmarks/corpus.py does all of it."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import onnx
import pytest
from onnx import helper, numpy_helper

ROOT = Path(__file__).resolve().parents[2]
# Enough of every family of operators, chosen by name: the suite makes its tests on import, and all
# of them together take minutes to prune.
CHOSEN = [
    "test_abs",
    "test_add_bcast",
    "test_argmax_default_axis_example",
    "test_attention_4d",
    "test_averagepool_2d_default",
    "test_basic_conv_with_padding",
    "test_batchnorm_example",
    "test_clip_example",
    "test_col2im_5d",
    "test_compress_1",
    "test_concat_3d_axis_1",
    "test_cumsum_2d_axis_0",
    "test_depthtospace_crd_mode_example",
    "test_einsum_batch_matmul",
    "test_expand_dim_changed",
    "test_flatten_axis2",
    "test_gather_0",
    "test_gather_elements_0",
    "test_gathernd_example_float32",
    "test_gemm_all_attributes",
    "test_group_normalization_example",
    "test_gru_seq_length",
    "test_if",
    "test_instancenorm_example",
    "test_layer_normalization_3d_axis1_epsilon",
    "test_loop11",
    "test_lstm_with_peepholes",
    "test_matmul_3d",
    "test_nllloss_NCd1",
    "test_nonzero_example",
    "test_onehot_with_axis",
    "test_constant_pad",
    "test_prelu_broadcast",
    "test_reduce_mean_keepdims_example",
    "test_reshape_reordered_last_dims",
    "test_resize_upsample_scales_nearest",
    "test_reversesequence_time",
    "test_rnn_seq_length",
    "test_scan9_sum",
    "test_scatter_elements_with_axis",
    "test_scatternd_add",
    "test_shape_clip_end",
    "test_slice",
    "test_softmax_axis_1",
    "test_split_equal_parts_2d",
    "test_squeeze",
    "test_tile",
    "test_top_k",
    "test_transpose_all_permutations_2",
    "test_tril",
    "test_unsqueeze_axis_1",
    "test_where_example",
]


@pytest.fixture(scope="module")
def corpus() -> ModuleType:
    if not (ROOT / "benchmarks" / "corpus.py").exists():
        pytest.skip("benchmarks/ is not part of this installation")
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import corpus
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return corpus


def test_no_sandwich_is_wrong(corpus: ModuleType) -> None:
    cases = [c for c in corpus.collect() if c.name in CHOSEN]
    assert len(cases) >= 0.9 * len(CHOSEN), "the suite has other names"
    outcomes: Counter[str] = Counter()
    wrong = []
    for case in cases:
        for sandwich in corpus.sandwiches(case):
            outcome, why = corpus.judge(sandwich)
            outcomes[outcome] += 1
            if outcome not in ("propagates", "freezes", "unjudged"):
                wrong.append(f"{outcome} {sandwich.name}: {why}")
    assert wrong == []
    assert outcomes["propagates"] > 80 and outcomes["freezes"] > 20, outcomes


def test_the_judge_finds_a_wrong_answer(
    corpus: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pruned model with one weight moved is wrong, and so is silence about what is frozen."""
    nodes = [
        helper.make_node("MatMul", ["x", "a.make"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("MatMul", ["z", "b"], ["out"]),
    ]
    import numpy as np

    rng = np.random.default_rng(0)
    arrays = {"a.make": rng.standard_normal((4, 6)), "b": rng.standard_normal((6, 3))}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", 1, [2, 4])],
        [helper.make_tensor_value_info("out", 1, [2, 3])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in arrays.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    feeds = {"x": rng.standard_normal((2, 4)).astype(np.float32)}
    sandwich = corpus.Sandwich("relu", "Relu", model, feeds, 1e-3)
    assert corpus.judge(sandwich) == ("propagates", "")
    real = corpus.onnxprune.prune

    def broken(source: onnx.ModelProto, *args: object, **options: object) -> object:
        result = real(source, *args, **options)
        if "plan" not in options:
            weight = result.model.graph.initializer[1]
            array = numpy_helper.to_array(weight).copy()
            array[0] += 1
            weight.CopyFrom(numpy_helper.from_array(array, weight.name))
        return result

    monkeypatch.setattr(corpus.onnxprune, "prune", broken)
    assert corpus.judge(sandwich)[0] == "wrong"
