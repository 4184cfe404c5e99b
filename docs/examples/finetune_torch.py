"""Prune an exported network, cut the torch module it came from to the same shape, fine-tune it.

    python finetune_torch.py FOLDER

needs torch, onnx and onnxruntime, and the command `onnxprune` (or ONNXPRUNE, a command in its
place). `prune_module` is what to take from here: it works on any module whose parameters the
exported file holds under their names, or under other names or transposed but with their values.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort
import torch
from torch import nn


def find(name: str, tensor: torch.Tensor, parameters: dict) -> tuple[dict, bool] | None:
    """Return what the export says of a parameter, and whether it holds it transposed."""
    if name in parameters and parameters[name]["shape"] == list(tensor.shape):
        return parameters[name], False
    value = hashlib.sha256(np.ascontiguousarray(tensor.detach().numpy()).tobytes()).hexdigest()
    for key, transposed in (("digest", False), ("digest_transposed", True)):
        found = [e for e in parameters.values() if e.get(key) == value]
        shape = list(tensor.shape)[:: -1 if transposed else 1]
        found = [e for e in found if e["shape"] == shape]
        if found:
            if any(e["kept"] != found[0]["kept"] for e in found):
                raise ValueError(f"{name}: several tensors have its values and keep other indices")
            return found[0], transposed
    return None


def cut(tensor: torch.Tensor, entry: dict, transposed: bool) -> torch.Tensor:
    """Return the kept part of a parameter."""
    kept = entry["kept"][:: -1 if transposed else 1]
    for axis, indices in enumerate(kept):
        if indices is not None:
            tensor = tensor.index_select(axis, torch.tensor(indices))
    return tensor


def fit(module: nn.Module) -> None:
    """Make a layer's own sizes those of its weight."""
    if isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, nn.modules.conv._ConvNd) and not module.transposed:
        outputs, inside = module.weight.shape[:2]
        if module.groups > 1 and inside * module.groups == module.in_channels:
            module.groups = outputs * module.groups // module.out_channels  # whole groups went
        module.out_channels, module.in_channels = outputs, inside * module.groups
    elif isinstance(module, nn.modules.batchnorm._BatchNorm):
        module.num_features = len(module.running_mean)
    elif isinstance(module, nn.Embedding):
        module.num_embeddings, module.embedding_dim = module.weight.shape
    elif isinstance(module, nn.LayerNorm):
        module.normalized_shape = tuple(module.weight.shape)


def prune_module(module: nn.Module, export: dict) -> list[str]:
    """Cut parameters and buffers in place; return the names of what lost something.

    Numbers that a module keeps for itself (how many heads it reshapes to) are its author's to set.

    Raises:
        ValueError: the export speaks of weights that the module does not have.
    """
    parameters = export["parameters"]
    used, changed = [], []
    for path, layer in module.named_modules():
        for held in (layer._parameters, layer._buffers):
            for key, tensor in held.items():
                name = f"{path}.{key}" if path else key
                found = None if tensor is None else find(name, tensor, parameters)
                if found is None:
                    continue
                used.append(id(found[0]))
                small = cut(tensor.detach(), *found)
                if small.shape != tensor.shape:
                    changed.append(name)
                held[key] = nn.Parameter(small) if held is layer._parameters else small
        fit(layer)
    missing = [n for n, e in parameters.items() if id(e) not in used and len(e["shape"]) > 1]
    if missing:
        raise ValueError(f"no parameter of the module is {', '.join(missing)}")
    return changed


class Block(nn.Module):
    """Attention and a feed-forward part; `heads` is the number that pruning changes."""

    def __init__(self, width: int = 32, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.size = heads, width // heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key = nn.Linear(width, width), nn.Linear(width, width)
        self.value, self.out = nn.Linear(width, width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return x [N, T, width] after attention and feed-forward."""
        h = self.norm1(x)
        q, k, v = (
            layer(h).view(h.shape[0], h.shape[1], self.heads, self.size).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        mixed = (q @ k.transpose(2, 3) / self.size**0.5).softmax(-1) @ v
        x = x + self.out(mixed.transpose(1, 2).reshape(x.shape[0], x.shape[1], -1))
        return x + self.down(torch.relu(self.up(self.norm2(x))))


class Net(nn.Module):
    """A convolutional stem with a depth-wise layer, two transformer blocks, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 24, 3, padding=1, groups=24),
            nn.ReLU(), nn.Conv2d(24, 32, 4, stride=4),
        )  # fmt: skip
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(32, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores [N, 5] of images [N, 3, H, W]."""
        x = self.stem(x).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


def main(folder: Path) -> None:
    """Run the whole way and check every step."""
    torch.manual_seed(0)
    net = Net().eval()
    images, labels = torch.randn(64, 3, 16, 16), torch.randint(0, 5, (64,))
    dense, small, plan, kept = (
        str(folder / n) for n in ("dense.onnx", "small.onnx", "plan.json", "kept.json")
    )
    torch.onnx.export(net, (images[:2],), dense, dynamo=False, input_names=["x"])
    tool = shlex.split(os.environ.get("ONNXPRUNE", "onnxprune"))
    # Not the width of heads: `forward` divides by its root, and the pruned file by the old one's.
    what = ("--sparsity", "0.5", "--structure", "heads,ffn,channels")
    subprocess.run([*tool, "prune", dense, "-o", small, "--plan", plan, *what], check=True)
    subprocess.run(
        [*tool, "export-plan", plan, "--framework", "torch", "--model", dense, "-o", kept],
        check=True,
    )

    changed = prune_module(net, json.loads(Path(kept).read_text()))
    for block in net.blocks:
        block.heads = block.query.out_features // block.size
    print(len(changed), "parameters cut:", ", ".join(changed[:4]), "...")
    with torch.no_grad():
        mine = net(images[:2]).numpy()
    session = ort.InferenceSession(small, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"x": images[:2].numpy()})[0]
    print("module against pruned file, largest difference:", float(np.abs(mine - theirs).max()))
    assert np.allclose(mine, theirs, atol=1e-4)

    optimizer = torch.optim.Adam(net.parameters(), 1e-3)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    print(f"fine-tuning: loss {losses[0]:.3f} -> {losses[-1]:.3f}")
    assert losses[-1] < losses[0]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python finetune_torch.py FOLDER")
    main(Path(sys.argv[1]))
