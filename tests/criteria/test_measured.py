"""Criteria that look at activations, against their definitions on the samples themselves."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.optimize import minimize

import onnxprune
from onnxprune.criteria import CRITERIA, Member, parse_criterion
from onnxprune.criteria.measured import RIDGE, Evidence, UnitEvidence
from onnxprune.errors import UsageError

NAMES = [name for name, c in CRITERIA.items() if "activations" in c.needs]
UNITS_ONLY = ("lasso", "thinet")
R, U, K, N = 5, 6, 2, 400


def layer(seed=0, zero=0.3):
    """W [R, d] and samples X [d, N] of U units with K columns each, unit 2 a mix of others."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((U * K, N)) * rng.uniform(0.3, 3, (U * K, 1)) + 0.5
    x[rng.random(x.shape) < zero] = 0
    x[2 * K : 3 * K] = 0.6 * x[:K] - 0.8 * x[K : 2 * K]
    return rng.standard_normal((R, U * K)), x


def evidence(w, x):
    return Evidence(w, x @ x.T / N, x.mean(1), np.abs(x).mean(1), (x == 0).mean(1))


def unit_evidence(w, x):
    return UnitEvidence(evidence(w, x), np.repeat(np.arange(U), K), U)


def test_the_registry_holds_what_is_promised():
    assert {"wanda", "ria", "obd", "obs", "apoz", "thinet", "lasso", "redundancy"} <= set(NAMES)
    assert {"activation-mean", "activation-variance", "alps", "exact-obs", "sparsegpt"} <= set(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_alone_they_refuse_and_units_fall_back_to_l1(name):
    criterion = parse_criterion(name)
    assert criterion.name == name
    with pytest.raises(UsageError, match="--data"):
        criterion.elementwise(np.ones((1, 2, 3), np.float32))
    rng = np.random.default_rng(0)
    members = [Member("out", "w", rng.standard_normal((4, 9)))]
    np.testing.assert_array_equal(criterion.unit(members), parse_criterion("l1").unit(members))
    assert "--data" in criterion.caveat(members)


@pytest.mark.parametrize("name", NAMES)
def test_scores_are_finite_and_not_negative(name):
    criterion, (w, x) = parse_criterion(name), layer(1)
    x[3 * K : 4 * K] = 0  # a dead unit
    scores = criterion.units(unit_evidence(w, x))
    assert scores.shape == (U,) and np.isfinite(scores).all() and (scores >= 0).all()
    assert scores.argmin() == 3
    if name in UNITS_ONLY:
        with pytest.raises(UsageError, match="channel"):
            criterion.weights(evidence(w, x))
        return
    scores = criterion.weights(evidence(w, x))
    assert scores.shape == w.shape and np.isfinite(scores).all() and (scores >= 0).all()


def test_weights_follow_their_formulas():
    w, x = layer()
    e = evidence(w, x)
    rms = np.sqrt((x**2).mean(1))
    size = np.abs(w)
    share = size / size.sum(1, keepdims=True) + size / size.sum(0, keepdims=True)
    expected = {
        "wanda": size * rms,
        "ria": share * rms**0.5,
        "obd": 0.5 * w**2 * rms**2,
        "activation-mean": size * np.abs(x).mean(1),
        "activation-variance": size * x.std(1),
        "apoz": size * (x != 0).mean(1),
    }
    for name, scores in expected.items():
        np.testing.assert_allclose(parse_criterion(name).weights(e), scores, rtol=1e-9)


def test_obd_is_the_error_without_and_obs_with_compensation():
    w, x = layer(3, zero=0.0)
    x[2 * K : 3 * K] = np.random.default_rng(9).standard_normal((K, N))
    e = evidence(w, x)
    obd, obs = (parse_criterion(n).weights(e) for n in ("obd", "obs"))
    hessian = e.second + RIDGE * np.diag(np.diagonal(e.second))
    for i, j in [(0, 0), (2, 5), (4, 11)]:
        gone = w.copy()
        gone[i, j] = 0
        np.testing.assert_allclose(obd[i, j], 0.5 * (((w - gone) @ x) ** 2).sum(0).mean())
        rest = [k for k in range(U * K) if k != j]
        step = np.linalg.solve(hessian[np.ix_(rest, rest)], hessian[rest, j] * w[i, j])
        gone[i, rest] += step
        delta = w[i] - gone[i]
        np.testing.assert_allclose(obs[i, j], 0.5 * delta @ hessian @ delta, rtol=1e-8)


def test_units_of_obd_and_obs_are_errors_of_whole_units():
    w, x = layer(4)
    u = unit_evidence(w, x)
    obd, obs = (parse_criterion(n).units(u) for n in ("obd", "obs"))
    second = u.layer.second
    hessian = second + np.diag(RIDGE * np.diagonal(second) + 1e-9 * np.diagonal(second).max())
    for unit in range(U):
        at = np.arange(unit * K, unit * K + K)
        given = w[:, at] @ x[at]
        np.testing.assert_allclose(obd[unit], 0.5 * (given**2).sum(0).mean())
        rest = np.setdiff1d(np.arange(U * K), at)
        delta = w.copy()
        delta[:, rest] = -np.linalg.solve(
            hessian[np.ix_(rest, rest)], hessian[np.ix_(rest, at)] @ w[:, at].T
        ).T
        error = 0.5 * np.einsum("rd,de,re->", delta, hessian, delta)
        np.testing.assert_allclose(obs[unit], error, rtol=1e-6)


def test_redundancy_sees_what_others_can_say():
    w, x = layer(5)
    w[:] = 1.0
    scores = parse_criterion("redundancy").weights(evidence(w, x))[0]
    lone = np.linalg.lstsq(
        np.vstack([np.delete(x, 10, 0), np.ones(N)]).T, x[10], rcond=None
    )  # what the others say about input 10
    left = x[10] - np.vstack([np.delete(x, 10, 0), np.ones(N)]).T @ lone[0]
    np.testing.assert_allclose(scores[10], left.var(), rtol=0.02)
    units = parse_criterion("redundancy").units(unit_evidence(w, x))
    assert set(np.argsort(units)[:3]) <= {0, 1, 2}  # the mix and what it is made of


def scipy_lasso(gram, right, penalty):
    """The same optimum by another solver: positive and negative parts under bounds."""
    n = len(right)

    def value(z):
        beta = z[:n] - z[n:]
        slope = gram @ beta - right
        loss = 0.5 * beta @ gram @ beta - right @ beta + penalty * z.sum()
        return loss, np.concatenate([slope, -slope]) + penalty

    found = minimize(
        value,
        np.zeros(2 * n),
        jac=True,
        bounds=[(0, None)] * (2 * n),
        method="L-BFGS-B",
        options={"maxiter": 20000, "ftol": 1e-15, "gtol": 1e-12},
    )
    return found.x[:n] - found.x[n:]


def test_thinet_is_greedy_by_brute_force():
    w, x = layer(6)
    scores = parse_criterion("thinet").units(unit_evidence(w, x))
    alive, order = list(range(U)), []
    full = w @ x
    while alive:

        def error(stay):
            at = [c for c in range(U * K) if c // K in stay]
            return ((full - w[:, at] @ x[at]) ** 2).sum()

        least = min(alive, key=lambda u: error([v for v in alive if v != u]))
        alive.remove(least)
        order.append(least)
    np.testing.assert_array_equal(np.argsort(scores), order)


def test_lasso_keeps_the_units_of_largest_penalty():
    w, x = layer(7)
    u = unit_evidence(w, x)
    scores = parse_criterion("lasso").units(u)
    gram, right = u.shares()
    top = np.abs(right).max()
    assert np.argmax(scores) == np.argmax(np.abs(right))  # the first to enter
    for share in (0.9, 0.5, 0.1, 0.01):
        beta = scipy_lasso(gram, right, share * top)
        alive = np.abs(beta) > 1e-6
        # The path is walked in steps of 17 %: a unit may enter one step late.
        assert (scores[alive] >= share * 0.8).all() and (scores[~alive] <= share * 1.2).all()


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """Conv - Relu - Conv - Relu - pool - Gemm, and samples in which a channel is dead."""
    rng = np.random.default_rng(0)
    w = {
        "a": rng.standard_normal((8, 3, 3, 3)).astype(np.float32) * 0.4,
        "ba": np.where(np.arange(8) == 5, -100, 0.1).astype(np.float32),
        "b": rng.standard_normal((8, 8, 3, 3)).astype(np.float32) * 0.2,
        "bb": np.zeros(8, np.float32),
        "c": rng.standard_normal((4, 8)).astype(np.float32),
        "bc": np.zeros(4, np.float32),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a", "ba"], ["h1"], "conv1", pads=[1] * 4),
        helper.make_node("Relu", ["h1"], ["r1"]),
        helper.make_node("Conv", ["r1", "b", "bb"], ["h2"], "conv2", pads=[1] * 4),
        helper.make_node("Relu", ["h2"], ["r2"]),
        helper.make_node("GlobalAveragePool", ["r2"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Gemm", ["f", "c", "bc"], ["y"], "fc", transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
        [numpy_helper.from_array(v, k) for k, v in w.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path_factory.mktemp("measured") / "net.onnx"
    onnx.save(model, path)
    return path, {"x": rng.standard_normal((64, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in UNITS_ONLY])
def test_masks_on_a_network(network, name):
    path, data = network
    result = onnxprune.prune(path, "element", 0.5, criterion=name, data=data, recover="none")
    assert result.report["sparsity"] == pytest.approx(0.5, abs=0.01)
    dead = result.plan.masks["b"][:, 5]
    assert not dead.any()  # what a dead channel feeds goes first
    again = onnxprune.prune(path, "element", 0.5, criterion=name, data=data, recover="none")
    np.testing.assert_array_equal(result.plan.masks["b"], again.plan.masks["b"])


@pytest.mark.parametrize("name", NAMES)
def test_channels_on_a_network(network, name):
    path, data = network
    result = onnxprune.prune(path, "channel", 0.25, criterion=name, data=data, recover="none")
    kept = result.plan.kept["a"][0]
    assert len(kept) == 6 and 5 not in kept
    assert not any("l1" in note for note in result.report["notes"])


def test_a_named_criterion_has_the_last_word_with_recovery(network):
    path, data = network
    plain = onnxprune.prune(path, "element", 0.5, criterion="wanda", data=data, recover="none")
    solved = onnxprune.prune(path, "element", 0.5, criterion="wanda", data=data)
    for tensor, mask in plain.plan.masks.items():
        np.testing.assert_array_equal(mask, solved.plan.masks[tensor])
    assert [s["step"] for s in solved.report["recovery"]["steps"]] == [
        "mask",
        "reconstruct",
        "train",
    ]


@pytest.mark.parametrize("name", ["alps", "exact-obs", "sparsegpt"])
def test_searches_by_name(network, name):
    path, data = network
    result = onnxprune.prune(path, "element", 0.5, criterion=name, data=data)
    rows = result.report["recovery"]["layers"]
    assert {r["method"] for r in rows} == {name.replace("-", "_")}


def test_without_samples_it_says_what_is_missing(network):
    with pytest.raises(UsageError, match="--data"):
        onnxprune.prune(network[0], "element", 0.5, criterion="wanda")
