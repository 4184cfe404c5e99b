"""1-D and 3-D convolutional networks, recurrent networks, tabular and graph-free MLPs."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from .blocks import Residual, image
from .registry import BATCH, case

Built = tuple[nn.Module, tuple[Any, ...]]
_DYNAMO = {"dynamo": {"exporter": "dynamo", "opset": 18}}
_TIME = {"input": {0: "batch", 2: "time"}}


def _conv1(
    cin: int, cout: int, kernel: int, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Module:
    pad = dilation * (kernel // 2)
    conv = nn.Conv1d(cin, cout, kernel, stride, pad, dilation, groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(cout), nn.ReLU())


@case("m5_audio", family="audio1d", kind="audio", opset=13, dynamic=BATCH)
def m5_audio() -> Built:
    parts: list[nn.Module] = [_conv1(1, 24, 31, 4), nn.MaxPool1d(4)]
    for cin, cout in ((24, 32), (32, 48), (48, 64)):
        parts += [_conv1(cin, cout, 3), nn.MaxPool1d(4)]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(64, 12)), (
        torch.randn(1, 1, 4000),
    )


@case("quartznet", family="audio1d", kind="audio", opset=17, dynamic=_TIME, variants=_DYNAMO)
def quartznet() -> Built:
    """Time-channel separable convolutions with residuals; CTC logits over time."""

    def separable(cin: int, cout: int, kernel: int) -> nn.Module:
        deep = nn.Conv1d(cin, cin, kernel, padding=kernel // 2, groups=cin, bias=False)
        return nn.Sequential(deep, nn.Conv1d(cin, cout, 1, bias=False), nn.BatchNorm1d(cout))

    parts: list[nn.Module] = [_conv1(40, 48, 11, 2)]
    for _ in range(3):
        body = nn.Sequential(separable(48, 48, 13), nn.ReLU(), separable(48, 48, 13))
        short = nn.Sequential(nn.Conv1d(48, 48, 1, bias=False), nn.BatchNorm1d(48))
        parts.append(Residual(body, short, nn.ReLU()))
    parts += [_conv1(48, 64, 1), nn.Conv1d(64, 29, 1), nn.LogSoftmax(1)]
    return nn.Sequential(*parts), (torch.randn(1, 40, 64),)


@case("wavenet", family="audio1d", kind="audio", opset=13, dynamic=_TIME)
def wavenet() -> Built:
    """Gated dilated convolutions: tanh times sigmoid of the two halves, skip and residual sums."""

    class Layer(nn.Module):
        def __init__(self, width: int, dilation: int) -> None:
            super().__init__()
            self.pad = dilation
            self.gate = nn.Conv1d(width, 2 * width, 2, dilation=dilation)
            self.out = nn.Conv1d(width, width, 1)
            self.skip = nn.Conv1d(width, 24, 1)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            a, b = self.gate(F.pad(x, (self.pad, 0))).chunk(2, 1)
            y = torch.tanh(a) * torch.sigmoid(b)
            return x + self.out(y), self.skip(y)

    class WaveNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(1, 32, 1)
            self.layers = nn.ModuleList([Layer(32, 2**i) for i in range(5)])
            self.head = nn.Sequential(
                nn.ReLU(), nn.Conv1d(24, 32, 1), nn.ReLU(), nn.Conv1d(32, 16, 1)
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            total = torch.zeros(1)
            for layer in self.layers:
                x, skip = layer(x)
                total = total + skip
            return self.head(total)

    return WaveNet(), (torch.randn(1, 1, 128),)


@case("hifigan", family="audio1d", kind="audio", opset=17, dynamic=_TIME)
def hifigan() -> Built:
    """Vocoder: ConvTranspose1d upsampling, several residual stacks averaged."""

    class Stack(nn.Module):
        def __init__(self, width: int, kernel: int) -> None:
            super().__init__()
            self.convs = nn.ModuleList(
                [
                    nn.Conv1d(width, width, kernel, padding=d * (kernel // 2), dilation=d)
                    for d in (1, 3)
                ]
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            for conv in self.convs:
                x = x + 0.5 * conv(F.leaky_relu(x, 0.1))
            return x

    class Vocoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv1d(20, 48, 7, padding=3)
            self.ups = nn.ModuleList(
                [nn.ConvTranspose1d(48, 32, 8, 4, 2), nn.ConvTranspose1d(32, 16, 4, 2, 1)]
            )
            self.stacks = nn.ModuleList(
                [nn.ModuleList([Stack(w, 3), Stack(w, 5)]) for w in (32, 16)]
            )
            self.last = nn.Conv1d(16, 1, 7, padding=3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            for up, stacks in zip(self.ups, self.stacks, strict=True):
                x = up(F.leaky_relu(x, 0.1))
                x = (stacks[0](x) + stacks[1](x)) / 2
            return torch.tanh(self.last(F.leaky_relu(x, 0.1)))

    return Vocoder(), (torch.randn(1, 20, 24),)


@case("tcn", family="audio1d", kind="audio", opset=11, dynamic=BATCH)
def tcn() -> Built:
    """Temporal convolutional network with causal chomp (slice at the end)."""

    class Block(nn.Module):
        def __init__(self, cin: int, cout: int, dilation: int) -> None:
            super().__init__()
            self.pad = 2 * dilation
            self.a = nn.Conv1d(cin, cout, 3, padding=self.pad, dilation=dilation)
            self.b = nn.Conv1d(cout, cout, 3, padding=self.pad, dilation=dilation)
            self.down = nn.Conv1d(cin, cout, 1) if cin != cout else nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.relu(self.a(x)[:, :, : -self.pad])
            y = F.relu(self.b(y)[:, :, : -self.pad])
            return F.relu(y + self.down(x))

    class TCN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(Block(8, 24, 1), Block(24, 32, 2), Block(32, 32, 4))
            self.head = nn.Linear(32, 6)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x)[:, :, -1])

    return TCN(), (torch.randn(1, 8, 40),)


@case("ecapa_tdnn", family="audio1d", kind="audio", opset=17, dynamic=_TIME)
def ecapa_tdnn() -> Built:
    """Res2Net blocks in 1-D, SE, dense aggregation, attentive statistics pooling."""

    class SE(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.a, self.b = nn.Conv1d(width, width // 4, 1), nn.Conv1d(width // 4, width, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * torch.sigmoid(self.b(F.relu(self.a(x.mean(2, keepdim=True)))))

    class Block(nn.Module):
        def __init__(self, width: int, dilation: int) -> None:
            super().__init__()
            self.first, self.last, self.gate = (
                _conv1(width, width, 1),
                _conv1(width, width, 1),
                SE(width),
            )
            self.parts = nn.ModuleList(
                [_conv1(width // 4, width // 4, 3, 1, dilation) for _ in range(3)]
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            pieces = list(self.first(x).chunk(4, 1))
            for index, part in enumerate(self.parts):
                previous = pieces[index + 1] if index == 0 else pieces[index + 1] + pieces[index]
                pieces[index + 1] = part(previous)
            return x + self.gate(self.last(torch.cat(pieces, 1)))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = _conv1(40, 48, 5)
            self.blocks = nn.ModuleList([Block(48, d) for d in (2, 3, 4)])
            self.mix = nn.Conv1d(144, 64, 1)
            self.att = nn.Sequential(nn.Conv1d(64, 24, 1), nn.Tanh(), nn.Conv1d(24, 64, 1))
            self.norm, self.head = nn.BatchNorm1d(128), nn.Linear(128, 32)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            outs = []
            for block in self.blocks:
                x = block(x)
                outs.append(x)
            x = F.relu(self.mix(torch.cat(outs, 1)))
            weights = self.att(x).softmax(2)
            mean = (weights * x).sum(2)
            std = ((weights * x * x).sum(2) - mean * mean).clamp(min=1e-4).sqrt()
            return self.head(self.norm(torch.cat([mean, std], 1)))

    return Net(), (torch.randn(1, 40, 48),)


@case("yamnet_like", family="audio2d", kind="audio", opset=13, dynamic={"input": {0: "batch"}})
def yamnet_like() -> Built:
    """Spectrogram by a Conv1d filter bank inside the graph, log, then a 2-D CNN."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bank = nn.Conv1d(1, 64, 64, 32, bias=False)
            self.cnn = nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, 2, 1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(32, 8),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            real, imaginary = self.bank(x).chunk(2, 1)
            return self.cnn((real**2 + imaginary**2).clamp(min=1e-5).log()[:, None])

    return Net(), (torch.randn(1, 1, 2048),)


@case("c3d", family="video", kind="video", opset=13, dynamic=BATCH, variants=_DYNAMO)
def c3d() -> Built:
    def block(cin: int, cout: int) -> list[nn.Module]:
        return [nn.Conv3d(cin, cout, 3, padding=1), nn.BatchNorm3d(cout), nn.ReLU()]

    parts = [
        *block(3, 12),
        nn.MaxPool3d((1, 2, 2)),
        *block(12, 24),
        nn.MaxPool3d(2),
        *block(24, 32),
    ]
    parts += [nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 8)]
    return nn.Sequential(*parts), (torch.randn(1, 3, 8, 24, 24),)


@case("r2plus1d", family="video", kind="video", opset=17, dynamic=BATCH)
def r2plus1d() -> Built:
    """(2+1)-D residual blocks: space then time."""

    def factored(cin: int, cout: int, stride: int = 1) -> nn.Module:
        mid = (cin + cout) // 2 + 8
        space = nn.Conv3d(cin, mid, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False)
        time = nn.Conv3d(mid, cout, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False)
        return nn.Sequential(space, nn.BatchNorm3d(mid), nn.ReLU(), time, nn.BatchNorm3d(cout))

    parts: list[nn.Module] = [factored(3, 16), nn.ReLU()]
    for cin, cout, stride in ((16, 16, 1), (16, 32, 2), (32, 48, 2)):
        body = nn.Sequential(factored(cin, cout, stride), nn.ReLU(), factored(cout, cout))
        short = nn.Sequential(nn.Conv3d(cin, cout, 1, stride, bias=False), nn.BatchNorm3d(cout))
        parts.append(Residual(body, short if stride > 1 else None, nn.ReLU()))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(48, 8)), (
        torch.randn(1, 3, 8, 24, 24),
    )


@case("unet3d", family="video", kind="segmentation", opset=13, dynamic=BATCH)
def unet3d() -> Built:
    """Volumetric U-Net with InstanceNorm and LeakyReLU, as in nnU-Net."""

    def block(cin: int, cout: int, stride: int = 1) -> nn.Module:
        norm = nn.InstanceNorm3d(cout, affine=True)
        return nn.Sequential(nn.Conv3d(cin, cout, 3, stride, 1), norm, nn.LeakyReLU(0.01))

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = block(1, 8), block(8, 16, 2), block(16, 24, 2)
            self.ub, self.ua = nn.ConvTranspose3d(24, 16, 2, 2), nn.ConvTranspose3d(16, 8, 2, 2)
            self.db, self.da, self.head = block(32, 16), block(16, 8), nn.Conv3d(8, 3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            a = self.a(x)
            b = self.b(a)
            y = self.db(torch.cat([self.ub(self.c(b)), b], 1))
            return self.head(self.da(torch.cat([self.ua(y), a], 1)))

    return Net(), (torch.randn(1, 1, 8, 16, 16),)


@case("tsm", family="video", kind="video", opset=13)
def tsm() -> Built:
    """Temporal shift: an eighth of the channels moves one frame forward, an eighth backward."""

    class Shift(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            frames = x.view(-1, 4, *x.shape[1:])
            fold = x.shape[1] // 8
            left = F.pad(frames[:, 1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
            right = F.pad(frames[:, :-1, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
            return torch.cat([left, right, frames[:, :, 2 * fold :]], 2).view_as(x)

    def body(width: int) -> nn.Module:
        first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        return nn.Sequential(
            Shift(), first, nn.BatchNorm2d(width), nn.ReLU(), second, nn.BatchNorm2d(width)
        )

    parts = [nn.Conv2d(3, 32, 3, 2, 1), nn.ReLU(), Residual(body(32), None, nn.ReLU())]
    parts += [
        Residual(body(32), None, nn.ReLU()),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 8),
    ]
    return nn.Sequential(*parts), (image(32, batch=4),)


@case(
    "lstm_tagger",
    family="lstm",
    kind="rnn",
    opset=17,
    fill={"input": 200},
    dynamic={"input": {0: "batch", 1: "sequence"}},
)
def lstm_tagger() -> Built:
    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(200, 32)
            self.rnn = nn.LSTM(32, 48, 2, batch_first=True, bidirectional=True)
            self.head = nn.Linear(96, 9)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(self.embed(ids))[0])

    return Tagger(), (torch.randint(0, 200, (1, 12)),)


@case(
    "lstm_lm_state",
    family="lstm",
    kind="rnn",
    opset=13,
    inputs=("input", "h", "c"),
    outputs=("logits", "h_out", "c_out"),
    fill={"input": 120},
)
def lstm_lm_state() -> Built:
    """Language model whose LSTM state goes in and out; embedding tied to the output matrix."""

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(120, 48)
            self.rnn = nn.LSTM(48, 64)
            self.proj = nn.Linear(64, 48)

        def forward(
            self, ids: torch.Tensor, h: torch.Tensor, c: torch.Tensor
        ) -> tuple[torch.Tensor, ...]:
            y, (h, c) = self.rnn(self.embed(ids), (h, c))
            return F.linear(torch.tanh(self.proj(y)), self.embed.weight), h, c

    return Model(), (torch.randint(0, 120, (6, 1)), torch.zeros(1, 1, 64), torch.zeros(1, 1, 64))


@case(
    "gru_seq2seq",
    family="gru",
    kind="rnn",
    opset=13,
    inputs=("source", "target"),
    fill={"source": 60, "target": 40},
)
def gru_seq2seq() -> Built:
    """Encoder and decoder GRUs with dot-product attention."""

    class Seq2Seq(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.es, self.et = nn.Embedding(60, 32), nn.Embedding(40, 32)
            self.enc = nn.GRU(32, 48, batch_first=True)
            self.dec = nn.GRU(32, 48, batch_first=True)
            self.mix, self.head = nn.Linear(96, 48), nn.Linear(48, 40)

        def forward(self, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
            memory, state = self.enc(self.es(source))
            y, _ = self.dec(self.et(target), state)
            weights = (y @ memory.transpose(1, 2)).softmax(-1)
            return self.head(torch.tanh(self.mix(torch.cat([y, weights @ memory], -1))))

    return Seq2Seq(), (torch.randint(0, 60, (1, 9)), torch.randint(0, 40, (1, 7)))


@case("rnn_elman", family="rnn", kind="rnn", opset=11)
def rnn_elman() -> Built:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.RNN(12, 32, 2, nonlinearity="tanh")
            self.head = nn.Sequential(nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0][-1])

    return Model(), (torch.randn(10, 1, 12),)


@case("crnn_ocr", family="lstm", kind="rnn", opset=13, dynamic={"input": {0: "batch", 3: "width"}})
def crnn_ocr() -> Built:
    """Text recognition: CNN, columns as time steps, bidirectional LSTM, CTC logits."""

    class CRNN(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            parts: list[nn.Module] = []
            for cin, cout, pool in (
                (1, 16, (2, 2)),
                (16, 32, (2, 2)),
                (32, 48, (2, 1)),
                (48, 64, (4, 1)),
            ):
                parts += [nn.Conv2d(cin, cout, 3, padding=1), nn.BatchNorm2d(cout), nn.ReLU()]
                parts.append(nn.MaxPool2d(pool, pool))
            self.cnn = nn.Sequential(*parts)
            self.rnn = nn.LSTM(64, 32, bidirectional=True)
            self.head = nn.Linear(64, 37)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.cnn(x).squeeze(2).permute(2, 0, 1)
            return self.head(self.rnn(y)[0]).permute(1, 0, 2)

    return CRNN(), (torch.randn(1, 1, 32, 64),)


@case("conv_gru_denoise", family="gru", kind="rnn", opset=17)
def conv_gru_denoise() -> Built:
    """Speech enhancement: conv encoder, GRU over time on flattened frequency, gated decoder."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.enc = nn.Sequential(
                nn.Conv2d(1, 12, 3, (1, 2), 1), nn.ELU(), nn.Conv2d(12, 16, 3, (1, 2), 1), nn.ELU()
            )
            self.rnn = nn.GRU(16 * 8, 48, batch_first=True)
            self.fc = nn.Linear(48, 16 * 8)
            self.dec = nn.Sequential(
                nn.ConvTranspose2d(32, 12, (3, 4), (1, 2), 1),
                nn.ELU(),
                nn.ConvTranspose2d(12, 1, (3, 4), (1, 2), 1),
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            e = self.enc(x)
            batch, width, frames, bands = e.shape
            y = e.permute(0, 2, 1, 3).reshape(batch, frames, width * bands)
            y = self.fc(self.rnn(y)[0]).view(batch, frames, width, bands).permute(0, 2, 1, 3)
            return x * torch.sigmoid(self.dec(torch.cat([e, y], 1)))

    return Net(), (torch.randn(1, 1, 10, 32),)


@case("mlp_tabular", family="mlp", kind="mixer", opset=13, dynamic=BATCH)
def mlp_tabular() -> Built:
    parts: list[nn.Module] = [nn.BatchNorm1d(20)]
    for cin, cout in ((20, 64), (64, 64), (64, 32)):
        parts += [nn.Linear(cin, cout), nn.BatchNorm1d(cout), nn.ReLU(), nn.Dropout(0.2)]
    return nn.Sequential(*parts, nn.Linear(32, 2)), (torch.randn(1, 20),)


@case("dlrm", family="mlp", kind="mixer", opset=17, inputs=("dense", "sparse"), fill={"sparse": 50})
def dlrm() -> Built:
    """Recommendation: embeddings, bottom MLP, pairwise dot products, top MLP."""

    class DLRM(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.tables = nn.ModuleList([nn.Embedding(50, 16) for _ in range(4)])
            self.bottom = nn.Sequential(nn.Linear(13, 48), nn.ReLU(), nn.Linear(48, 16), nn.ReLU())
            self.top = nn.Sequential(nn.Linear(16 + 25, 64), nn.ReLU(), nn.Linear(64, 1))

        def forward(self, dense: torch.Tensor, sparse: torch.Tensor) -> torch.Tensor:
            x = self.bottom(dense)
            rows = [x, *(table(sparse[:, i]) for i, table in enumerate(self.tables))]
            stacked = torch.stack(rows, 1)
            dots = (stacked @ stacked.transpose(1, 2)).flatten(1)
            return torch.sigmoid(self.top(torch.cat([x, dots], 1)))

    return DLRM(), (torch.randn(1, 13), torch.randint(0, 50, (1, 4)))


@case("moe_mlp", family="moe", kind="mixer", opset=17, dynamic=BATCH, variants=_DYNAMO)
def moe_mlp() -> Built:
    """Soft mixture of experts: a router weighs four expert MLPs."""

    class MoE(nn.Module):
        def __init__(self, width: int = 32, hidden: int = 64, experts: int = 4) -> None:
            super().__init__()
            self.first = nn.Linear(16, width)
            self.router = nn.Linear(width, experts)
            self.up = nn.Parameter(torch.randn(experts, width, hidden) / width**0.5)
            self.down = nn.Parameter(torch.randn(experts, hidden, width) / hidden**0.5)
            self.head = nn.Linear(width, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x)
            hidden = torch.relu(torch.einsum("bi,eih->beh", x, self.up))
            out = torch.einsum("beh,ehi->bei", hidden, self.down)
            return self.head(x + (self.router(x).softmax(-1)[..., None] * out).sum(1))

    return MoE(), (torch.randn(1, 16),)
