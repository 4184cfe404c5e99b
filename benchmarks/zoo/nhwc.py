"""Networks spelled the TensorFlow way: NHWC tensors, a Transpose around every convolution.

tf2onnx writes such graphs: activations, biases, Concat and pooling reductions work on the last
axis, convolutions and pools are wrapped in Transposes, dense layers are MatMul + Add, "SAME"
padding is an explicit Pad where strides make it uneven.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .registry import case

Built = tuple[nn.Module, tuple[Any, ...]]

_FIELDS: dict[str, Any] = {
    "post": ("keras",),
    "unfolded": True,
    "dynamic": {"input": {0: "batch"}},
}


class _Conv(nn.Module):
    """Conv2D of Keras: NHWC in and out, no bias, SAME padding as TensorFlow counts it."""

    def __init__(
        self, cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1
    ) -> None:
        super().__init__()
        uneven = stride > 1
        self.pad = kernel - stride if uneven else 0
        padding = 0 if uneven else kernel // 2
        self.conv = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pad > 0:  # TensorFlow pads the odd row at the end
            before, after = self.pad // 2, self.pad - self.pad // 2
            x = F.pad(x, (0, 0, before, after, before, after))
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Bias(nn.Module):
    """BiasAdd on the last axis."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.bias


class _Norm(nn.Module):
    """FusedBatchNorm on NHWC: transposed to NCHW and back, as tf2onnx does."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(width, eps=1e-3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class _Dense(nn.Module):
    """MatMul with a [in, out] matrix, then Add."""

    def __init__(self, cin: int, cout: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(cin, cout) / cin**0.5)
        self.bias = nn.Parameter(torch.zeros(cout))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.matmul(x, self.kernel) + self.bias


def _relu6(x: torch.Tensor) -> torch.Tensor:
    return x.clamp(0.0, 6.0)


@case("keras_mobilenet_v2", family="keras", opset=13, **_FIELDS)
def keras_mobilenet_v2() -> Built:
    class Block(nn.Module):
        def __init__(self, cin: int, cout: int, stride: int) -> None:
            super().__init__()
            mid = 4 * cin
            self.expand, self.norm1 = _Conv(cin, mid, 1), _Norm(mid)
            self.deep, self.norm2 = _Conv(mid, mid, 3, stride, mid), _Norm(mid)
            self.project, self.norm3 = _Conv(mid, cout, 1), _Norm(cout)
            self.skip = stride == 1 and cin == cout

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = _relu6(self.norm1(self.expand(x)))
            y = _relu6(self.norm2(self.deep(y)))
            y = self.norm3(self.project(y))
            return x + y if self.skip else y

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = _Conv(3, 16, 3, 2), _Norm(16)
            plan = ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2), (32, 32, 1))
            self.blocks = nn.Sequential(*(Block(*row) for row in plan))
            self.head = _Dense(32, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.blocks(_relu6(self.norm(self.stem(x))))
            return self.head(x.mean((1, 2))).softmax(-1)

    return Net(), (torch.randn(1, 32, 32, 3),)


@case("keras_resnet", family="keras", opset=11, **_FIELDS)
def keras_resnet() -> Built:
    class Block(nn.Module):
        def __init__(self, cin: int, cout: int, stride: int) -> None:
            super().__init__()
            self.a, self.na = _Conv(cin, cout, 3, stride), _Norm(cout)
            self.b, self.nb = _Conv(cout, cout), _Norm(cout)
            self.short = _Conv(cin, cout, 1, stride) if stride > 1 else None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.nb(self.b(torch.relu(self.na(self.a(x)))))
            return torch.relu(y + (x if self.short is None else self.short(x)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.bias = _Conv(3, 16), _Bias(16)
            plan = ((16, 16, 1), (16, 32, 2), (32, 32, 1), (32, 48, 2))
            self.blocks = nn.Sequential(*(Block(*row) for row in plan))
            self.head = _Dense(48 * 4, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.blocks(torch.relu(self.bias(self.stem(x))))
            x = F.avg_pool2d(x.permute(0, 3, 1, 2), 4).permute(0, 2, 3, 1)
            return self.head(x.reshape(-1, 4 * 48))  # flatten in NHWC order

    return Net(), (torch.randn(1, 32, 32, 3),)


@case("keras_inception_se", family="keras", opset=17, **_FIELDS)
def keras_inception_se() -> Built:
    class Gate(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b = _Dense(width, width // 4), _Dense(width // 4, width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            gate = torch.sigmoid(self.b(torch.relu(self.a(x.mean((1, 2))))))
            return x * gate.reshape(-1, 1, 1, x.shape[3])

    class Block(nn.Module):
        def __init__(self, cin: int, widths: tuple[int, int, int]) -> None:
            super().__init__()
            self.one, self.three, self.five = (
                _Conv(cin, widths[0], 1),
                _Conv(cin, widths[1]),
                _Conv(cin, widths[2], 5),
            )
            self.bias, self.gate = _Bias(sum(widths)), Gate(sum(widths))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.cat([self.one(x), self.three(x), self.five(x)], -1)
            return self.gate(torch.relu(self.bias(y)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = _Conv(3, 16, 3, 2), _Norm(16)
            self.a, self.b = Block(16, (8, 16, 8)), Block(32, (16, 24, 8))
            self.head = _Dense(48, 10)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(torch.relu(self.norm(self.stem(x))))
            x = F.max_pool2d(x.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1)
            return self.head(self.b(x).mean((1, 2)))

    return Net(), (torch.randn(1, 32, 32, 3),)


@case("keras_kws_dscnn", family="keras", kind="audio", opset=13, **_FIELDS)
def keras_kws_dscnn() -> Built:
    """Keyword spotting on [N, 49, 10, 1]: convolution then depth-wise separable blocks."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.norm = _Conv(1, 32, 5, 2), _Norm(32)
            self.deep = nn.ModuleList([_Conv(32, 32, 3, 1, 32) for _ in range(3)])
            self.point = nn.ModuleList([_Conv(32, 32, 1) for _ in range(3)])
            self.norms = nn.ModuleList([_Norm(32) for _ in range(6)])
            self.head = _Dense(32, 12)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = torch.relu(self.norm(self.stem(x)))
            for index, (deep, point) in enumerate(zip(self.deep, self.point, strict=True)):
                x = torch.relu(self.norms[2 * index](deep(x)))
                x = torch.relu(self.norms[2 * index + 1](point(x)))
            return self.head(x.mean((1, 2))).softmax(-1)

    return Net(), (torch.randn(1, 49, 10, 1),)


@case("keras_unet", family="keras", kind="segmentation", opset=13, **_FIELDS)
def keras_unet() -> Built:
    """Encoder / decoder with Conv2DTranspose and skips concatenated on the last axis."""

    class Up(nn.Module):
        def __init__(self, cin: int, cout: int) -> None:
            super().__init__()
            self.up = nn.ConvTranspose2d(cin, cout, 2, 2, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.up(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.e1, self.n1 = _Conv(3, 16), _Norm(16)
            self.e2, self.n2 = _Conv(16, 24, 3, 2), _Norm(24)
            self.e3, self.n3 = _Conv(24, 32, 3, 2), _Norm(32)
            self.u2, self.d2, self.b2 = Up(32, 24), _Conv(48, 24), _Bias(24)
            self.u1, self.d1, self.b1 = Up(24, 16), _Conv(32, 16), _Bias(16)
            self.head, self.bias = _Conv(16, 2, 1), _Bias(2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = torch.relu(self.n1(self.e1(x)))
            b = torch.relu(self.n2(self.e2(a)))
            c = torch.relu(self.n3(self.e3(b)))
            y = torch.relu(self.b2(self.d2(torch.cat([b, self.u2(c)], -1))))
            y = torch.relu(self.b1(self.d1(torch.cat([a, self.u1(y)], -1))))
            return torch.sigmoid(self.bias(self.head(y)))

    return Net(), (torch.randn(1, 32, 32, 3),)
