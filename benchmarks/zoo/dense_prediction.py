"""Segmentation, depth and super-resolution networks, own definitions at reduced width."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Residual, SqueezeExcite, conv_bn, image
from .registry import BATCH, BHW, HW, case

Built = tuple[nn.Module, tuple[Any, ...]]
_DYNAMO = {"dynamo": {"exporter": "dynamo", "opset": 18}}


class _Backbone(nn.Module):
    """Four residual stages; returns the maps at strides 4, 8, 16 and 32 (or dilated at 8)."""

    def __init__(self, widths: tuple[int, ...] = (16, 32, 48, 64), dilated: bool = False) -> None:
        super().__init__()
        self.stem = conv_bn(3, widths[0], 3, 2)
        stages: list[nn.Module] = []
        cin = widths[0]
        for index, width in enumerate(widths):
            stride = 1 if dilated and index > 1 else 2
            rate = 2 ** (index - 1) if dilated and index > 1 else 1
            body = nn.Sequential(
                conv_bn(cin, width, 3, stride, dilation=rate), conv_bn(width, width, act=None)
            )
            first = Residual(body, conv_bn(cin, width, 1, stride, act=None), nn.ReLU())
            body = nn.Sequential(conv_bn(width, width), conv_bn(width, width, act=None))
            stages.append(nn.Sequential(first, Residual(body, None, nn.ReLU())))
            cin = width
        self.stages = nn.ModuleList(stages)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        x = self.stem(x)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


def _resize(x: torch.Tensor, like: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
    corners = False if mode == "bilinear" else None
    return F.interpolate(x, size=like.shape[-2:], mode=mode, align_corners=corners)


@case(
    "fcn",
    family="fcn",
    kind="segmentation",
    opset=13,
    dynamic=BATCH,
    outputs=("out", "aux"),
    variants=_DYNAMO,
)
def fcn() -> Built:
    class FCN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone(dilated=True)
            self.head = nn.Sequential(conv_bn(64, 32), nn.Dropout(0.1), nn.Conv2d(32, 6, 1))
            self.aux = nn.Sequential(conv_bn(48, 16), nn.Dropout(0.1), nn.Conv2d(16, 6, 1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            maps = self.backbone(x)
            return _resize(self.head(maps[3]), x), _resize(self.aux(maps[2]), x)

    return FCN(), (image(64),)


@case(
    "deeplabv3",
    family="deeplab",
    kind="segmentation",
    opset=17,
    dynamic=HW,
    variants={**_DYNAMO, "static": {"dynamic": {}, "opset": 11}, "ort": {"post": ("ort",)}},
)
def deeplabv3() -> Built:
    class Pool(nn.Module):
        def __init__(self, cin: int, cout: int) -> None:
            super().__init__()
            self.conv = conv_bn(cin, cout, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return _resize(self.conv(F.adaptive_avg_pool2d(x, 1)), x)

    class DeepLab(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone(dilated=True)
            rates = (2, 4, 6)
            atrous = [conv_bn(64, 24, 3, dilation=rate) for rate in rates]
            self.aspp = nn.ModuleList([conv_bn(64, 24, 1), *atrous, Pool(64, 24)])
            self.project = nn.Sequential(conv_bn(24 * 5, 32, 1), nn.Dropout(0.5))
            self.head = nn.Sequential(conv_bn(32, 32), nn.Conv2d(32, 6, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.backbone(x)[3]
            y = self.project(torch.cat([branch(y) for branch in self.aspp], 1))
            return _resize(self.head(y), x)

    return DeepLab(), (image(64),)


@case("deeplabv3plus", family="deeplab", kind="segmentation", opset=17, dynamic=BHW)
def deeplabv3plus() -> Built:
    class DeepLabPlus(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone()
            self.low = conv_bn(16, 12, 1)
            self.high = conv_bn(64, 32, 1)
            self.head = nn.Sequential(conv_bn(44, 32), conv_bn(32, 32), nn.Conv2d(32, 6, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.backbone(x)
            high = _resize(self.high(maps[3]), maps[0])
            return _resize(self.head(torch.cat([high, self.low(maps[0])], 1)), x).softmax(1)

    return DeepLabPlus(), (image(64),)


@case("lraspp", family="lraspp", kind="segmentation", opset=13, dynamic=BHW, variants=_DYNAMO)
def lraspp() -> Built:
    class LRASPP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone((16, 24, 40, 64))
            self.cbr = conv_bn(64, 32, 1)
            self.scale = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(64, 32, 1, bias=False), nn.Sigmoid()
            )
            self.low = nn.Conv2d(24, 6, 1)
            self.high = nn.Conv2d(32, 6, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.backbone(x)
            y = _resize(self.cbr(maps[3]) * self.scale(maps[3]), maps[1])
            return _resize(self.low(maps[1]) + self.high(y), x)

    return LRASPP(), (image(64),)


class _UNet(nn.Module):
    """Encoder, decoder and skips; upsampling by ConvTranspose or by interpolation."""

    def __init__(self, transposed: bool, widths: tuple[int, ...] = (16, 32, 48, 64)) -> None:
        super().__init__()
        self.down = nn.ModuleList()
        cin = 3
        for width in widths:
            self.down.append(nn.Sequential(conv_bn(cin, width), conv_bn(width, width)))
            cin = width
        self.up, self.merge = nn.ModuleList(), nn.ModuleList()
        for width in reversed(widths[:-1]):
            up: nn.Module = nn.ConvTranspose2d(cin, width, 2, 2)
            if not transposed:
                up = nn.Sequential(
                    nn.Upsample(scale_factor=2, mode="nearest"), conv_bn(cin, width, 1)
                )
            self.up.append(up)
            self.merge.append(nn.Sequential(conv_bn(2 * width, width), conv_bn(width, width)))
            cin = width
        self.head = nn.Conv2d(cin, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for index, stage in enumerate(self.down):
            x = stage(x if index == 0 else F.max_pool2d(x, 2))
            skips.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skips[:-1]), strict=True):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.head(x)


@case(
    "unet",
    family="unet",
    kind="segmentation",
    opset=13,
    dynamic=BHW,
    variants={**_DYNAMO, "unfolded": {"unfolded": True}, "ort": {"post": ("ort",)}},
)
def unet() -> Built:
    return _UNet(True), (image(64),)


@case("unet_nearest", family="unet", kind="segmentation", opset=11)
def unet_nearest() -> Built:
    return _UNet(False), (image(64),)


@case("linknet", family="unet", kind="segmentation", opset=17, dynamic=BATCH)
def linknet() -> Built:
    """Decoder maps are added to encoder maps, so both sides share their channels."""

    class LinkNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone()
            ups = []
            for cin, cout in ((64, 48), (48, 32), (32, 16), (16, 16)):
                up = nn.ConvTranspose2d(cin // 2, cin // 2, 4, 2, 1, bias=False)
                ups.append(
                    nn.Sequential(
                        conv_bn(cin, cin // 2, 1),
                        up,
                        nn.BatchNorm2d(cin // 2),
                        nn.ReLU(),
                        conv_bn(cin // 2, cout, 1),
                    )
                )
            self.ups = nn.ModuleList(ups)
            self.head = nn.ConvTranspose2d(16, 3, 2, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, b, c, d = self.backbone(x)
            y = self.ups[0](d) + c
            y = self.ups[1](y) + b
            y = self.ups[2](y) + a
            return self.head(self.ups[3](y))

    return LinkNet(), (image(64),)


@case("fpn_seg", family="fpn", kind="segmentation", opset=17, dynamic=BHW, variants=_DYNAMO)
def fpn_seg() -> Built:
    class FPN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone()
            self.side = nn.ModuleList([nn.Conv2d(width, 32, 1) for width in (16, 32, 48, 64)])
            self.smooth = nn.ModuleList([conv_bn(32, 16) for _ in range(4)])
            self.head = nn.Conv2d(16, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = [side(y) for side, y in zip(self.side, self.backbone(x), strict=True)]
            for index in (2, 1, 0):
                maps[index] = maps[index] + _resize(maps[index + 1], maps[index], "nearest")
            total = self.smooth[0](maps[0])
            for smooth, y in zip(list(self.smooth)[1:], maps[1:], strict=True):
                total = total + _resize(smooth(y), total)
            return _resize(self.head(total), x)

    return FPN(), (image(64),)


@case("pspnet", family="pspnet", kind="segmentation", opset=13)
def pspnet() -> Built:
    class PSP(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone(dilated=True)
            self.pools = nn.ModuleList(
                [nn.Sequential(nn.AvgPool2d(size, size), conv_bn(64, 16, 1)) for size in (8, 4, 2)]
            )
            self.head = nn.Sequential(conv_bn(64 + 48, 32), nn.Conv2d(32, 6, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.backbone(x)[3]
            y = torch.cat([y, *(_resize(pool(y), y) for pool in self.pools)], 1)
            return _resize(self.head(y), x).argmax(1, keepdim=True).float() + 0 * x[:, :1]

    return PSP(), (image(64),)


@case("bisenet", family="bisenet", kind="segmentation", opset=13, dynamic=BATCH)
def bisenet() -> Built:
    class Refine(nn.Module):
        def __init__(self, cin: int, cout: int) -> None:
            super().__init__()
            self.conv = conv_bn(cin, cout)
            self.gate = nn.Sequential(
                nn.AdaptiveAvgPool2d(1), nn.Conv2d(cout, cout, 1, bias=False), nn.BatchNorm2d(cout)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.conv(x)
            return x * torch.sigmoid(self.gate(x))

    class BiSeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.detail = nn.Sequential(
                conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 32, 3, 2)
            )
            self.context = _Backbone()
            self.refine16, self.refine32 = Refine(48, 32), Refine(64, 32)
            self.fuse, self.gate = conv_bn(64, 48, 1), SqueezeExcite(48)
            self.head = nn.Sequential(conv_bn(48, 24), nn.Conv2d(24, 5, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.context(x)
            high = self.refine32(maps[3])
            high = high + F.adaptive_avg_pool2d(high, 1)
            mid = self.refine16(maps[2]) + F.interpolate(high, scale_factor=2, mode="nearest")
            mid = F.interpolate(mid, scale_factor=2, mode="nearest")
            y = self.fuse(torch.cat([self.detail(x), mid], 1))
            return F.interpolate(self.head(y + self.gate(y)), scale_factor=8, mode="bilinear")

    return BiSeNet(), (image(64),)


@case("espcn", family="superres", kind="superres", opset=11, dynamic=BHW)
def espcn() -> Built:
    net = nn.Sequential(
        nn.Conv2d(1, 32, 5, padding=2),
        nn.Tanh(),
        nn.Conv2d(32, 24, 3, padding=1),
        nn.Tanh(),
        nn.Conv2d(24, 9, 3, padding=1),
        nn.PixelShuffle(3),
    )
    return net, (image(24, 1),)


@case("edsr", family="superres", kind="superres", opset=13, dynamic=BHW, variants=_DYNAMO)
def edsr() -> Built:
    """EDSR x4: residual blocks without norms, two PixelShuffles inside, long skip."""

    class EDSR(nn.Module):
        def __init__(self, width: int = 24) -> None:
            super().__init__()
            self.head = nn.Conv2d(3, width, 3, padding=1)
            blocks: list[nn.Module] = []
            for _ in range(4):
                first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
                blocks.append(Residual(nn.Sequential(first, nn.ReLU(), second)))
            self.body = nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1))
            up = [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)]
            up += [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2)]
            self.tail = nn.Sequential(*up, nn.Conv2d(width, 3, 3, padding=1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.head(x)
            return self.tail(x + self.body(x))

    return EDSR(), (image(16),)


@case(
    "srresnet",
    family="superres",
    kind="superres",
    opset=17,
    dynamic=BHW,
    variants={"unfolded": {"unfolded": True}},
)
def srresnet() -> Built:
    """SRGAN's generator: PReLU per channel, batch norm, PixelShuffle followed by PReLU."""
    width = 24
    blocks: list[nn.Module] = []
    for _ in range(3):
        first = [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.PReLU(width)]
        second = [nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)]
        blocks.append(Residual(nn.Sequential(*first, *second)))
    body = Residual(
        nn.Sequential(*blocks, nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width))
    )
    up = [nn.Conv2d(width, 4 * width, 3, padding=1), nn.PixelShuffle(2), nn.PReLU(width)]
    head = [nn.Conv2d(3, width, 9, padding=4), nn.PReLU(width)]
    return nn.Sequential(*head, body, *up, nn.Conv2d(width, 3, 9, padding=4)), (image(16),)


@case("rdn", family="superres", kind="superres", opset=13, dynamic=BHW)
def rdn() -> Built:
    """Residual dense network: dense concat inside, 1x1 fusion, residual outside."""

    class Dense(nn.Module):
        def __init__(self, width: int = 24, growth: int = 12) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                [nn.Conv2d(width + growth * i, growth, 3, padding=1) for i in range(3)]
            )
            self.fuse = nn.Conv2d(width + 3 * growth, width, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x
            for conv in self.convs:
                y = torch.cat([y, F.leaky_relu(conv(y), 0.2)], 1)
            return x + 0.2 * self.fuse(y)

    up = [nn.Conv2d(24, 36, 3, padding=1), nn.PixelShuffle(2), nn.Conv2d(9, 3, 3, padding=1)]
    return nn.Sequential(nn.Conv2d(3, 24, 3, padding=1), Dense(), Dense(), Dense(), *up), (
        image(16),
    )


@case("imdn_small", family="superres", kind="superres", opset=11)
def imdn_small() -> Built:
    """Information multi-distillation: split off a quarter of the channels three times, concat."""

    class IMD(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            keep, rest = width // 4, width - width // 4
            self.keep, self.rest = keep, rest
            self.c1 = nn.Conv2d(width, width, 3, padding=1)
            self.c2 = nn.Conv2d(rest, width, 3, padding=1)
            self.c3 = nn.Conv2d(rest, keep, 3, padding=1)
            self.fuse = nn.Sequential(SqueezeExcite(3 * keep), nn.Conv2d(3 * keep, width, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a, y = torch.split(F.leaky_relu(self.c1(x), 0.05), (self.keep, self.rest), 1)
            b, y = torch.split(F.leaky_relu(self.c2(y), 0.05), (self.keep, self.rest), 1)
            return x + self.fuse(torch.cat([a, b, self.c3(y)], 1))

    up = [nn.Conv2d(32, 48, 3, padding=1), nn.PixelShuffle(4)]
    return nn.Sequential(nn.Conv2d(3, 32, 3, padding=1), IMD(), IMD(), IMD(), *up), (image(16),)


@case("monodepth", family="depth", kind="segmentation", opset=13, dynamic=BATCH)
def monodepth() -> Built:
    """Depth decoder with reflection padding, ELU and nearest upsampling, four output scales."""

    def reflect(cin: int, cout: int) -> nn.Module:
        return nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(cin, cout, 3), nn.ELU())

    class Depth(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = _Backbone()
            self.up = nn.ModuleList([reflect(64, 48), reflect(48, 32), reflect(32, 16)])
            self.merge = nn.ModuleList([reflect(96, 48), reflect(64, 32), reflect(32, 16)])
            self.disp = nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(16, 1, 3), nn.Sigmoid())

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            maps = self.backbone(x)
            y = maps[3]
            for up, merge, skip in zip(
                self.up, self.merge, (maps[2], maps[1], maps[0]), strict=True
            ):
                y = F.interpolate(up(y), scale_factor=2, mode="nearest")
                y = merge(torch.cat([y, skip], 1))
            return F.interpolate(self.disp(y), scale_factor=4, mode="nearest")

    return Depth(), (image(64),)
