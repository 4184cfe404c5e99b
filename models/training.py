"""What the three training scripts share: the loop, the augmentation, the export, the record.

Needs torch, which the rest of the project does not: see README.md in this folder.
"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import numpy as np
import onnx
import torch
from evaluate import accuracy, split
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

HERE = Path(__file__).resolve().parent
RECORD = HERE / "accuracies.json"
OPSET = 17


def seed_everything(seed: int) -> None:
    """Make the run repeatable on one machine: one seed, one thread, deterministic kernels."""
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)


def augment(images: torch.Tensor) -> torch.Tensor:
    """Return float [N, 1, H, W]: each image turned, scaled, sheared and moved a little."""
    count = len(images)
    angle = torch.empty(count).uniform_(-0.26, 0.26)
    scale = torch.empty(count).uniform_(0.85, 1.15)
    shear = torch.empty(count).uniform_(-0.2, 0.2)
    shift = torch.empty(count, 2).uniform_(-0.2, 0.2)
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rows = (
        torch.stack([cos, shear - sin, shift[:, 0]], dim=1),
        torch.stack([sin, cos, shift[:, 1]], dim=1),
    )
    grid = functional.affine_grid(torch.stack(rows, dim=1), list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def fit(
    net: nn.Module, *, epochs: int, rate: float, weight_l1: float, scale_l1: float = 0.0
) -> nn.Module:
    """Train on the 1,200 training images (AdamW, one cycle); return ``net`` in eval mode.

    Args:
        net: the network, with its initial weights.
        epochs: passes over the images.
        rate: highest learning rate of the cycle.
        weight_l1: factor of the sum of ``|w|`` over all matrices and kernels.
        scale_l1: factor of the sum of ``|gamma|`` over all BatchNormalization scales, which makes
            channels dispensable (Liu et al. 2017, "network slimming", arXiv:1708.06519).
    """
    train_x, train_y, _, _ = split()
    images, labels = torch.tensor(train_x), torch.tensor(train_y)
    batch = 100
    optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=0.02)
    steps = epochs * math.ceil(len(images) / batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps)
    layers = list(net.modules())
    scales = [layer.weight for layer in layers if isinstance(layer, nn.BatchNorm2d)]
    weights = [layer.weight for layer in layers if isinstance(layer, (nn.Conv2d, nn.Linear))]
    net.train()
    for _ in range(epochs):
        order = torch.randperm(len(images))
        for start in range(0, len(images), batch):
            chosen = order[start : start + batch]
            scores = net(augment(images[chosen]))
            loss = functional.cross_entropy(scores, labels[chosen], label_smoothing=0.05)
            loss = loss + scale_l1 * sum(scale.abs().sum() for scale in scales)
            loss = loss + weight_l1 * sum(weight.abs().sum() for weight in weights)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def export(net: nn.Module, name: str, *, fold_batch_norm: bool) -> None:
    """Write ``name`` next to this file, check it against ``net``, and record its accuracy.

    The exporter that keeps module paths as node names is used. ``fold_batch_norm=False`` exports
    in the mode that leaves BatchNormalization nodes in the graph, with their trained statistics.
    """
    sample = torch.tensor(split()[2][:3])
    buffer = io.BytesIO()
    mode = torch.onnx.TrainingMode.EVAL if fold_batch_norm else torch.onnx.TrainingMode.PRESERVE
    torch.onnx.export(
        net,
        (sample,),
        buffer,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
        opset_version=OPSET,
        training=mode,
        dynamo=False,
    )
    model = onnx.load_from_string(buffer.getvalue())
    name_constants(model)
    model.graph.name = Path(name).stem
    onnx.checker.check_model(model, full_check=True)
    data = model.SerializeToString(deterministic=True)
    with torch.no_grad():
        check_same(data, net(sample).numpy(), sample.numpy())
    (HERE / name).write_bytes(data)
    record(name, data)


def name_constants(model: onnx.ModelProto) -> None:
    """Give exporter-numbered constants the name of the module that reads them.

    Folded and transposed weights come out as ``onnx::MatMul_213``; afterwards they are called
    after the node's path, ``blocks.0.attention.project.weight``, as all the others are.
    """
    graph = model.graph
    taken = {t.name for t in graph.initializer}
    readers = {name: node for node in reversed(graph.node) for name in node.input}
    renamed: dict[str, str] = {}
    for tensor in graph.initializer:
        if "::" not in tensor.name:
            continue
        node = readers[tensor.name]
        position = list(node.input).index(tensor.name)
        path = module_path(node.name)
        role = "bias" if node.op_type == "Conv" and position == 2 else "weight"
        if node.op_type not in ("Conv", "Gemm", "MatMul"):
            role = f"{re.sub(r'[^a-z]', '', node.op_type.lower())}_constant"
        fresh, count = f"{path}.{role}", 1
        while fresh in taken:
            count += 1
            fresh = f"{path}.{role}_{count}"
        taken.add(fresh)
        renamed[tensor.name] = tensor.name = fresh
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)


def module_path(node_name: str) -> str:
    """Return ``down1.right.0`` for the node ``/down1/right/right.0/Conv``; ``net`` at the top.

    The exporter writes every level of a Sequential with its parents' names in front, so a level
    that the next one repeats says nothing.
    """
    levels = [level for level in node_name.split("/")[:-1] if level]
    following = [*levels[1:], ""]
    kept = [
        level
        for level, after in zip(levels, following, strict=True)
        if not after.startswith(f"{level}.")
    ]
    return ".".join(kept) or "net"


def check_same(model: bytes, expected: np.ndarray, images: np.ndarray) -> None:
    """Raise unless onnxruntime computes ``expected`` (the torch outputs) from ``images``."""
    from evaluate import logits

    np.testing.assert_allclose(logits(model, images), expected, rtol=1e-3, atol=1e-4)


def record(name: str, model: bytes) -> None:
    """Write what ``model`` reaches on the held-out split into accuracies.json, and print it."""
    known = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    initializers = onnx.load_from_string(model).graph.initializer
    floats = [numpy_helper.to_array(t).size for t in initializers if t.data_type == 1]
    known[name] = {
        "accuracy": round(accuracy(model), 6),
        "test_samples": len(split()[3]),
        "parameters": int(sum(floats)),
        "bytes": len(model),
    }
    RECORD.write_text(json.dumps(dict(sorted(known.items())), indent=2) + "\n")
    print(name, json.dumps(known[name]))
