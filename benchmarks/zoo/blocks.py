"""Small torch building blocks shared by the zoo's own network definitions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def image(
    size: int = 64, channels: int = 3, batch: int = 1, width: int | None = None
) -> torch.Tensor:
    """Random image batch [batch, channels, size, width or size]."""
    return torch.randn(batch, channels, size, width or size)


def conv_bn(
    cin: int,
    cout: int,
    kernel: int | tuple[int, int] = 3,
    stride: int = 1,
    groups: int = 1,
    act: type[nn.Module] | None = nn.ReLU,
    padding: int | tuple[int, int] | None = None,
    dilation: int = 1,
) -> nn.Sequential:
    """Conv (no bias), BatchNorm, activation (None for none); "same" padding unless given."""
    if padding is None:
        sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
        padding = (dilation * (sizes[0] // 2), dilation * (sizes[1] // 2))
    parts: list[nn.Module] = [
        nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, dilation=dilation, bias=False),
        nn.BatchNorm2d(cout),
    ]
    if act is not None:
        parts.append(act())
    return nn.Sequential(*parts)


class SqueezeExcite(nn.Module):
    """Channel gate of Hu et al. 2018 (arXiv:1709.01507), spelled with 1x1 convolutions."""

    def __init__(
        self, channels: int, reduction: int = 4, gate: type[nn.Module] = nn.Sigmoid
    ) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(channels // reduction, 4), 1)
        self.expand = nn.Conv2d(max(channels // reduction, 4), channels, 1)
        self.gate = gate()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pooled = nn.functional.adaptive_avg_pool2d(x, 1)
        return x * self.gate(self.expand(torch.relu(self.reduce(pooled))))


class SqueezeExciteLinear(nn.Module):
    """The same gate spelled with mean, Linear and view, as in the original code."""

    def __init__(self, channels: int, reduction: int = 4) -> None:
        super().__init__()
        self.reduce = nn.Linear(channels, channels // reduction)
        self.expand = nn.Linear(channels // reduction, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = nn.functional.adaptive_avg_pool2d(x, 1).view(x.shape[0], x.shape[1])
        y = torch.sigmoid(self.expand(torch.relu(self.reduce(y))))
        return x * y.view(x.shape[0], x.shape[1], 1, 1)


class Branches(nn.Module):
    """Parallel branches on one input, concatenated along the channels."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Residual(nn.Module):
    """y = act(body(x) + shortcut(x))."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None, act: Any = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = shortcut or nn.Identity()
        self.act = act or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.body(x) + self.shortcut(x))


def pool_head(channels: int, classes: int = 10) -> nn.Sequential:
    """Global average pool, flatten, linear classifier."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


class Wrap(nn.Module):
    """Call a network with fixed keyword arguments and return chosen fields of what it returns."""

    def __init__(
        self, net: nn.Module, names: Sequence[str], fields: Sequence[str], **fixed: Any
    ) -> None:
        super().__init__()
        self.net = net
        self.names = tuple(names)
        self.fields = tuple(fields)
        self.fixed = fixed

    def forward(self, *args: torch.Tensor) -> Any:
        result = self.net(**dict(zip(self.names, args, strict=True)), **self.fixed)
        if not self.fields:
            return result
        picked = tuple(getattr(result, field) for field in self.fields)
        return picked[0] if len(picked) == 1 else picked
