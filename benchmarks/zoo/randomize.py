"""Random weights under which a wrong channel shows, and activations stay of order one.

Framework initialisers hide mistakes: batch norm starts as the identity, biases and layer scales as
zero, transformer matrices so small that attention is uniform. Here every affine parameter and every
statistic is drawn at random per channel, then running statistics are measured on random inputs and
perturbed, so that a deep network neither explodes nor dies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

_BATCH_NORMS = nn.modules.batchnorm._BatchNorm
_CONVS = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd


def _signed(shape: Sequence[int], low: float = 0.5, high: float = 1.5) -> torch.Tensor:
    magnitude = torch.empty(tuple(shape)).uniform_(low, high)
    return torch.where(torch.rand(tuple(shape)) < 0.5, -magnitude, magnitude)


def _fan_in(module: nn.Module, weight: torch.Tensor) -> float:
    if isinstance(module, _TRANSPOSED):
        taps = weight[0, 0].numel() / math.prod(module.stride)
        return max(1.0, weight.shape[0] // module.groups * taps)
    if type(module).__name__ == "Conv1D":  # transformers' GPT-2 layer: weight is [in, out]
        return float(weight.shape[0])
    return float(weight[0].numel())


def randomize(module: nn.Module) -> None:
    """Draw every parameter of `module` anew, in place; deterministic under torch.manual_seed.

    Weights of convolutions are He-normal, of matrices normal with variance 1.5 / fan_in, of
    embeddings normal with std 0.5; norm scales +-[0.5, 1.5]; biases normal with std 0.2. Any other
    per-channel parameter that starts constant (layer scale, class token, gates) is drawn too.
    """
    done: set[int] = set()
    with torch.no_grad():
        for part in module.modules():
            for name, parameter in part.named_parameters(recurse=False):
                if id(parameter) in done or not parameter.is_floating_point():
                    continue
                done.add(id(parameter))
                _draw(part, name, parameter)


def _draw(part: nn.Module, name: str, parameter: torch.Tensor) -> None:
    matrix = isinstance(part, nn.Linear) or type(part).__name__ == "Conv1D"
    if name == "weight" and isinstance(part, _CONVS):
        parameter.normal_(0, math.sqrt(2.0 / _fan_in(part, parameter)))
    elif name == "weight" and matrix:
        parameter.normal_(0, math.sqrt(1.5 / _fan_in(part, parameter)))
    elif isinstance(part, nn.Embedding):
        parameter.normal_(0, 0.5)
    elif isinstance(part, nn.PReLU):
        parameter.uniform_(0.05, 0.45)
    elif name == "bias" and (matrix or isinstance(part, _CONVS)):
        parameter.normal_(0, 0.2)
    elif isinstance(part, nn.RNNBase):
        return  # torch's own initialiser is already uniform over all gates
    elif parameter.numel() > 1 and bool((parameter == parameter.flatten()[0]).all()):
        value = float(parameter.flatten()[0])
        if value == 1.0:
            parameter.copy_(_signed(parameter.shape))
        elif name in ("bias", "beta"):
            parameter.normal_(0, 0.3)
        else:  # zero or tiny: layer scale, token, positional table, gate
            parameter.copy_(_signed(parameter.shape, 0.2, 1.0))


def calibrate(module: nn.Module, args: tuple[Any, ...]) -> None:
    """Set running means and variances to measured ones, then perturb them per channel.

    Leaves `module` in evaluation mode. A module whose training mode cannot run on random inputs of
    four times the batch (fixed batch, statistics over a single value) gets plain random statistics.
    """
    norms = [m for m in module.modules() if isinstance(m, _BATCH_NORMS) and m.track_running_stats]
    module.eval()
    if not norms:
        return
    momenta = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # cumulative average
            norm.train()
        try:
            module(*(_repeat(arg) for arg in args))
        except (RuntimeError, ValueError):
            for norm in norms:
                norm.running_mean.normal_(0, 0.3)
                norm.running_var.uniform_(0.5, 2.0)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            std = norm.running_var.clamp_min(1e-3).sqrt()
            norm.running_mean.add_(0.3 * std * torch.randn_like(std))
            norm.running_var.copy_(std**2 * torch.empty_like(std).uniform_(0.7, 1.6))
    module.eval()


def _repeat(arg: Any) -> Any:
    if not isinstance(arg, torch.Tensor):
        return arg
    if arg.is_floating_point():
        return torch.randn((4 * arg.shape[0], *arg.shape[1:]))
    return torch.cat([arg] * 4, 0)
