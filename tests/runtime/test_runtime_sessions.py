"""Sessions: options, threads, logs, profiles, errors."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from runtime_graphs import Net, assert_close, claimed_ops, compare, feed
from test_runtime_regions import residual_network

from onnxprune import runtime
from onnxprune.errors import UsageError
from onnxprune.runtime import decisions


def network(dims: Any = (1, 3, 64, 64)) -> tuple[Net, onnx.ModelProto]:
    net = Net()
    y = residual_network(net, net.input("x", list(dims)))
    return net, net.model(y)


def test_every_kind_of_model(tmp_path: Path) -> None:
    net, model = network()
    given = feed(net.rng, {"x": [1, 3, 64, 64]})
    path = tmp_path / "net.onnx"
    external = onnx.ModelProto()
    external.CopyFrom(model)
    onnx.save(external, path, save_as_external_data=True, size_threshold=64, location="net.data")
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    for kind in (path, str(path), model.SerializeToString(), model, ir.from_proto(model)):
        session = runtime.session(kind, 1, force=True)
        assert claimed_ops(session)
        assert_close(session.run(None, given)[0], expected)
    bare = onnx.load(path, load_external_data=False)
    with pytest.raises(UsageError, match="pass the model's path"):
        runtime.session(bare, 1)
    with pytest.raises(UsageError, match="cannot run a int"):
        runtime.session(3)  # type: ignore[arg-type]


def listed(model: onnx.ModelProto, names: set[str]) -> onnx.ModelProto:
    """The model with these weights among its inputs, as exporters wrote it for years."""
    out = onnx.ModelProto()
    out.CopyFrom(model)
    out.graph.input.extend(
        onnx.helper.make_tensor_value_info(w.name, w.data_type, list(w.dims))
        for w in out.graph.initializer
        if w.name in names
    )
    out.ir_version = 6
    return out


def test_weights_listed_as_inputs_are_constants(tmp_path: Path) -> None:
    """All of them by habit: nobody means to give others. A few on purpose: they stay open."""
    net, model = network()
    given = feed(net.rng, {"x": [1, 3, 64, 64]})
    names = {w.name for w in model.graph.initializer}
    every = listed(model, names)
    path = tmp_path / "listed.onnx"
    onnx.save(every, path)
    expected = runtime.session(model, 1, provider="cpu").run(None, given)[0]
    for kind in (every, str(path)):
        session = runtime.session(kind, 1, force=True)
        assert all(d.claimed for d in runtime.explain(session))
        assert_close(session.run(None, given)[0], expected)
    cut = every.SerializeToString()[:-40]  # no longer a model: onnxruntime's own error
    with pytest.raises(Exception, match="INVALID_PROTOBUF"):
        runtime.session(cut, 1)
    (gemm,) = (n for n in model.graph.node if n.op_type == "Gemm")
    one = listed(model, {gemm.input[1]})
    session = runtime.session(one, 1, force=True)
    assert "Gemm" not in claimed_ops(session)
    assert "Conv" in claimed_ops(session)
    zeros = np.zeros([10, 64], np.float32)
    bias = onnx.numpy_helper.to_array(
        next(w for w in model.graph.initializer if w.name == gemm.input[2])
    )
    assert_close(session.run(None, {**given, gemm.input[1]: zeros})[0], bias[None])


def test_two_sessions_and_concurrent_runs() -> None:
    """Many threads on two sessions with varying shapes get what one thread gets."""
    net, model = network(("n", 3, "h", "w"))
    feeds = [
        feed(net.rng, {"x": s}) for s in ([1, 3, 64, 64], [2, 3, 40, 56], [1, 3, 33, 33])
    ]  # fmt: skip
    reference = runtime.session(model, 1, provider="cpu")
    expected = [reference.run(None, f)[0] for f in feeds]
    sessions = [runtime.session(model, n, force=True) for n in (1, 2)]
    wrong: list[str] = []

    def work(index: int) -> None:
        for turn in range(12):
            which = (index + turn) % len(feeds)
            session = sessions[(index + turn) % 2]
            try:
                assert_close(session.run(None, feeds[which])[0], expected[which])
            except AssertionError as error:
                wrong.append(str(error))

    workers = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_the_same_run_gives_the_same_bits() -> None:
    net, model = network()
    given = feed(net.rng, {"x": [1, 3, 64, 64]})
    # With timing, a session that is interrupted may choose kernels that add in other orders.
    options: dict[str, Any] = {"force": True, "timing": False}
    runs = [runtime.session(model, 1, **options).run(None, given)[0] for _ in range(2)]
    assert runs[0].tobytes() == runs[1].tobytes()


def test_min_sparsity() -> None:
    net = Net()  # gains with any instruction set
    x = net.input("x", [1, 64, 28, 28])
    y = net.add("Conv", x, net.weight(64, 64, 3, 3, sparsity=0.98), pads=[1] * 4)
    model = net.model(y)
    assert claimed_ops(runtime.session(model, 1, min_sparsity=0.5)) == ["Conv"]
    session = runtime.session(model, 1, min_sparsity=0.99)
    assert claimed_ops(session) == []
    decision = runtime.explain(session)[0]
    assert decision.sparsity == pytest.approx(0.98, abs=0.01)
    assert "99.0 %" in decision.reason


def test_log_file_and_explain_agree(tmp_path: Path) -> None:
    _, model = network()
    path = tmp_path / "log.json"
    session = runtime.session(model, 1, force=True, log_file=path)
    written = json.loads(path.read_text())
    assert [d["node"] for d in written["decisions"]] == [d.node for d in runtime.explain(session)]


def test_explain_says_what_kernels_take() -> None:
    net = Net()
    y = net.add("Relu", net.add("Conv", net.input("x", [1, 8, 9, 9]), net.weight(16, 8, 3, 3)))
    session = runtime.session(net.model(y), threads=1, force=True)
    conv, relu = runtime.explain(session)
    assert conv.kernel == relu.kernel
    assert conv.kernel_bytes is not None and conv.code_bytes is not None
    assert 16 * 8 * 9 * 0.2 * 4 < conv.kernel_bytes < 1e6
    assert (conv.code_bytes > 0) == ("column" in conv.kernel)
    assert conv.build_us is not None and conv.build_us > 0
    assert relu.kernel_bytes is None and relu.build_us is None


def test_profile_covers_every_step() -> None:
    net, model = network()
    session = runtime.session(model, 1, force=True, profile=True)
    assert runtime.profile(session) == []
    for _ in range(3):
        session.run(None, feed(net.rng, {"x": [1, 3, 64, 64]}))
    steps = runtime.profile(session)
    # Moves between layouts are counted together.
    assert {s.calls for s in steps if not s.step.startswith("layout of ")} == {3}
    assert any("spmm" in s.kernel for s in steps)
    assert all(s.total_us >= 0 for s in steps)
    named = " ".join(s.step for s in steps)
    assert all(d.node in named for d in runtime.explain(session) if d.op == "Conv")


def test_isa_is_forced() -> None:
    _, model = network()
    for isa in ("avx2", "scalar"):
        session = runtime.session(model, 1, force=True, isa=isa)
        kernels = {d.kernel for d in runtime.explain(session) if d.op == "Conv"}
        assert all(k.endswith(isa) for k in kernels), kernels


def test_bad_options_are_refused() -> None:
    _, model = network()
    with pytest.raises(UsageError, match="min_sparsity"):
        runtime.session(model, minimum=0.5)
    with pytest.raises(UsageError, match="unknown provider"):
        runtime.session(model, provider="gpu")
    for option, value in [("isa", "neon"), ("min_sparsity", 2), ("force", "perhaps")]:
        with pytest.raises(Exception, match=f"option '{option}'"):
            runtime.session(model, **{option: value})


def test_the_log_goes_with_the_session() -> None:
    _, model = network()
    session = runtime.session(model, 1)
    key = decisions._keys[session]
    assert runtime.library.session_log(key)
    del session
    gc.collect()
    assert runtime.library.session_log(key) is None


def test_sessions_of_others_have_no_log() -> None:
    import onnxruntime as ort

    _, model = network()
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    with pytest.raises(UsageError, match="not made by"):
        runtime.explain(session)
    assert runtime.explain(runtime.session(model, provider="cpu")) == []


def test_registration_happens_once() -> None:
    first, second = runtime.register(), runtime.register()
    assert len(first) == len(second) == 1
    assert runtime.available() == (True, "")


def test_weights_inside_a_branch() -> None:
    """Bodies of If are offered as graphs of their own and can be claimed."""
    from onnx import TensorProto, helper, numpy_helper

    net = Net()
    x = net.input("x", [4, 16])
    net.input("flag", [], TensorProto.BOOL)
    weight = net.rng.standard_normal((16, 16)).astype(np.float32)
    weight[net.rng.random(weight.shape) < 0.8] = 0

    def branch(name: str, op: str) -> Any:
        nodes = [
            helper.make_node("MatMul", [x, f"{name}_w"], [f"{name}_m"], name=f"{name}_mm"),
            helper.make_node(op, [f"{name}_m"], [f"{name}_o"]),
        ]
        out = helper.make_tensor_value_info(f"{name}_o", TensorProto.FLOAT, None)
        constants = [numpy_helper.from_array(weight, f"{name}_w")]
        return helper.make_graph(nodes, name, [], [out], constants)

    y = net.add("If", "flag", then_branch=branch("a", "Relu"), else_branch=branch("b", "Tanh"))
    feeds = [{**feed(net.rng, {"x": [4, 16]}), "flag": np.array(v)} for v in (True, False)]
    session = compare(net.model(y), feeds, force=True)
    import onnxruntime as ort

    old = tuple(int(v) for v in ort.__version__.split(".")[:2]) < (1, 24)
    assert claimed_ops(session).count("MatMul") == (0 if old else 2)


@pytest.mark.skipif(
    not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc"
)
def test_after_a_run_memory_is_that_of_the_packed_weights(tmp_path: Path) -> None:
    """onnxruntime lets go of a model's weights last; that memory goes back to the system."""
    net = Net()
    y = net.input("x", [1, 1024])
    for _ in range(24):
        y = net.add("MatMul", y, net.weight(1024, 1024, sparsity=0.9))
    path = tmp_path / "net.onnx"
    onnx.save(net.model(y), path)
    code = """
import sys
import numpy as np
from onnxprune import runtime

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096

x = {"x": np.ones((1, 1024), np.float32)}
runtime.available()  # loads the library
before = resident()
session = runtime.session(sys.argv[1], 1, force=True)
session.run(None, x)
print(sum(d.kernel_bytes or 0 for d in runtime.explain(session)), resident() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        cwd=tmp_path,  # the installed package, whatever lies here
        capture_output=True,
        text=True,
        check=True,
    )
    packed, held = map(int, done.stdout.split())
    assert packed > 5e6
    assert held < 1.5 * packed + 12e6, (packed, held)  # onnxruntime's own
