"""Block-wise reconstruction without labels: what stays is trained to give the dense values.

All blocks are trained together. Every block's output, and the network's, is compared with the dense
network's on the same samples (the feature distances of BRECQ, Li et al. 2021, and of global
AdaPrune, Frantar and Alistarh 2022; methods.md 5), so that each layer makes up for those before it
and serves those behind it.

Steps are natural gradients on the input side: a layer is trained as ``V = W L`` with ``L L^T`` the
damped second moment of its inputs, which makes its problem as round as it can be, with one step
size a tensor. (This is the input factor of K-FAC, Martens and Grosse 2015.) A handful of epochs
then does what hundreds of Adam's would.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.operands import Operand
from onnxprune.recovery.distil_graph import Distillation

Array = npt.NDArray[Any]
F64 = npt.NDArray[np.float64]
Feed = Mapping[str, Array]
#: First step size, as a share of a tensor's root mean square; it falls along a cosine.
RATE = 0.005
EPOCHS = 10
#: Samples behind one step, at least.
BATCH = 96
#: How often the held-out samples are looked at, in epochs.
LOOK = 2
MOMENTUM, MEMORY = 0.9, 0.95
#: Added to a second moment of inputs, relative to its mean diagonal.
DAMPING = 1e-2


@dataclass(frozen=True)
class Space:
    """Coordinates in which a layer's weights are trained.

    Attributes:
        operand: how weights are laid out as [G, R, d].
        root: L [G, d, d], lower triangular.
        inverse: L^-1.
    """

    operand: Operand
    root: F64
    inverse: F64

    @staticmethod
    def build(operand: Operand, moment: F64) -> Space:
        """Return the space of inputs with second moments ``moment`` [G, d, d]."""
        size = moment.shape[-1]
        mean = np.maximum(np.einsum("gdd->g", moment) / size, 1e-30)[:, None, None]
        root = np.linalg.cholesky(moment / mean + DAMPING * np.eye(size))
        return Space(operand, root, np.linalg.inv(root))

    def into(self, weight: Array) -> F64:
        """Weights as coordinates [G, R, d]."""
        found: F64 = self.operand.matrix(weight).astype(np.float64) @ self.root
        return found

    def back(self, coordinates: F64) -> Array:
        """Inverse of :meth:`into`."""
        return self.operand.unmatrix(coordinates @ self.inverse)

    def slope(self, gradient: Array) -> F64:
        """A derivative with respect to weights as one with respect to coordinates."""
        found: F64 = self.operand.matrix(gradient).astype(np.float64) @ self.inverse.transpose(
            0, 2, 1
        )
        return found


@dataclass(frozen=True)
class Trained:
    """Weights and how they were reached.

    Attributes:
        weights: those that agreed best on held-out samples.
        loss: that disagreement.
        history: (epoch, training loss, held-out disagreement).
    """

    weights: dict[str, Array]
    loss: float
    history: tuple[tuple[int, float | None, float], ...]


def train(
    graph: Distillation,
    start: Mapping[str, Array],
    feeds: Sequence[Feed],
    wants: Sequence[Mapping[str, Array]],
    spaces: Mapping[str, Space],
    held_out: Callable[[Mapping[str, Array]], float],
    *,
    masks: Mapping[str, npt.NDArray[np.bool_]] | None = None,
    epochs: int = EPOCHS,
    rate: float = RATE,
    seed: int = 0,
    progress: Callable[[str, float], None] | None = None,
) -> Trained:
    """Train a student and return its best weights.

    Args:
        graph: the student and its derivatives.
        start: weights to start from, by name.
        feeds: training samples.
        wants: for every feed the dense network's values.
        spaces: by name, where a weight is trained; others are trained as they are.
        held_out: disagreement on other samples under given weights.
        masks: weights that may not be zero; the others become zero after every step.
        epochs: passes over the feeds.
        rate: first step size.
        seed: for the order of the feeds.
        progress: called with (stage, fraction done).

    Raises:
        DataError: onnxruntime does not run the model.
    """
    names = graph.weights
    now = {n: np.array(start[n], np.float32) for n in names}
    at = {n: spaces[n].into(now[n]) if n in spaces else now[n].astype(np.float64) for n in names}
    scale = {n: max(float(np.sqrt(np.mean(at[n] ** 2))), 1e-8) for n in names}
    first = {n: np.zeros_like(at[n]) for n in names}
    second = dict.fromkeys(names, 0.0)
    rng = np.random.default_rng(seed)
    best, least = {n: a.copy() for n, a in now.items()}, held_out(now)
    history: list[tuple[int, float | None, float]] = [(0, None, least)]
    rows = max(1, int(next(iter(feeds[0].values())).shape[0]))
    join = min(len(feeds), max(1, -(-BATCH // rows)))
    total, step = epochs * (len(feeds) // join), 0
    for epoch in range(1, epochs + 1):
        losses = []
        order = rng.permutation(len(feeds))
        for place in range(0, len(order) // join * join, join):
            grads: dict[str, Array] = {}
            for index in order[place : place + join]:
                loss, found = graph.run(feeds[index], wants[index], now)
                losses.append(loss)
                grads = {n: g + grads[n] if grads else g for n, g in found.items()}
            step += 1
            size = 0.5 * rate * (1 + np.cos(np.pi * step / total))
            for name in names:
                grad = grads[name] / join
                slope = spaces[name].slope(grad) if name in spaces else grad.astype(np.float64)
                first[name] += (1 - MOMENTUM) * (slope - first[name])
                second[name] += (1 - MEMORY) * (float(np.mean(slope * slope)) - second[name])
                mean = first[name] / (1 - MOMENTUM**step)
                root = np.sqrt(second[name] / (1 - MEMORY**step)) + 1e-30
                at[name] -= (size * scale[name] / root) * mean
                array = spaces[name].back(at[name]) if name in spaces else at[name]
                now[name] = array.astype(np.float32)
                if masks is not None and name in masks:
                    now[name] *= masks[name]
                    at[name] = spaces[name].into(now[name]) if name in spaces else at[name]
            if progress is not None:
                progress("train", step / total)
        if epoch % LOOK == 0 or epoch == epochs:
            seen = held_out(now)
            history.append((epoch, float(np.mean(losses)), seen))
            if seen < least:
                best, least = {n: a.copy() for n, a in now.items()}, seen
    return Trained(best, least, tuple(history))
