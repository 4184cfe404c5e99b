"""Train digits_mobile.onnx: depth-wise, squeeze-and-excitation, concat, channel shuffle.

Parts of three published designs in one small net: the inverted residual of MobileNetV2
(arXiv:1801.04381) with the gate of squeeze-and-excitation (arXiv:1709.01507), and both units of
ShuffleNetV2 (arXiv:1807.11164). BatchNormalization is folded into the convolutions at export, as
deployed networks mostly have it.
"""

from __future__ import annotations

import torch
from torch import nn
from training import export, fit, seed_everything


def conv(
    inputs: int, outputs: int, size: int, stride: int = 1, groups: int = 1, act: bool = True
) -> nn.Sequential:
    """Convolution, BatchNormalization and, where ``act``, a HardSwish."""
    layers: list[nn.Module] = [
        nn.Conv2d(inputs, outputs, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, nn.Hardswish()) if act else nn.Sequential(*layers)


class Gate(nn.Module):
    """Squeeze-and-excitation: each channel times a number in 0..1 computed from all channels."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.reduce = nn.Conv2d(channels, inner, 1)
        self.relu = nn.ReLU()
        self.expand = nn.Conv2d(inner, channels, 1)
        self.sigmoid = nn.Sigmoid()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] -> the same shape."""
        return x * self.sigmoid(self.expand(self.relu(self.reduce(self.pool(x)))))


class InvertedResidual(nn.Module):
    """Widen by a 1x1, filter depth-wise, gate, narrow by a 1x1, and add the input."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.widen = conv(channels, hidden, 1)
        self.depthwise = conv(hidden, hidden, 3, groups=hidden)
        self.gate = Gate(hidden, hidden // 4)
        self.narrow = conv(hidden, channels, 1, act=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, H, W] -> the same shape."""
        return x + self.narrow(self.gate(self.depthwise(self.widen(x))))


class Shuffle(nn.Module):
    """Interleave the two halves of the channels."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.channels, self.size = channels, size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, size, size] -> the same shape."""
        x = x.reshape(-1, 2, self.channels // 2, self.size, self.size).transpose(1, 2)
        return x.reshape(-1, self.channels, self.size, self.size)


class Down(nn.Module):
    """ShuffleNetV2 unit of stride 2: two branches from the whole input, concatenated, shuffled."""

    def __init__(self, inputs: int, outputs: int, size: int) -> None:
        super().__init__()
        half = outputs // 2
        self.left = nn.Sequential(
            conv(inputs, inputs, 3, 2, groups=inputs, act=False), conv(inputs, half, 1)
        )
        self.right = nn.Sequential(
            conv(inputs, half, 1),
            conv(half, half, 3, 2, groups=half, act=False),
            conv(half, half, 1),
        )
        self.shuffle = Shuffle(outputs, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, inputs, 2 size, 2 size] -> [N, outputs, size, size]."""
        return self.shuffle(torch.cat([self.left(x), self.right(x)], dim=1))


class Unit(nn.Module):
    """ShuffleNetV2 unit of stride 1: half of the channels pass, the others are computed anew."""

    def __init__(self, channels: int, size: int) -> None:
        super().__init__()
        self.half = half = channels // 2
        self.right = nn.Sequential(
            conv(half, half, 1), conv(half, half, 3, groups=half, act=False), conv(half, half, 1)
        )
        self.shuffle = Shuffle(channels, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[N, channels, size, size] -> the same shape."""
        left, right = x.split([self.half, self.half], dim=1)
        return self.shuffle(torch.cat([left, self.right(right)], dim=1))


class Mobile(nn.Module):
    """Images [N, 1, 16, 16] to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv(1, 32, 3)
        self.residual1 = InvertedResidual(32, 96)
        self.down1 = Down(32, 64, size=8)
        self.unit1 = Unit(64, size=8)
        self.residual2 = InvertedResidual(64, 192)
        self.down2 = Down(64, 128, size=4)
        self.unit2 = Unit(128, size=4)
        self.head = conv(128, 256, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(256, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits, before softmax."""
        x = self.unit1(self.down1(self.residual1(self.stem(x))))
        x = self.head(self.unit2(self.down2(self.residual2(x))))
        return self.classifier(self.pool(x).flatten(1))


if __name__ == "__main__":
    seed_everything(0)
    net = fit(Mobile(), epochs=80, rate=5e-3, weight_l1=1e-4, scale_l1=1e-3)
    export(net, "digits_mobile.onnx", fold_batch_norm=True)
