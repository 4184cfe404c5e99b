"""Mean and variance matching where no normalisation is left to re-estimate (methods.md 1.6).

After pruning, channel c of a layer's output has other moments than in the dense network. Scaling
its weights by ``a = sigma_dense / sigma_pruned`` and moving its bias restores both. The factor is
shrunk towards 1 where few samples or little signal stand behind it, clipped, and left at 1 for
channels that hardly vary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.recovery.problem import F64


@dataclass(frozen=True)
class Moments:
    """Per-channel moments of a layer's output, bias included.

    Attributes:
        mean: [R].
        variance: [R].
        samples: effective number of independent samples behind them.
    """

    mean: F64
    variance: F64
    samples: float


@dataclass(frozen=True)
class Affine:
    """A per-channel repair: weights of row c times ``scale[c]``, bias replaced by ``bias[c]``."""

    scale: F64
    bias: F64


def match_moments(
    dense: Moments,
    pruned: Moments,
    bias: F64,
    *,
    noise: float = 16.0,
    limit: float = 2.0,
    floor: float = 1e-3,
) -> Affine:
    """Scale and bias that give the pruned channels the dense moments.

    ``a' = 1 + k (a - 1)`` with ``k = n s / (n s + noise)``, the shrinkage of ASR (methods.md 1.6):
    n counts samples and s is the channel's variance over the layer's mean variance, so that k nears
    1 with many samples of an ordinary channel and falls for few samples or a weak one.

    Args:
        dense, pruned: moments of the same pre-activations.
        bias: the pruned layer's bias [R], already contained in ``pruned.mean``.
        noise: strength of the shrinkage, as a number of samples; 0 switches it off.
        limit: the factor stays within [1/limit, limit].
        floor: channels whose standard deviation is below this fraction of the layer's root mean
            square keep factor 1, because their ratio is noise.
    """
    reference = float(np.mean(pruned.variance)) if pruned.variance.size else 0.0
    usable = pruned.variance > floor**2 * max(reference, 1e-300)
    safe = np.where(usable, pruned.variance, 1.0)
    raw = np.where(usable, np.sqrt(np.maximum(dense.variance, 0.0) / safe), 1.0)
    signal = pruned.samples * safe / max(reference, 1e-300)
    trust = signal / (signal + noise) if noise > 0 else np.ones_like(signal)
    scale = np.where(usable, np.clip(1.0 + trust * (raw - 1.0), 1.0 / limit, limit), 1.0)
    moved: F64 = dense.mean - scale * (pruned.mean - bias)
    return Affine(scale, moved)
