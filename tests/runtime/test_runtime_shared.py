"""Sessions of one process share plans and decisions, and nothing that differs."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from runtime_graphs import Net, assert_close, feed
from test_runtime_packed import packed

from onnxprune import runtime

SIZES = {"x": [1, 16, 20, 20]}


def chain(rows: Any = 20) -> tuple[Net, onnx.ModelProto]:
    """Five convolutions in a row, the last three with equal weights."""
    net = Net()
    y = net.input("x", [1, 16, rows, rows])
    tied = net.weight(32, 32, 3, 3)
    for weight in (
        net.weight(32, 16, 3, 3),
        net.weight(32, 32, 1, 1, sparsity=0.5),
        tied,
        tied,
        tied,
    ):
        pads = [1] * 4 if weight != net.constants[2].name else [0] * 4
        y = net.add("Relu", net.add("Conv", y, weight, pads=pads))
    return net, net.model(y)


def made(session: ort.InferenceSession) -> dict[str, float]:
    """When the plan of each convolution was made, so to say: equal for one and the same plan."""
    times = {d.node: d.build_us for d in runtime.explain(session) if d.op == "Conv"}
    return {node: time for node, time in times.items() if time is not None}


def reference(model: onnx.ModelProto, given: dict[str, Any]) -> Any:
    return runtime.session(model, 1, provider="cpu").run(None, given)[0]


def changed(model: onnx.ModelProto, index: int) -> onnx.ModelProto:
    """A copy with one number of one weight changed."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    weight = numpy_helper.to_array(other.graph.initializer[index]).copy()
    place = tuple(axis[-1] for axis in np.nonzero(weight))
    weight[place] += 1.0
    tensor = numpy_helper.from_array(weight, other.graph.initializer[index].name)
    other.graph.initializer[index].CopyFrom(tensor)
    return other


def test_a_second_session_takes_over_plans_and_decisions() -> None:
    net, model = chain()
    given = feed(net.rng, SIZES)
    expected = reference(model, given)
    for options in ({"force": True}, {}, {"force": True, "timing": False}):
        first = runtime.session(model, 1, **options)
        second = runtime.session(model, 1, **options)
        assert runtime.explain(first) == runtime.explain(second)
        for session in (first, second):
            assert_close(session.run(None, given)[0], expected)
        known = made(first)
        del first
        gc.collect()
        assert_close(second.run(None, given)[0], expected)
        third = runtime.session(model, 1, **options)
        assert made(third) == known
        del second, third, session
        gc.collect()
        # All are gone; what they shared stays a while.
        again = runtime.session(model, 1, **options)
        assert made(again) == known
        assert_close(again.run(None, given)[0], expected)


def test_what_dropped_sessions_shared_goes_where_nothing_may_stay() -> None:
    code = (
        "import gc, test_runtime_shared as t; from onnxprune import runtime\n"
        "_, model = t.chain()\n"
        "known = t.made(runtime.session(model, 1, force=True)); gc.collect()\n"
        "fresh = t.made(runtime.session(model, 1, force=True))\n"
        "assert fresh.keys() == known.keys() and known\n"
        "print(all(fresh[node] != known[node] for node in known), fresh == known)"
    )
    found = {}
    for limit in ("0", "64", "no number"):
        environment = {**os.environ, "ONNXPRUNE_IDLE_MB": limit}
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=Path(__file__).parent,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        found[limit] = done.stdout.split()
    assert found["0"] == ["True", "False"]
    assert found["64"] == found["no number"] == ["False", "True"]


def test_layers_with_the_same_weight_share_a_plan() -> None:
    _, model = chain()
    times = list(made(runtime.session(model, 1, force=True)).values())
    assert len(times) == 5
    assert times[2] == times[3]  # the layout of the last one's output is another


def test_one_changed_number_is_another_weight() -> None:
    net, model = chain()
    given = feed(net.rng, SIZES)
    first = runtime.session(model, 1, force=True)
    times = made(first)
    for index in range(len(model.graph.initializer)):
        other = changed(model, index)
        weight = model.graph.initializer[index].name
        users = {n.name for n in model.graph.node if weight in n.input}
        second = runtime.session(other, 1, force=True)
        assert {node for node, time in made(second).items() if time != times[node]} == users
        assert_close(second.run(None, given)[0], reference(other, given))
    assert_close(first.run(None, given)[0], reference(model, given))


def test_options_and_sizes_are_part_of_a_plan() -> None:
    net, model = chain()
    given = feed(net.rng, SIZES)
    expected = reference(model, given)
    first = runtime.session(model, 1, force=True)
    for options in ({"threads": 2}, {"isa": "scalar"}, {"timing": False}):
        other = runtime.session(model, **{"threads": 1, "force": True, **options})
        assert not set(made(other).values()) & set(made(first).values()), options
        assert_close(other.run(None, given)[0], expected)
    _, larger = chain(24)
    other = runtime.session(larger, 1, force=True)
    assert not set(made(other).values()) & set(made(first).values())
    sizes = feed(net.rng, {"x": [1, 16, 24, 24]})
    assert_close(other.run(None, sizes)[0], reference(larger, sizes))


def test_sessions_of_open_sizes() -> None:
    net, model = chain("size")
    sessions = [runtime.session(model, 1, force=True) for _ in range(3)]
    cpu = runtime.session(model, 1, provider="cpu")
    for turn, size in enumerate((20, 9, 20, 33)):
        given = feed(net.rng, {"x": [1, 16, size, size]})
        expected = cpu.run(None, given)[0]
        for session in sessions:
            assert_close(session.run(None, given)[0], expected)
        if turn == 1:
            sessions.pop(0)
            gc.collect()


def test_packed_weights_are_shared_too() -> None:
    net, dense = chain()
    given = feed(net.rng, SIZES)
    for form in ("csr", "bitmap", "eie"):
        model = packed(dense, form)
        first = runtime.session(model, 1)
        second = runtime.session(model, 1)
        assert runtime.explain(first) == runtime.explain(second)
        outputs = first.run(None, given)
        assert_close(outputs[0], reference(dense, given))
        del first
        gc.collect()
        for ours, theirs in zip(second.run(None, given), outputs, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_made_run_and_dropped_by_several_threads() -> None:
    """Sessions of equal, nearly equal and different models come and go while others run."""
    net, model = chain()
    given = feed(net.rng, SIZES)
    models = [model, changed(model, 0), changed(model, 2), chain("size")[1]]
    expected = [reference(m, given) for m in models]
    data = [m.SerializeToString() for m in models]

    def work(turn: int) -> None:
        which = turn % len(models)
        session = runtime.session(data[which], 1, force=True)
        for _ in range(3):
            assert_close(session.run(None, given)[0], expected[which])

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(work, turn) for turn in range(48)]:
            done.result()
