"""Classification networks of 2012-2018 at reduced width, own definitions after the papers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import (
    Branches,
    Residual,
    SqueezeExcite,
    SqueezeExciteLinear,
    conv_bn,
    image,
    pool_head,
)
from .registry import BATCH, BHW, case

Built = tuple[nn.Module, tuple[Any, ...]]


@case("alexnet", family="alexnet", opset=11, dynamic=BATCH)
def alexnet() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 32, 11, 4, 2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 96, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(96, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(3, 2),
        nn.AdaptiveAvgPool2d((3, 3)),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(64 * 9, 256),
        nn.ReLU(inplace=True),
        nn.Dropout(),
        nn.Linear(256, 128),
        nn.ReLU(inplace=True),
        nn.Linear(128, 10),
    )
    return net, (image(127),)


@case("zfnet_lrn", family="alexnet", opset=13)
def zfnet_lrn() -> Built:
    net = nn.Sequential(
        nn.Conv2d(3, 24, 7, 2, 1),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.LocalResponseNorm(5, alpha=1e-2),
        nn.Conv2d(24, 48, 5, 2, 2, groups=2),
        nn.ReLU(),
        nn.LocalResponseNorm(5, alpha=1e-2),
        nn.Conv2d(48, 64, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(64, 48, 3, padding=1, groups=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Flatten(),
        nn.Linear(48 * 16, 128),
        nn.ReLU(),
        nn.Linear(128, 10),
    )
    return net, (image(64),)


def _vgg(plan: tuple[int | str, ...], norm: bool) -> nn.Module:
    parts: list[nn.Module] = []
    channels = 3
    for item in plan:
        if isinstance(item, str):
            parts.append(nn.MaxPool2d(2, 2))
            continue
        parts.append(nn.Conv2d(channels, item, 3, padding=1))
        if norm:
            parts.append(nn.BatchNorm2d(item))
        parts.append(nn.ReLU(inplace=True))
        channels = item
    head = [nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(channels * 4, 256), nn.ReLU(True)]
    head += [nn.Dropout(), nn.Linear(256, 256), nn.ReLU(True), nn.Dropout(), nn.Linear(256, 10)]
    return nn.Sequential(*parts, *head)


@case("vgg11", family="vgg", opset=13, variants={"constants": {"post": ("constants",)}})
def vgg11() -> Built:
    return _vgg((16, "M", 32, "M", 64, 64, "M", 96, 96, "M", 96, 96, "M"), False), (image(64),)


@case(
    "vgg16_bn",
    family="vgg",
    opset=13,
    dynamic=BATCH,
    variants={"unfolded": {"unfolded": True}, "dynamo": {"exporter": "dynamo", "opset": 18}},
)
def vgg16_bn() -> Built:
    plan = (16, 16, "M", 32, 32, "M", 64, 64, 64, "M", 96, 96, 96, "M", 96, 96, 96, "M")
    return _vgg(plan, True), (image(64),)


def _basic(cin: int, cout: int, stride: int, extra: nn.Module | None = None) -> nn.Module:
    parts = [conv_bn(cin, cout, 3, stride), conv_bn(cout, cout, 3, act=None)]
    if extra is not None:
        parts.append(extra)
    shortcut = conv_bn(cin, cout, 1, stride, act=None) if stride > 1 or cin != cout else None
    return Residual(nn.Sequential(*parts), shortcut, nn.ReLU(inplace=True))


def _bottleneck(
    cin: int, mid: int, cout: int, stride: int, groups: int = 1, extra: nn.Module | None = None
) -> nn.Module:
    parts = [
        conv_bn(cin, mid, 1),
        conv_bn(mid, mid, 3, stride, groups),
        conv_bn(mid, cout, 1, act=None),
    ]
    if extra is not None:
        parts.append(extra)
    shortcut = conv_bn(cin, cout, 1, stride, act=None) if stride > 1 or cin != cout else None
    return Residual(nn.Sequential(*parts), shortcut, nn.ReLU(inplace=True))


def _stem(width: int) -> nn.Sequential:
    return nn.Sequential(conv_bn(3, width, 7, 2), nn.MaxPool2d(3, 2, 1))


_RESNET_VARIANTS = {
    "unfolded": {"unfolded": True, "opset": 13},
    "dynamo": {"exporter": "dynamo", "opset": 18},
    "newest": {"exporter": "dynamo", "opset": 23, "unfolded": True},
    "ort": {"post": ("ort",)},
    "opset11": {"opset": 11, "dynamic": {}},
    "nameless": {"post": ("nameless",)},
}


@case("resnet18", family="resnet", dynamic=BHW, variants=_RESNET_VARIANTS)
def resnet18() -> Built:
    parts: list[nn.Module] = [_stem(16)]
    cin = 16
    for width, stride in ((16, 1), (32, 2), (64, 2), (128, 2)):
        parts += [_basic(cin, width, stride), _basic(width, width, 1)]
        cin = width
    return nn.Sequential(*parts, pool_head(cin)), (image(64),)


def _resnet50(
    width: int, groups: int, mid: float, depth: tuple[int, ...], se: bool = False
) -> Built:
    parts: list[nn.Module] = [_stem(width)]
    cin = width
    for stage, count in enumerate(depth):
        cout = 4 * width * 2**stage
        for block in range(count):
            stride = 2 if stage and not block else 1
            gate = SqueezeExciteLinear(cout, 8) if se else None
            inner = int(width * 2**stage * mid)
            parts.append(_bottleneck(cin, inner, cout, stride, groups, gate))
            cin = cout
    return nn.Sequential(*parts, pool_head(cin)), (image(64),)


@case(
    "resnet50",
    family="resnet",
    opset=13,
    dynamic=BATCH,
    variants={"dynamo": {"exporter": "dynamo", "opset": 20}},
)
def resnet50() -> Built:
    return _resnet50(16, 1, 1, (3, 4, 6, 3))


@case(
    "resnext50",
    family="resnext",
    opset=13,
    variants={"dynamo": {"exporter": "dynamo", "opset": 18}},
)
def resnext50() -> Built:
    return _resnet50(16, 8, 2, (3, 4, 6, 3))


@case("wide_resnet50", family="wide_resnet", opset=17, dynamic=BATCH)
def wide_resnet50() -> Built:
    return _resnet50(12, 1, 2, (3, 4, 6, 3))


@case(
    "se_resnet50",
    family="senet",
    opset=13,
    dynamic=BATCH,
    variants={"unfolded": {"unfolded": True}},
)
def se_resnet50() -> Built:
    return _resnet50(16, 1, 1, (2, 3, 3, 2), se=True)


class _OptionA(nn.Module):
    """Parameter-free shortcut: stride by slicing, channels by zero padding (He et al. 2015, A)."""

    def __init__(self, extra: int) -> None:
        super().__init__()
        self.extra = extra

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2))


@case(
    "resnet20_option_a",
    family="resnet_option_a",
    opset=11,
    dynamic=BATCH,
    variants={
        "dynamo": {"exporter": "dynamo", "opset": 18},
        "unfolded": {"unfolded": True, "opset": 17},
    },
)
def resnet20_option_a() -> Built:
    parts: list[nn.Module] = [conv_bn(3, 16)]
    cin = 16
    for width in (16, 32, 64):
        for block in range(3):
            stride = 2 if width != cin and not block else 1
            body = nn.Sequential(conv_bn(cin, width, 3, stride), conv_bn(width, width, act=None))
            shortcut = _OptionA(width - cin) if stride == 2 else None
            parts.append(Residual(body, shortcut, nn.ReLU()))
            cin = width
    return nn.Sequential(*parts, pool_head(cin)), (image(32),)


class _PreAct(nn.Module):
    """Pre-activation block (He et al. 2016, arXiv:1603.05027): BN, ReLU before each convolution."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(cin)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.down = nn.Conv2d(cin, cout, 1, stride, bias=False) if cin != cout else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.norm1(x))
        shortcut = x if self.down is None else self.down(y)
        return self.conv2(torch.relu(self.norm2(self.conv1(y)))) + shortcut


@case("preact_resnet18", family="resnet", opset=18, dynamic=BATCH)
def preact_resnet18() -> Built:
    parts: list[nn.Module] = [nn.Conv2d(3, 16, 3, padding=1, bias=False)]
    cin = 16
    for width in (16, 32, 64, 96):
        parts += [_PreAct(cin, width, 1 if width == 16 else 2), _PreAct(width, width, 1)]
        cin = width
    return nn.Sequential(*parts, nn.BatchNorm2d(cin), nn.ReLU(), pool_head(cin)), (image(32),)


class _DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(cin),
            nn.ReLU(inplace=False),
            nn.Conv2d(cin, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.body(x)], 1)


@case(
    "densenet121",
    family="densenet",
    opset=13,
    dynamic=BATCH,
    variants={"dynamo": {"exporter": "dynamo", "opset": 18}, "unfolded": {"unfolded": True}},
)
def densenet121() -> Built:
    growth, channels = 12, 24
    parts: list[nn.Module] = [_stem(channels)]
    for stage, layers in enumerate((4, 6, 8, 6)):
        for _ in range(layers):
            parts.append(_DenseLayer(channels, growth))
            channels += growth
        if stage < 3:
            parts += [nn.BatchNorm2d(channels), nn.ReLU()]
            parts += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
            channels //= 2
    return nn.Sequential(*parts, nn.BatchNorm2d(channels), nn.ReLU(), pool_head(channels)), (
        image(64),
    )


class _Fire(nn.Module):
    def __init__(self, cin: int, squeeze: int, expand: int) -> None:
        super().__init__()
        self.squeeze = nn.Sequential(nn.Conv2d(cin, squeeze, 1), nn.ReLU())
        self.expand = Branches(
            nn.Sequential(nn.Conv2d(squeeze, expand, 1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(squeeze, expand, 3, padding=1), nn.ReLU()),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.expand(self.squeeze(x))


def _squeezenet(skip: bool) -> Built:
    parts: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    cin = 32
    for index, (squeeze, expand) in enumerate(
        ((8, 32), (8, 32), (16, 48), (16, 48), (24, 64), (24, 64))
    ):
        fire = _Fire(cin, squeeze, expand)
        parts.append(Residual(fire) if skip and cin == 2 * expand else fire)
        if index in (1, 3):
            parts.append(nn.MaxPool2d(3, 2, ceil_mode=True))
        cin = 2 * expand
    parts += [nn.Dropout(), nn.Conv2d(cin, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*parts), (image(64),)


@case("squeezenet1_1", family="squeezenet", opset=11, dynamic=BATCH)
def squeezenet1_1() -> Built:
    return _squeezenet(False)


@case("squeezenet_bypass", family="squeezenet", opset=17)
def squeezenet_bypass() -> Built:
    return _squeezenet(True)


def _inception(cin: int, a: int, b: tuple[int, int], c: tuple[int, int], d: int) -> nn.Module:
    return Branches(
        conv_bn(cin, a, 1),
        nn.Sequential(conv_bn(cin, b[0], 1), conv_bn(b[0], b[1], 3)),
        nn.Sequential(conv_bn(cin, c[0], 1), conv_bn(c[0], c[1], 5)),
        nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(cin, d, 1)),
    )


@case(
    "googlenet",
    family="inception",
    opset=13,
    dynamic=BATCH,
    variants={"dynamo": {"exporter": "dynamo", "opset": 18}},
)
def googlenet() -> Built:
    net = nn.Sequential(
        conv_bn(3, 16, 7, 2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        conv_bn(16, 16, 1),
        conv_bn(16, 48, 3),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _inception(48, 16, (24, 32), (4, 8), 8),
        _inception(64, 32, (32, 48), (8, 24), 16),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        _inception(120, 48, (24, 52), (4, 12), 16),
        _inception(128, 40, (28, 56), (6, 16), 16),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        _inception(128, 64, (40, 80), (8, 32), 32),
        pool_head(208),
    )
    return net, (image(96),)


def _inception_v3_a(cin: int, pool: int) -> nn.Module:
    return Branches(
        conv_bn(cin, 16, 1),
        nn.Sequential(conv_bn(cin, 12, 1), conv_bn(12, 16, 5)),
        nn.Sequential(conv_bn(cin, 16, 1), conv_bn(16, 24, 3), conv_bn(24, 24, 3)),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(cin, pool, 1)),
    )


def _inception_v3_c(cin: int, mid: int) -> nn.Module:
    row, column = (1, 7), (7, 1)
    return Branches(
        conv_bn(cin, 48, 1),
        nn.Sequential(conv_bn(cin, mid, 1), conv_bn(mid, mid, row), conv_bn(mid, 48, column)),
        nn.Sequential(
            conv_bn(cin, mid, 1),
            conv_bn(mid, mid, column),
            conv_bn(mid, mid, row),
            conv_bn(mid, mid, column),
            conv_bn(mid, 48, row),
        ),
        nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(cin, 48, 1)),
    )


class _InceptionE(nn.Module):
    """Last block: branches that fork again and are concatenated twice."""

    def __init__(self, cin: int) -> None:
        super().__init__()
        self.one = conv_bn(cin, 32, 1)
        self.two = conv_bn(cin, 48, 1)
        self.two_split = Branches(conv_bn(48, 48, (1, 3)), conv_bn(48, 48, (3, 1)))
        self.pool = nn.Sequential(nn.AvgPool2d(3, 1, 1), conv_bn(cin, 32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([self.one(x), self.two_split(self.two(x)), self.pool(x)], 1)


@case(
    "inception_v3",
    family="inception",
    opset=17,
    dynamic=BATCH,
    variants={"ort": {"post": ("ort",)}},
)
def inception_v3() -> Built:
    def cut(cin: int) -> nn.Module:
        return Branches(conv_bn(cin, 48, 3, 2, padding=0), nn.MaxPool2d(3, 2))

    net = nn.Sequential(
        conv_bn(3, 8, 3, 2, padding=0),
        conv_bn(8, 16, 3),
        nn.MaxPool2d(3, 2),
        conv_bn(16, 24, 1),
        _inception_v3_a(24, 8),
        _inception_v3_a(64, 16),
        cut(72),
        _inception_v3_c(120, 24),
        _inception_v3_c(192, 32),
        cut(192),
        _InceptionE(240),
        pool_head(160),
    )
    return net, (image(107),)


@case("nin", family="nin", opset=13, dynamic=BATCH)
def nin() -> Built:
    def block(cin: int, cout: int, kernel: int) -> list[nn.Module]:
        first = nn.Conv2d(cin, cout, kernel, padding=kernel // 2)
        return [
            first,
            nn.ReLU(),
            nn.Conv2d(cout, cout, 1),
            nn.ReLU(),
            nn.Conv2d(cout, cout, 1),
            nn.ReLU(),
        ]

    parts = [*block(3, 48, 5), nn.MaxPool2d(3, 2, 1), nn.Dropout(), *block(48, 64, 5)]
    parts += [nn.AvgPool2d(3, 2, 1), nn.Dropout(), *block(64, 64, 3), nn.Conv2d(64, 10, 1)]
    return nn.Sequential(*parts, nn.AvgPool2d(8, 8), nn.Flatten()), (image(32),)


@case("xception", family="xception", opset=13, dynamic=BATCH)
def xception() -> Built:
    def separable(cin: int, cout: int) -> nn.Module:
        deep = nn.Conv2d(cin, cin, 3, padding=1, groups=cin, bias=False)
        return nn.Sequential(deep, nn.Conv2d(cin, cout, 1, bias=False), nn.BatchNorm2d(cout))

    parts: list[nn.Module] = [conv_bn(3, 16, 3, 2), conv_bn(16, 32, 3)]
    cin = 32
    for cout in (64, 96, 128):
        body = nn.Sequential(
            nn.ReLU(), separable(cin, cout), nn.ReLU(), separable(cout, cout), nn.MaxPool2d(3, 2, 1)
        )
        parts.append(Residual(body, conv_bn(cin, cout, 1, 2, act=None)))
        cin = cout
    for _ in range(2):
        parts.append(
            Residual(nn.Sequential(nn.ReLU(), separable(cin, cin), nn.ReLU(), separable(cin, cin)))
        )
    return nn.Sequential(*parts, pool_head(cin)), (image(64),)


@case("se_conv_net", family="senet", opset=17, dynamic=BHW)
def se_conv_net() -> Built:
    parts: list[nn.Module] = [conv_bn(3, 24, 3, 2)]
    for cin, cout in ((24, 48), (48, 64), (64, 96)):
        parts += [
            _basic(cin, cout, 2, SqueezeExcite(cout)),
            _basic(cout, cout, 1, SqueezeExcite(cout)),
        ]
    return nn.Sequential(*parts, pool_head(96)), (image(64),)
