"""The sensitivity of groups: rows, picture, and targets in bytes."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from test_channels import residual_net, samples

import onnxprune
from onnxprune.cli import main
from onnxprune.errors import UsageError
from onnxprune.report.plot import render, sensitivity_picture


def test_command_line_writes_rows_and_a_picture(tmp_path):
    onnx.save(residual_net(), tmp_path / "net.onnx")
    np.savez(tmp_path / "x.npz", x=samples(48))
    command = ["sensitivity", str(tmp_path / "net.onnx"), "--data", str(tmp_path / "x.npz"),
               "--pattern", "channel", "--levels", "0.25,0.5", "--csv",
               "--plot", str(tmp_path / "plot.svg")]  # fmt: skip
    found = CliRunner().invoke(main, command)
    assert found.exit_code == 0, found.output
    head, *rows = [line for line in found.stdout.splitlines() if "," in line]
    assert head == "layer,tensor,units,sparsity,loss,top1"
    assert len(rows) == 6  # three groups at two levels
    root = ET.parse(tmp_path / "plot.svg").getroot()
    texts = [e.text for e in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {row.split(",")[0] for row in rows} <= set(texts)


def test_pictures():
    rows = [{"layer": f"a<{i}", "sparsity": s, "loss": s * (i + 1)}
            for i in range(3) for s in (0.2, 0.6)]  # fmt: skip
    picture = sensitivity_picture(rows, "t")
    assert b"a&lt;0" in render(picture, ".svg")
    pytest.importorskip("PIL", reason="PNG needs Pillow")
    assert render(picture, ".png").startswith(b"\x89PNG")
    with pytest.raises(UsageError, match=r"svg or \.png"):
        render(picture, ".gif")


def weights_of(model):
    return sum(
        onnx.numpy_helper.to_array(t).nbytes
        for t in model.graph.initializer
        if t.data_type == onnx.TensorProto.FLOAT
    )


def test_a_target_in_bytes():
    dense = residual_net()
    result = onnxprune.prune(dense, "channel", target={"bytes": 0.5})
    assert weights_of(result.model) == pytest.approx(0.5 * weights_of(dense), rel=0.08)
    masked = onnxprune.prune(dense, "element", target={"bytes": 0.5})
    kept = sum(
        np.count_nonzero(onnx.numpy_helper.to_array(t)) * 4 + t_size(t) / 8
        for t in masked.model.graph.initializer
        if len(t.dims) > 1
    )
    whole = sum(4 * t_size(t) for t in dense.graph.initializer if len(t.dims) > 1)
    assert kept == pytest.approx(0.5 * whole, rel=0.02)


def t_size(tensor):
    return int(np.prod(tensor.dims))
