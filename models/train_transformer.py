"""Train digits_transformer.onnx: a small vision transformer with a class token.

The layout is that of ViT with the normalisation before each branch (Dosovitskiy et al. 2021,
arXiv:2010.11929): 16 patches of 4x4 pixels, 64 features, 3 blocks, 4 heads, a class token and
learned positions. Attention is written out (MatMul, Softmax, Reshape, Transpose).
"""

from __future__ import annotations

import torch
from torch import nn
from training import export, fit, seed_everything


class Attention(nn.Module):
    """Multi-head self-attention with one projection for queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.head = heads, width // heads
        self.qkv = nn.Linear(width, 3 * width)
        self.project = nn.Linear(width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, tokens, width] -> the same shape."""
        batch, tokens, width = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.heads, self.head).permute(2, 0, 3, 1, 4)
        query, key, value = qkv[0], qkv[1], qkv[2]
        weights = (query * self.head**-0.5 @ key.transpose(-2, -1)).softmax(dim=-1)
        return self.project((weights @ value).transpose(1, 2).reshape(batch, tokens, width))


class Mlp(nn.Module):
    """Two linear layers with a GELU between them."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.widen = nn.Linear(width, hidden)
        self.gelu = nn.GELU()
        self.narrow = nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, tokens, width] -> the same shape."""
        return self.narrow(self.gelu(self.widen(x)))


class Block(nn.Module):
    """Attention and MLP, each normalised before and added to the stream after."""

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, tokens, width] -> the same shape."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Transformer(nn.Module):
    """Images [N, 1, 16, 16] to logits [N, 10]."""

    def __init__(self, width: int = 64, depth: int = 3, heads: int = 4, hidden: int = 256) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, width, 4, 4)
        self.class_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.positions = nn.Parameter(torch.randn(1, 17, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(width, heads, hidden) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.classifier = nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, before softmax."""
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.class_token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        return self.classifier(self.norm(self.blocks(x))[:, 0])


if __name__ == "__main__":
    seed_everything(0)
    net = fit(Transformer(), epochs=150, rate=1.5e-3, weight_l1=3e-5)
    export(net, "digits_transformer.onnx", fold_batch_norm=True)
