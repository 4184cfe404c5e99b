"""Detectors: YOLO-style with C3 / C2f / DFL / Focus, SSD, CenterNet, landmarks; decode included."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Residual, conv_bn, image
from .registry import BATCH, case

Built = tuple[nn.Module, tuple[Any, ...]]
_DYNAMO = {"dynamo": {"exporter": "dynamo", "opset": 18}}


def _silu(cin: int, cout: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Module:
    return conv_bn(cin, cout, kernel, stride, groups, act=nn.SiLU)


class _Bottleneck(nn.Module):
    def __init__(self, width: int, add: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(_silu(width, width), _silu(width, width))
        self.add = add

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.add else self.body(x)


class _C2f(nn.Module):
    """Split in halves by chunk, chain of bottlenecks on the last, concat of all."""

    def __init__(
        self, cin: int, cout: int, count: int = 1, add: bool = True, split: bool = False
    ) -> None:
        super().__init__()
        self.half = cout // 2
        self.split = split
        self.cv1 = _silu(cin, cout, 1)
        self.cv2 = _silu((2 + count) * self.half, cout, 1)
        self.m = nn.ModuleList([_Bottleneck(self.half, add) for _ in range(count)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.cv1(x)
        parts = list(y.split((self.half, self.half), 1) if self.split else y.chunk(2, 1))
        for block in self.m:
            parts.append(block(parts[-1]))
        return self.cv2(torch.cat(parts, 1))


class _C3(nn.Module):
    """CSP block of YOLOv5: two 1x1 branches, one with bottlenecks, concat."""

    def __init__(self, cin: int, cout: int, count: int = 1, add: bool = True) -> None:
        super().__init__()
        half = cout // 2
        self.cv1, self.cv2 = _silu(cin, half, 1), _silu(cin, half, 1)
        self.m = nn.Sequential(*(_Bottleneck(half, add) for _ in range(count)))
        self.cv3 = _silu(cout, cout, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))


class _SPPF(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.cv1, self.cv2 = _silu(width, width // 2, 1), _silu(2 * width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.cv1(x)
        y = F.max_pool2d(x, 5, 1, 2)
        z = F.max_pool2d(y, 5, 1, 2)
        return self.cv2(torch.cat([x, y, z, F.max_pool2d(z, 5, 1, 2)], 1))


class _Neck(nn.Module):
    """Path aggregation over three scales with a given block."""

    def __init__(self, block: Any, widths: tuple[int, int, int]) -> None:
        super().__init__()
        a, b, c = widths
        self.stem = nn.Sequential(_silu(3, a // 2, 3, 2), _silu(a // 2, a, 3, 2))
        self.s3 = nn.Sequential(_silu(a, a, 3, 2), block(a, a))
        self.s4 = nn.Sequential(_silu(a, b, 3, 2), block(b, b))
        self.s5 = nn.Sequential(_silu(b, c, 3, 2), block(c, c), _SPPF(c))
        self.up4, self.up3 = block(b + c, b), block(a + b, a)
        self.d3, self.d4 = _silu(a, a, 3, 2), _silu(b, b, 3, 2)
        self.down4, self.down5 = block(a + b, b), block(b + c, c)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        p3 = self.s3(self.stem(x))
        p4 = self.s4(p3)
        p5 = self.s5(p4)
        u4 = self.up4(torch.cat([F.interpolate(p5, scale_factor=2.0), p4], 1))
        u3 = self.up3(torch.cat([F.interpolate(u4, scale_factor=2.0), p3], 1))
        n4 = self.down4(torch.cat([self.d3(u3), u4], 1))
        return [u3, n4, self.down5(torch.cat([self.d4(n4), p5], 1))]


def _grid(size: int, strides: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cell centres [1, 2, cells] and strides [1, cells] of a square image of `size`."""
    points, steps = [], []
    for stride in strides:
        line = torch.arange(size // stride) + 0.5
        row, column = torch.meshgrid(line, line, indexing="ij")
        points.append(torch.stack([column.flatten(), row.flatten()]))
        steps.append(torch.full((1, points[-1].shape[1]), float(stride)))
    return torch.cat(points, 1)[None], torch.cat(steps, 1)


class _DetectDFL(nn.Module):
    """YOLOv8 head: decoupled branches, distribution focal loss decode, boxes and class scores."""

    def __init__(self, widths: tuple[int, ...], classes: int, size: int, bins: int = 16) -> None:
        super().__init__()
        self.classes, self.bins = classes, bins
        self.box = nn.ModuleList(
            [nn.Sequential(_silu(w, 16), _silu(16, 16), nn.Conv2d(16, 4 * bins, 1)) for w in widths]
        )
        self.cls = nn.ModuleList(
            [nn.Sequential(_silu(w, 24), _silu(24, 24), nn.Conv2d(24, classes, 1)) for w in widths]
        )
        self.dfl = nn.Conv2d(bins, 1, 1, bias=False).requires_grad_(False)
        points, strides = _grid(size, (8, 16, 32))
        self.register_buffer("points", points)
        self.register_buffer("strides", strides)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        rows = [
            torch.cat([box(x), cls(x)], 1).flatten(2)
            for x, box, cls in zip(maps, self.box, self.cls, strict=True)
        ]
        box, cls = torch.cat(rows, 2).split((4 * self.bins, self.classes), 1)
        batch, _, cells = box.shape
        box = self.dfl(box.view(batch, 4, self.bins, cells).transpose(2, 1).softmax(1))
        left, right = box.view(batch, 4, cells).chunk(2, 1)
        low, high = self.points - left, self.points + right
        box = torch.cat([(low + high) / 2, high - low], 1) * self.strides
        return torch.cat([box, cls.sigmoid()], 1)


def _yolov8(split: bool) -> Built:
    def block(cin: int, cout: int) -> nn.Module:
        return _C2f(cin, cout, 1, split=split)

    widths = (24, 32, 48)
    net = nn.Sequential(_Neck(block, widths), _DetectDFL(widths, 5, 64))
    return net, (image(64),)


@case(
    "yolov8_c2f",
    family="yolo",
    kind="detector",
    opset=17,
    variants={
        **_DYNAMO,
        "dynamic": {"dynamic": BATCH},
        "opset11": {"opset": 11},
        "unfolded": {"unfolded": True},
        "ort": {"post": ("ort",)},
    },
)
def yolov8_c2f() -> Built:
    return _yolov8(False)


@case("yolov8_split", family="yolo", kind="detector", opset=12)
def yolov8_split() -> Built:
    return _yolov8(True)


@case("yolov5_c3", family="yolo", kind="detector", opset=12, variants=_DYNAMO)
def yolov5_c3() -> Built:
    """Anchor head: [N, A*(5+K), H, W] -> view, permute, sigmoid, decode with buffers, concat."""

    class Detect(nn.Module):
        def __init__(self, widths: tuple[int, ...], classes: int, size: int) -> None:
            super().__init__()
            self.outs = 5 + classes
            self.heads = nn.ModuleList([nn.Conv2d(w, 3 * self.outs, 1) for w in widths])
            for index, stride in enumerate((8, 16, 32)):
                line = torch.arange(size // stride, dtype=torch.float32)
                row, column = torch.meshgrid(line, line, indexing="ij")
                grid = torch.stack([column, row], 2)[None, None] - 0.5
                self.register_buffer(f"grid{index}", grid)
                self.register_buffer(f"anchor{index}", 4 * stride * torch.rand(1, 3, 1, 1, 2))

        def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
            rows = []
            for index, (x, head) in enumerate(zip(maps, self.heads, strict=True)):
                y = head(x)
                batch, _, height, width = y.shape
                y = y.view(batch, 3, self.outs, height, width).permute(0, 1, 3, 4, 2).contiguous()
                xy, wh, conf = y.sigmoid().split((2, 2, self.outs - 4), 4)
                xy = (xy * 2 + getattr(self, f"grid{index}")) * (8 << index)
                wh = (wh * 2) ** 2 * getattr(self, f"anchor{index}")
                rows.append(torch.cat([xy, wh, conf], 4).view(batch, -1, self.outs))
            return torch.cat(rows, 1)

    widths = (24, 32, 48)
    return nn.Sequential(_Neck(_C3, widths), Detect(widths, 4, 64)), (image(64),)


@case("yolox_focus", family="yolo", kind="detector", opset=11, variants=_DYNAMO)
def yolox_focus() -> Built:
    """Focus stem (strided slices), decoupled depth-wise head, raw outputs transposed to rows."""

    class Focus(nn.Module):
        def __init__(self, cout: int) -> None:
            super().__init__()
            self.conv = _silu(12, cout)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            parts = [x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]]
            return self.conv(torch.cat(parts, 1))

    class Head(nn.Module):
        def __init__(self, widths: tuple[int, ...], classes: int) -> None:
            super().__init__()
            self.stem = nn.ModuleList([_silu(w, 24, 1) for w in widths])
            self.cls = nn.ModuleList()
            self.reg = nn.ModuleList()
            self.out = nn.ModuleList()
            for _ in widths:
                self.cls.append(nn.Sequential(_silu(24, 24, 3, groups=24), _silu(24, 24, 1)))
                self.reg.append(nn.Sequential(_silu(24, 24, 3, groups=24), _silu(24, 24, 1)))
                convs = [nn.Conv2d(24, n, 1) for n in (4, 1, classes)]
                self.out.append(nn.ModuleList(convs))

        def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
            rows = []
            for x, stem, cls, reg, out in zip(
                maps, self.stem, self.cls, self.reg, self.out, strict=True
            ):
                x = stem(x)
                box, score = reg(x), cls(x)
                y = [out[0](box), out[1](box).sigmoid(), out[2](score).sigmoid()]
                rows.append(torch.cat(y, 1).flatten(2))
            return torch.cat(rows, 2).permute(0, 2, 1)

    class YoloX(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.neck = _Neck(_C3, (24, 32, 48))
            self.neck.stem = nn.Sequential(Focus(16), _silu(16, 24, 3, 2))
            self.head = Head((24, 32, 48), 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.neck(x))

    return YoloX(), (image(64),)


@case("yolov3_tiny", family="yolo", kind="detector", opset=13, outputs=("low", "high"))
def yolov3_tiny() -> Built:
    def leaky(cin: int, cout: int, kernel: int = 3) -> nn.Module:
        return conv_bn(cin, cout, kernel, act=lambda: nn.LeakyReLU(0.1))

    class Tiny(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pool = nn.MaxPool2d(2, 2)
            self.first = nn.Sequential(
                leaky(3, 16), pool, leaky(16, 24), pool, leaky(24, 32), pool, leaky(32, 48)
            )
            pad = nn.ReplicationPad2d((0, 1, 0, 1))
            self.second = nn.Sequential(
                pool, leaky(48, 64), pad, nn.MaxPool2d(2, 1), leaky(64, 96), leaky(96, 48, 1)
            )
            self.low = nn.Sequential(leaky(48, 64), nn.Conv2d(64, 27, 1))
            self.up = nn.Sequential(leaky(48, 24, 1), nn.Upsample(scale_factor=2))
            self.high = nn.Sequential(leaky(72, 48), nn.Conv2d(48, 27, 1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            x = self.first(x)
            y = self.second(x)
            return self.low(y), self.high(torch.cat([self.up(y), x], 1))

    return Tiny(), (image(64),)


@case("darknet53_small", family="yolo", kind="cnn", opset=11, dynamic=BATCH)
def darknet53_small() -> Built:
    def leaky(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Module:
        act: Any = lambda: nn.LeakyReLU(0.1)  # noqa: E731
        return conv_bn(cin, cout, kernel, stride, act=act)

    parts: list[nn.Module] = [leaky(3, 16, 3)]
    cin = 16
    for width, count in ((24, 1), (48, 2), (64, 3), (96, 2)):
        parts.append(leaky(cin, width, 3, 2))
        for _ in range(count):
            parts.append(
                Residual(nn.Sequential(leaky(width, width // 2, 1), leaky(width // 2, width, 3)))
            )
        cin = width
    parts += [nn.AdaptiveAvgPool2d(1), nn.Conv2d(cin, 10, 1), nn.Flatten()]
    return nn.Sequential(*parts), (image(64),)


@case(
    "ssd_vgg",
    family="ssd",
    kind="detector",
    opset=11,
    outputs=("scores", "boxes"),
    variants=_DYNAMO,
)
def ssd_vgg() -> Built:
    """SSD: L2 norm on the first map, extra layers, permute + view + concat heads, softmax."""

    class L2Norm(nn.Module):
        def __init__(self, channels: int) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(channels))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            norm = x.pow(2).sum(1, keepdim=True).sqrt() + 1e-6
            return self.weight.view(1, -1, 1, 1) * (x / norm)

    def two(cin: int, cout: int) -> list[nn.Module]:
        return [
            nn.Conv2d(cin, cout, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(cout, cout, 3, padding=1),
            nn.ReLU(),
        ]

    class SSD(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            pool = nn.MaxPool2d(2, 2)
            self.base = nn.Sequential(*two(3, 16), pool, *two(16, 32), pool, *two(32, 48))
            self.norm = L2Norm(48)
            self.conv7 = nn.Sequential(
                pool,
                nn.Conv2d(48, 64, 3, padding=2, dilation=2),
                nn.ReLU(),
                nn.Conv2d(64, 64, 1),
                nn.ReLU(),
            )
            self.extra = nn.Sequential(
                nn.Conv2d(64, 32, 1), nn.ReLU(), nn.Conv2d(32, 48, 3, 2, 1), nn.ReLU()
            )
            self.loc = nn.ModuleList([nn.Conv2d(w, 4 * 4, 3, padding=1) for w in (48, 64, 48)])
            self.conf = nn.ModuleList([nn.Conv2d(w, 4 * 5, 3, padding=1) for w in (48, 64, 48)])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            base = self.base(x)
            seven = self.conv7(base)
            maps = [self.norm(base), seven, self.extra(seven)]
            loc = [
                f(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, 4)
                for f, m in zip(self.loc, maps, strict=True)
            ]
            conf = [
                f(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, 5)
                for f, m in zip(self.conf, maps, strict=True)
            ]
            return torch.cat(conf, 1).softmax(-1), torch.cat(loc, 1)

    return SSD(), (image(64),)


@case(
    "ssdlite", family="ssd", kind="detector", opset=13, outputs=("scores", "boxes"), dynamic=BATCH
)
def ssdlite() -> Built:
    def separable(cin: int, cout: int, stride: int = 1) -> nn.Module:
        deep = conv_bn(cin, cin, 3, stride, groups=cin, act=nn.ReLU6)
        return nn.Sequential(deep, conv_bn(cin, cout, 1, act=nn.ReLU6))

    def head(cin: int, cout: int) -> nn.Module:
        deep = conv_bn(cin, cin, 3, groups=cin, act=nn.ReLU6)
        return nn.Sequential(deep, nn.Conv2d(cin, cout, 1))

    class SSDLite(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(conv_bn(3, 16, 3, 2), separable(16, 32, 2), separable(32, 48, 2))
            self.b = nn.Sequential(separable(48, 64, 2), separable(64, 64))
            self.loc = nn.ModuleList([head(48, 12), head(64, 12)])
            self.conf = nn.ModuleList([head(48, 15), head(64, 15)])

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a = self.a(x)
            maps = [a, self.b(a)]
            rows = []
            for heads, last in ((self.conf, 5), (self.loc, 4)):
                parts = []
                for f, m in zip(heads, maps, strict=True):
                    y = f(m)
                    batch, _, height, width = y.shape
                    y = y.view(batch, -1, last, height, width).permute(0, 3, 4, 1, 2)
                    parts.append(y.reshape(batch, -1, last))
                rows.append(torch.cat(parts, 1))
            return rows[0], rows[1]

    return SSDLite(), (image(64),)


@case(
    "centernet", family="centernet", kind="detector", opset=13, outputs=("heat", "size", "offset")
)
def centernet() -> Built:
    """ResNet + ConvTranspose decoder; the heat map is peak-filtered by MaxPool inside the graph."""

    class Center(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down = nn.Sequential(
                conv_bn(3, 16, 3, 2),
                conv_bn(16, 32, 3, 2),
                conv_bn(32, 64, 3, 2),
                conv_bn(64, 96, 3, 2),
            )
            ups: list[nn.Module] = []
            for cin, cout in ((96, 48), (48, 32)):
                ups += [
                    nn.ConvTranspose2d(cin, cout, 4, 2, 1, bias=False),
                    nn.BatchNorm2d(cout),
                    nn.ReLU(),
                ]
            self.up = nn.Sequential(*ups)
            self.heads = nn.ModuleList(
                [
                    nn.Sequential(nn.Conv2d(32, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, n, 1))
                    for n in (4, 2, 2)
                ]
            )

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.up(self.down(x))
            heat = self.heads[0](y).sigmoid()
            peak = (F.max_pool2d(heat, 3, 1, 1) == heat).float()
            return heat * peak, self.heads[1](y), self.heads[2](y)

    return Center(), (image(64),)


@case("retinanet", family="retinanet", kind="detector", opset=17, outputs=("scores", "boxes"))
def retinanet() -> Built:
    """FPN with heads shared between levels: tied weights used three times."""

    class Retina(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.s3 = nn.Sequential(
                conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2), conv_bn(24, 32, 3, 2)
            )
            self.s4, self.s5 = conv_bn(32, 48, 3, 2), conv_bn(48, 64, 3, 2)
            self.side = nn.ModuleList([nn.Conv2d(w, 32, 1) for w in (32, 48, 64)])
            self.smooth = nn.ModuleList([nn.Conv2d(32, 32, 3, padding=1) for _ in range(3)])
            tower = [
                nn.Conv2d(32, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 24, 3, padding=1),
                nn.ReLU(),
            ]
            self.cls = nn.Sequential(*tower, nn.Conv2d(24, 9, 3, padding=1))
            tower = [
                nn.Conv2d(32, 32, 3, padding=1),
                nn.ReLU(),
                nn.Conv2d(32, 24, 3, padding=1),
                nn.ReLU(),
            ]
            self.reg = nn.Sequential(*tower, nn.Conv2d(24, 12, 3, padding=1))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            c3 = self.s3(x)
            c4 = self.s4(c3)
            p5 = self.side[2](self.s5(c4))
            p4 = self.side[1](c4) + F.interpolate(p5, scale_factor=2.0)
            p3 = self.side[0](c3) + F.interpolate(p4, scale_factor=2.0)
            maps = [smooth(p) for smooth, p in zip(self.smooth, (p3, p4, p5), strict=True)]
            scores = [self.cls(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, 3) for m in maps]
            boxes = [self.reg(m).permute(0, 2, 3, 1).reshape(m.shape[0], -1, 4) for m in maps]
            return torch.cat(scores, 1).sigmoid(), torch.cat(boxes, 1)

    return Retina(), (image(64),)


@case("hourglass_pose", family="hourglass", kind="detector", opset=13, dynamic=BATCH)
def hourglass_pose() -> Built:
    """Stacked hourglass: recursive skips, heat maps fed back into the stream."""

    class Hourglass(nn.Module):
        def __init__(self, depth: int, width: int) -> None:
            super().__init__()
            self.skip, self.low1, self.low3 = (
                conv_bn(width, width),
                conv_bn(width, width),
                conv_bn(width, width),
            )
            self.low2: nn.Module = (
                Hourglass(depth - 1, width) if depth > 1 else conv_bn(width, width)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = self.low3(self.low2(self.low1(F.max_pool2d(x, 2))))
            return self.skip(x) + F.interpolate(low, scale_factor=2.0)

    class Pose(nn.Module):
        def __init__(self, width: int = 24) -> None:
            super().__init__()
            self.stem = nn.Sequential(conv_bn(3, 16, 7, 2), conv_bn(16, width))
            self.first, self.second = Hourglass(2, width), Hourglass(2, width)
            self.heat1, self.heat2 = nn.Conv2d(width, 5, 1), nn.Conv2d(width, 5, 1)
            self.back = nn.Conv2d(5, width, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.stem(x)
            y = self.first(x)
            x = x + y + self.back(self.heat1(y))
            return self.heat2(self.second(x))

    return Pose(), (image(64),)


@case("landmark_pfld", family="landmark", kind="cnn", opset=11)
def landmark_pfld() -> Built:
    """PFLD: multi-scale pooled features concatenated before one Gemm."""

    class PFLD(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Sequential(conv_bn(3, 16, 3, 2), conv_bn(16, 24, 3, 2, groups=8))
            self.b, self.c = conv_bn(24, 32, 3, 2), nn.Conv2d(32, 48, 4)
            self.fc = nn.Linear(24 + 32 + 48 * 25, 20)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            first = F.avg_pool2d(x, 16).flatten(1)
            x = self.b(x)
            second = F.avg_pool2d(x, 8).flatten(1)
            third = F.relu(self.c(x)).view(x.shape[0], -1)
            return self.fc(torch.cat([first, second, third], 1))

    return PFLD(), (image(64),)
