"""Synthetic layers with known samples, so that every solver has an oracle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from onnxprune.recovery.problem import Quadratic


@dataclass(frozen=True)
class Layer:
    """Weights [R, d], inputs [d, N] and targets [R, N] of one layer, with its shape (R, I, *K)."""

    shape: tuple[int, ...]
    weight: np.ndarray
    inputs: np.ndarray
    targets: np.ndarray

    @property
    def gram(self) -> np.ndarray:
        return self.inputs @ self.inputs.T

    @property
    def cross(self) -> np.ndarray:
        return self.targets @ self.inputs.T

    def problem(self, damping: float = 0.0, *, symmetric: bool = False) -> Quadratic:
        cross = None if symmetric else self.cross
        return Quadratic.build(self.weight, self.gram, cross, damping=damping)

    def error(self, candidate: np.ndarray) -> float:
        """Squared error over the samples themselves."""
        return float(((self.targets - candidate @ self.inputs) ** 2).sum())


def relu_layer(shape, *, samples=None, seed=0, noise=0.0) -> Layer:
    """Correlated ReLU inputs of uneven scale, as between two convolutions."""
    rng = np.random.default_rng(seed)
    rows, size = shape[0], int(np.prod(shape[1:]))
    samples = samples or 8 * size
    mix = np.eye(size) + 0.7 * rng.standard_normal((size, size)) / np.sqrt(size)
    scale = np.exp(0.5 * rng.standard_normal((size, 1)))
    inputs = np.maximum(mix @ (scale * rng.standard_normal((size, samples))), 0.0)
    weight = rng.standard_normal((rows, size)) / np.sqrt(size)
    weight *= np.exp(0.3 * rng.standard_normal(weight.shape))
    targets = weight @ inputs + noise * rng.standard_normal((rows, samples))
    return Layer(tuple(shape), weight, inputs, targets)


def solve_rows(layer: Layer, mask: np.ndarray) -> np.ndarray:
    """Oracle: every row by numpy's lstsq on the samples of its kept inputs."""
    out = np.zeros(mask.shape)
    for row, keep in enumerate(mask):
        if keep.any():
            out[row, keep] = np.linalg.lstsq(layer.inputs[keep].T, layer.targets[row], rcond=None)[
                0
            ]
    return out
