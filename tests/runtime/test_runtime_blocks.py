"""Blocks of outputs from the command line to the kernel: prune, convert, run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import numpy_helper
from runtime_graphs import Net, assert_close, feed

from onnxprune import runtime
from onnxprune.cli import main

MODELS = Path(__file__).resolve().parents[2] / "models"


def command(*words: object) -> None:
    """Run the command line; it must succeed."""
    done = CliRunner().invoke(main, [str(w) for w in words])
    assert done.exit_code == 0, done.output


def dense_network() -> tuple[Net, onnx.ModelProto]:
    """Convolutions and matrix products, large enough for blocks to be worth their kernel."""
    net = Net(5)
    x = net.input("x", [1, 16, 24, 24])
    for inputs, outputs, kernel in ((16, 64, 3), (64, 64, 1), (64, 48, 3)):
        weight = net.weight(outputs, inputs, kernel, kernel, sparsity=0.0)
        x = net.add("Relu", net.add("Conv", x, weight, net.vector(outputs), pads=[kernel // 2] * 4))
    rows = net.add("Reshape", x, net.constant(np.array([48, 576], np.int64)))
    y = net.add("Add", net.add("MatMul", rows, net.weight(576, 80, sparsity=0.0)), net.vector(80))
    return net, net.model(y)


@pytest.mark.parametrize("block", ["4x1", "8x1"])
def test_prune_convert_run(tmp_path: Path, block: str) -> None:
    net, model = dense_network()
    dense, pruned, packed = (tmp_path / f"{n}.onnx" for n in ("dense", "pruned", "packed"))
    onnx.save(model, dense)
    command("prune", dense, "-o", pruned, "--pattern", f"block:{block}", "--sparsity", "0.8")
    command("convert", pruned, "-o", packed, "--format", "auto")
    assert packed.stat().st_size < 0.35 * dense.stat().st_size
    nodes = onnx.load(packed).graph.node
    stored = {n.op_type for n in nodes if n.domain == "ai.onnxprune"}
    assert stored, "no weight is stored packed"

    height = int(block[0])
    for tensor in onnx.load(pruned).graph.initializer:
        weight = numpy_helper.to_array(tensor)
        if weight.ndim < 2 or weight.size < 1000:
            continue
        by_output = weight.T if weight.ndim == 2 else weight.reshape(weight.shape[0], -1)
        blocks = by_output.reshape(-1, height, by_output.shape[1]) != 0
        assert (blocks.all(1) | ~blocks.any(1)).all(), "a block is kept in part"

    given = feed(net.rng, {"x": [1, 16, 24, 24]})
    expected = runtime.session(pruned, 1, provider="cpu").run(None, given)[0]
    for threads in (1, 2):
        session = runtime.session(packed, threads, timing=False)  # kernels by prediction
        assert_close(session.run(None, given)[0], expected, 600)
        kernels = [d.kernel for d in runtime.explain(session) if "Conv" in d.op or "MatMul" in d.op]
        assert len(kernels) == 4
        assert all("block" in k for k in kernels), kernels


def test_real_network_in_blocks(tmp_path: Path) -> None:
    """The trained digits network, pruned in blocks, gives the same answers packed."""
    pruned, packed = tmp_path / "pruned.onnx", tmp_path / "packed.onnx"
    source = MODELS / "digits_resnet.onnx"
    command("prune", source, "-o", pruned, "--pattern", "block:4x1", "--sparsity", "0.7")
    command("convert", pruned, "-o", packed, "--format", "auto")
    assert packed.stat().st_size < 0.6 * source.stat().st_size
    session = runtime.session(packed, 1)
    [given] = session.get_inputs()
    shape = [d if isinstance(d, int) else 3 for d in given.shape]
    data = {given.name: np.random.default_rng(0).random(shape, np.float32)}
    expected = runtime.session(pruned, 1, provider="cpu").run(None, data)[0]
    assert_close(session.run(None, data)[0], expected, 600)
