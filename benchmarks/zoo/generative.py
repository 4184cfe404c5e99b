"""GANs, autoencoders, style transfer and small diffusion networks."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Residual, image
from .registry import BATCH, BHW, case

Built = tuple[nn.Module, tuple[Any, ...]]
_DYNAMO = {"dynamo": {"exporter": "dynamo", "opset": 18}}


@case("dcgan_generator", family="gan", kind="generative", opset=13, dynamic=BATCH, variants=_DYNAMO)
def dcgan_generator() -> Built:
    parts: list[nn.Module] = [nn.ConvTranspose2d(32, 64, 4, 1, 0, bias=False), nn.BatchNorm2d(64)]
    parts.append(nn.ReLU(True))
    for cin, cout in ((64, 48), (48, 32), (32, 16)):
        parts += [nn.ConvTranspose2d(cin, cout, 4, 2, 1, bias=False), nn.BatchNorm2d(cout)]
        parts.append(nn.ReLU(True))
    parts += [nn.ConvTranspose2d(16, 3, 4, 2, 1), nn.Tanh()]
    return nn.Sequential(*parts), (torch.randn(1, 32, 1, 1),)


@case("dcgan_linear_start", family="gan", kind="generative", opset=17, dynamic=BATCH)
def dcgan_linear_start() -> Built:
    """A linear layer whose output is viewed as a feature map: channel c owns 16 rows of it."""

    class Generator(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.start = nn.Linear(32, 48 * 16)
            self.norm = nn.BatchNorm2d(48)
            self.up1 = nn.ConvTranspose2d(48, 32, 4, 2, 1)
            self.up2 = nn.ConvTranspose2d(32, 3, 4, 2, 1)

        def forward(self, z: torch.Tensor) -> torch.Tensor:
            x = self.start(z).view(-1, 48, 4, 4)
            return torch.tanh(self.up2(F.relu(self.up1(F.relu(self.norm(x))))))

    return Generator(), (torch.randn(1, 32),)


@case("dcgan_discriminator", family="gan", kind="generative", opset=11, dynamic=BATCH)
def dcgan_discriminator() -> Built:
    parts: list[nn.Module] = [nn.Conv2d(3, 16, 4, 2, 1), nn.LeakyReLU(0.2)]
    for cin, cout in ((16, 32), (32, 64), (64, 96)):
        parts += [
            nn.Conv2d(cin, cout, 4, 2, 1, bias=False),
            nn.BatchNorm2d(cout),
            nn.LeakyReLU(0.2),
        ]
    return nn.Sequential(*parts, nn.Conv2d(96, 1, 4), nn.Flatten()), (image(64),)


@case(
    "cyclegan_generator", family="gan", kind="generative", opset=13, dynamic=BHW, variants=_DYNAMO
)
def cyclegan_generator() -> Built:
    """Johnson-style: reflection padding, InstanceNorm without affine, ConvTranspose."""

    def norm(width: int, affine: bool = False) -> nn.Module:
        return nn.InstanceNorm2d(width, affine=affine)

    parts: list[nn.Module] = [nn.ReflectionPad2d(3), nn.Conv2d(3, 16, 7), norm(16), nn.ReLU()]
    for cin, cout in ((16, 32), (32, 64)):
        parts += [nn.Conv2d(cin, cout, 3, 2, 1), norm(cout), nn.ReLU()]
    for _ in range(3):
        first = [nn.ReflectionPad2d(1), nn.Conv2d(64, 64, 3), norm(64), nn.ReLU()]
        second = [nn.ReflectionPad2d(1), nn.Conv2d(64, 64, 3), norm(64)]
        parts.append(Residual(nn.Sequential(*first, *second)))
    for cin, cout in ((64, 32), (32, 16)):
        parts += [nn.ConvTranspose2d(cin, cout, 3, 2, 1, output_padding=1), norm(cout), nn.ReLU()]
    return nn.Sequential(*parts, nn.ReflectionPad2d(3), nn.Conv2d(16, 3, 7), nn.Tanh()), (
        image(32),
    )


@case("style_transfer", family="style", kind="generative", opset=11, dynamic=BATCH)
def style_transfer() -> Built:
    """Fast neural style: affine InstanceNorm, nearest upsampling."""

    def block(cin: int, cout: int, kernel: int, stride: int = 1) -> nn.Module:
        pad = nn.ReflectionPad2d(kernel // 2)
        norm = nn.InstanceNorm2d(cout, affine=True)
        return nn.Sequential(pad, nn.Conv2d(cin, cout, kernel, stride), norm, nn.ReLU())

    parts: list[nn.Module] = [block(3, 16, 9), block(16, 32, 3, 2), block(32, 48, 3, 2)]
    parts += [Residual(nn.Sequential(block(48, 48, 3), block(48, 48, 3))) for _ in range(2)]
    parts += [nn.Upsample(scale_factor=2), block(48, 32, 3), nn.Upsample(scale_factor=2)]
    return nn.Sequential(*parts, block(32, 16, 3), nn.Conv2d(16, 3, 9, padding=4)), (image(32),)


@case("autoencoder_instance", family="autoencoder", kind="generative", opset=17, dynamic=BATCH)
def autoencoder_instance() -> Built:
    parts: list[nn.Module] = []
    cin = 3
    for width in (16, 32, 48):
        parts += [
            nn.Conv2d(cin, width, 3, 2, 1),
            nn.InstanceNorm2d(width, affine=True),
            nn.PReLU(width),
        ]
        cin = width
    parts += [
        nn.Flatten(),
        nn.Linear(48 * 16, 24),
        nn.Linear(24, 48 * 16),
        nn.Unflatten(1, (48, 4, 4)),
    ]
    for width in (32, 16):
        parts += [
            nn.ConvTranspose2d(cin, width, 2, 2),
            nn.InstanceNorm2d(width, affine=True),
            nn.PReLU(width),
        ]
        cin = width
    return nn.Sequential(*parts, nn.ConvTranspose2d(cin, 3, 2, 2), nn.Sigmoid()), (image(32),)


@case(
    "vae",
    family="autoencoder",
    kind="generative",
    opset=13,
    inputs=("input", "noise"),
    outputs=("image", "mean", "logvar"),
    variants={
        "dynamic": {
            "opset": 17,
            "dynamic": {"input": {0: "batch"}, "noise": {0: "batch"}},
        }
    },
)
def vae() -> Built:
    class VAE(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode = nn.Sequential(
                nn.Conv2d(1, 16, 4, 2, 1),
                nn.ELU(),
                nn.Conv2d(16, 32, 4, 2, 1),
                nn.ELU(),
                nn.Flatten(),
                nn.Linear(32 * 49, 64),
                nn.ELU(),
            )
            self.mean, self.logvar = nn.Linear(64, 8), nn.Linear(64, 8)
            self.decode = nn.Sequential(
                nn.Linear(8, 64),
                nn.ELU(),
                nn.Linear(64, 32 * 49),
                nn.ELU(),
                nn.Unflatten(1, (32, 7, 7)),
                nn.ConvTranspose2d(32, 16, 4, 2, 1),
                nn.ELU(),
                nn.ConvTranspose2d(16, 1, 4, 2, 1),
            )

        def forward(self, x: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, ...]:
            y = self.encode(x)
            mean, logvar = self.mean(y), self.logvar(y).clamp(-4, 4)
            return self.decode(mean + noise * (0.5 * logvar).exp()).sigmoid(), mean, logvar

    return VAE(), (image(28, 1), torch.randn(1, 8))


@case(
    "stylegan_mapping",
    family="gan",
    kind="generative",
    opset=17,
    inputs=("z", "noise"),
    dynamic={"z": {0: "batch"}},
)
def stylegan_mapping() -> Built:
    """Style modulation by AdaIN: a mapping MLP scales and shifts every channel."""

    class Style(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            mlp: list[nn.Module] = []
            for _ in range(3):
                mlp += [nn.Linear(32, 32), nn.LeakyReLU(0.2)]
            self.mapping = nn.Sequential(*mlp)
            self.start = nn.Parameter(torch.ones(1, 32, 4, 4))
            self.convs = nn.ModuleList(
                [nn.Conv2d(32, 32, 3, padding=1), nn.Conv2d(32, 24, 3, padding=1)]
            )
            self.affine = nn.ModuleList([nn.Linear(32, 64), nn.Linear(32, 48)])
            self.noise = nn.ParameterList([torch.ones(1, 32, 1, 1), torch.ones(1, 24, 1, 1)])
            self.rgb = nn.Conv2d(24, 3, 1)

        def forward(self, z: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
            w = self.mapping(z)
            x = self.start.expand(z.shape[0], -1, -1, -1)
            for conv, affine, scale in zip(self.convs, self.affine, self.noise, strict=True):
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
                x = F.leaky_relu(conv(x) + scale * noise[:, :, : x.shape[2], : x.shape[3]], 0.2)
                mean = x.mean((2, 3), keepdim=True)
                x = (x - mean) / (x.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
                gain, bias = affine(w).chunk(2, 1)
                x = x * (1 + gain[:, :, None, None]) + bias[:, :, None, None]
            return self.rgb(x)

    return Style(), (torch.randn(1, 32), torch.randn(1, 1, 16, 16))


@case(
    "ddpm_unet",
    family="diffusion",
    kind="generative",
    opset=17,
    inputs=("sample", "time"),
    fill={"time": 1000},
    variants=_DYNAMO,
)
def ddpm_unet() -> Built:
    """Diffusion U-Net: GroupNorm, SiLU, sinusoidal time embedding added per channel, attention."""

    class Block(nn.Module):
        def __init__(self, cin: int, cout: int, time: int) -> None:
            super().__init__()
            self.norm1, self.norm2 = nn.GroupNorm(8, cin), nn.GroupNorm(8, cout)
            self.conv1 = nn.Conv2d(cin, cout, 3, padding=1)
            self.conv2 = nn.Conv2d(cout, cout, 3, padding=1)
            self.time = nn.Linear(time, cout)
            self.skip = nn.Conv2d(cin, cout, 1) if cin != cout else nn.Identity()

        def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            y = self.conv1(F.silu(self.norm1(x))) + self.time(F.silu(t))[:, :, None, None]
            return self.skip(x) + self.conv2(F.silu(self.norm2(y)))

    class Attention(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.norm, self.qkv = nn.GroupNorm(8, width), nn.Conv2d(width, 3 * width, 1)
            self.out = nn.Conv2d(width, width, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            batch, width, height, columns = x.shape
            q, k, v = self.qkv(self.norm(x)).reshape(batch, 3 * width, -1).chunk(3, 1)
            weights = (q.transpose(1, 2) @ k / math.sqrt(width)).softmax(-1)
            y = (v @ weights.transpose(1, 2)).reshape(batch, width, height, columns)
            return x + self.out(y)

    class UNet(nn.Module):
        def __init__(self, width: int = 32) -> None:
            super().__init__()
            self.width = width
            self.mlp = nn.Sequential(nn.Linear(width, 64), nn.SiLU(), nn.Linear(64, 64))
            self.first = nn.Conv2d(3, width, 3, padding=1)
            self.d1, self.d2 = Block(width, width, 64), Block(width, 2 * width, 64)
            self.down = nn.Conv2d(width, width, 3, 2, 1)
            self.attention = Attention(2 * width)
            self.mid = Block(2 * width, 2 * width, 64)
            self.u2, self.u1 = Block(4 * width, width, 64), Block(2 * width, width, 64)
            self.last = nn.Sequential(
                nn.GroupNorm(8, width), nn.SiLU(), nn.Conv2d(width, 3, 3, padding=1)
            )

        def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
            half = self.width // 2
            rates = torch.exp(-math.log(1e4) * torch.arange(half) / half)
            angles = time[:, None].float() * rates[None]
            t = self.mlp(torch.cat([angles.sin(), angles.cos()], 1))
            a = self.d1(self.first(x), t)
            b = self.d2(self.down(a), t)
            y = self.u2(torch.cat([self.mid(self.attention(b), t), b], 1), t)
            y = F.interpolate(y, scale_factor=2.0, mode="nearest")
            return self.last(self.u1(torch.cat([y, a], 1), t))

    return UNet(), (image(16), torch.randint(0, 1000, (1,)))
