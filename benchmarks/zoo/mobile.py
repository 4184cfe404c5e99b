"""Networks built around grouped convolutions and channel shuffles, own definitions."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Residual, SqueezeExcite, conv_bn, image, pool_head
from .registry import BATCH, BHW, case

Built = tuple[nn.Module, tuple[Any, ...]]


def _shuffle(x: torch.Tensor, groups: int) -> torch.Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).reshape(batch, channels, height, width)


class _ShuffleUnitV1(nn.Module):
    """ShuffleNet unit (Zhang et al. 2017, arXiv:1707.01083)."""

    def __init__(self, cin: int, cout: int, stride: int, groups: int) -> None:
        super().__init__()
        self.stride, self.groups = stride, groups
        out = cout - cin if stride == 2 else cout
        mid = cout // 4
        self.squeeze = conv_bn(cin, mid, 1, groups=1 if cin % groups or cin < 32 else groups)
        self.deep = conv_bn(mid, mid, 3, stride, groups=mid, act=None)
        self.expand = conv_bn(mid, out, 1, groups=groups, act=None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.expand(self.deep(_shuffle(self.squeeze(x), self.groups)))
        if self.stride == 2:
            return torch.relu(torch.cat([F.avg_pool2d(x, 3, 2, 1), y], 1))
        return torch.relu(x + y)


@case(
    "shufflenet_v1_g3",
    family="shufflenet",
    opset=13,
    variants={
        "dynamo": {"exporter": "dynamo", "opset": 18},
        "dynamic": {"dynamic": BHW, "opset": 17},
    },
)
def shufflenet_v1() -> Built:
    parts: list[nn.Module] = [conv_bn(3, 24, 3, 2)]
    cin = 24
    for cout, blocks in ((60, 3), (120, 4), (240, 2)):
        for block in range(blocks):
            parts.append(_ShuffleUnitV1(cin, cout, 1 if block else 2, 3))
            cin = cout
    return nn.Sequential(*parts, pool_head(cin)), (image(64),)


class _ShuffleUnitV2(nn.Module):
    """ShuffleNet V2 unit (Ma et al. 2018, arXiv:1807.11164)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        half = cout // 2
        self.left = None
        if stride == 2:
            self.left = nn.Sequential(
                conv_bn(cin, cin, 3, 2, groups=cin, act=None), conv_bn(cin, half, 1)
            )
        self.right = nn.Sequential(
            conv_bn(cin if stride == 2 else half, half, 1),
            conv_bn(half, half, 3, stride, groups=half, act=None),
            conv_bn(half, half, 1),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.left is not None:
            y = torch.cat([self.left(x), self.right(x)], 1)
        else:
            keep, work = x.chunk(2, dim=1)
            y = torch.cat([keep, self.right(work)], 1)
        return _shuffle(y, 2)


def _shufflenet_v2(plan: tuple[tuple[int, int], ...], last: int) -> Built:
    parts: list[nn.Module] = [conv_bn(3, 24, 3, 2), nn.MaxPool2d(3, 2, 1)]
    cin = 24
    for cout, blocks in plan:
        for block in range(blocks):
            parts.append(_ShuffleUnitV2(cin, cout, 1 if block else 2))
            cin = cout
    return nn.Sequential(*parts, conv_bn(cin, last, 1), pool_head(last)), (image(64),)


@case(
    "shufflenet_v2_x0_5",
    family="shufflenet",
    opset=13,
    dynamic=BATCH,
    variants={
        "dynamo": {"exporter": "dynamo", "opset": 18},
        "dynamic": {"dynamic": BHW, "opset": 17},
        "static": {"dynamic": {}, "opset": 11},
        "unfolded": {"unfolded": True},
    },
)
def shufflenet_v2_x0_5() -> Built:
    return _shufflenet_v2(((48, 4), (96, 8), (192, 4)), 512)


@case("shufflenet_v2_x1_0", family="shufflenet", opset=17)
def shufflenet_v2_x1_0() -> Built:
    return _shufflenet_v2(((116, 3), (232, 4), (464, 2)), 512)


class _Inverted(nn.Module):
    """MobileNetV2 / V3 block with optional gate, written out as in torchvision."""

    def __init__(
        self, cin: int, mid: int, cout: int, stride: int, gate: bool, act: type[nn.Module]
    ) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        if mid != cin:
            parts.append(conv_bn(cin, mid, 1, act=act))
        parts.append(conv_bn(mid, mid, 3, stride, groups=mid, act=act))
        if gate:
            parts.append(SqueezeExcite(mid, gate=nn.Hardsigmoid))
        parts.append(conv_bn(mid, cout, 1, act=None))
        self.body = nn.Sequential(*parts)
        self.skip = stride == 1 and cin == cout

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.skip else self.body(x)


@case(
    "mobilenet_v2_tv",
    family="mobilenet",
    opset=11,
    dynamic=BATCH,
    variants={"opset7": {"opset": 7}},
)
def mobilenet_v2_tv() -> Built:
    parts: list[nn.Module] = [conv_bn(3, 16, 3, 2, act=nn.ReLU6)]
    cin = 16
    for expand, cout, blocks, stride in ((1, 8, 1, 1), (6, 16, 2, 2), (6, 24, 3, 2), (6, 48, 3, 2)):
        for block in range(blocks):
            first = stride if block == 0 else 1
            parts.append(_Inverted(cin, cin * expand, cout, first, False, nn.ReLU6))
            cin = cout
    return nn.Sequential(*parts, conv_bn(cin, 160, 1, act=nn.ReLU6), pool_head(160)), (image(64),)


@case(
    "mobilenet_v3_tv",
    family="mobilenet",
    opset=13,
    dynamic=BHW,
    variants={"opset17": {"opset": 17}, "dynamo": {"exporter": "dynamo", "opset": 18}},
)
def mobilenet_v3_tv() -> Built:
    parts: list[nn.Module] = [conv_bn(3, 16, 3, 2, act=nn.Hardswish)]
    cin = 16
    plan = ((16, 16, 2, True, nn.ReLU), (72, 24, 2, False, nn.ReLU), (88, 24, 1, False, nn.ReLU))
    tail = ((96, 40, 2, True), (240, 40, 1, True), (120, 48, 1, True), (144, 48, 1, True))
    for mid, cout, stride, gate, act in (*plan, *((*row, nn.Hardswish) for row in tail)):
        parts.append(_Inverted(cin, mid, cout, stride, gate, act))
        cin = cout
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(192, 256), nn.Hardswish()]
    parts += [conv_bn(cin, 192, 1, act=nn.Hardswish), *head, nn.Dropout(), nn.Linear(256, 10)]
    return nn.Sequential(*parts), (image(64),)


@case("grouped_net", family="grouped", opset=13, dynamic=BATCH)
def grouped_net() -> Built:
    """Grouped convolutions in a row, group counts differ, one depth-wise with multiplier 2."""
    net = nn.Sequential(
        conv_bn(3, 32, 3, 2),
        conv_bn(32, 64, 3, 1, groups=4),
        conv_bn(64, 64, 3, 2, groups=8),
        conv_bn(64, 128, 3, 1, groups=64),
        conv_bn(128, 96, 3, 2, groups=2),
        conv_bn(96, 96, 1, 1, groups=32),
        pool_head(96),
    )
    return net, (image(64),)


@case("igc_interleaved", family="grouped", opset=17, dynamic=BATCH)
def igc_interleaved() -> Built:
    """Interleaved group convolutions (Zhang et al. 2017): grouped, shuffled, grouped again."""

    class Unit(nn.Module):
        def __init__(self, channels: int, primary: int) -> None:
            super().__init__()
            self.primary = primary
            self.first = nn.Conv2d(channels, channels, 3, padding=1, groups=primary, bias=False)
            other = channels // primary
            self.second = conv_bn(channels, channels, 1, groups=other)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.second(_shuffle(self.first(x), self.primary))
            return _shuffle(y, y.shape[1] // self.primary)

    parts: list[nn.Module] = [conv_bn(3, 32, 3, 2), Residual(Unit(32, 8)), Residual(Unit(32, 4))]
    return nn.Sequential(*parts, conv_bn(32, 64, 3, 2), Unit(64, 16), pool_head(64)), (image(64),)


@case("condense_tied", family="tied", opset=13, dynamic=BATCH)
def condense_tied() -> Built:
    """A recurrent residual network: the same block weights are used three times (tied)."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = conv_bn(3, 32, 3, 2)
            self.block = nn.Sequential(
                nn.Conv2d(32, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 32, 3, padding=1)
            )
            self.head = pool_head(32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            for _ in range(3):
                x = torch.relu(x + 0.5 * self.block(x))
            return self.head(x)

    return Tied(), (image(32),)
