"""Derivatives of a layer's weights turned into steps.

Natural gradients on the input side: a derivative ``G`` becomes the step ``G H^-1`` with ``H`` the
damped second moment of the layer's inputs (the input factor of K-FAC, Martens and Grosse 2015).
Under a mask every row has its own inputs, and the step of a row is ``g_S (H_SS)^-1`` over what it
keeps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.calibration.operands import Operand

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
#: Added to a second moment of inputs, relative to its mean diagonal, where columns are plenty.
DAMPING = 1e-2
#: Numbers in the inverses of a layer's rows; beyond it the rows share the inverse of all inputs.
ROOM = 6_000_000


@dataclass(frozen=True)
class Space:
    """Turns derivatives of a layer's weights into steps.

    Attributes:
        operand: how weights are laid out as [G, R, d].
        moment: of inputs, damped, of mean diagonal 1 [G, d, d].
        inverse: its inverse, or [G, R, k, k] those over the inputs that each row keeps.
        places: then, these inputs [G, R, k], filled up with others.
        real: then, which of them are kept.
        mask: what is kept of the tensor; None for all.
    """

    operand: Operand
    moment: F64
    inverse: F32
    places: npt.NDArray[np.int64] | None = None
    real: Mask | None = None
    mask: Mask | None = None

    @staticmethod
    def build(
        operand: Operand, moment: F64, mask: Mask | None = None, *, damping: float = DAMPING
    ) -> Space:
        """Return the space of inputs with second moments ``moment`` [G, d, d].

        Args:
            operand: the layer.
            moment: of its inputs, of any scale.
            mask: what is kept; None for all.
            damping: added to the diagonal, relative to its mean.

        Raises:
            numpy.linalg.LinAlgError: the moment is not finite.
        """
        size = moment.shape[-1]
        mean = np.maximum(np.einsum("gdd->g", moment) / size, 1e-30)[:, None, None]
        damped = moment / mean + damping * np.eye(size)
        if mask is None or mask.all():
            return Space(operand, damped, np.linalg.inv(damped).astype(np.float32))
        kept = operand.matrix(mask)
        most = max(1, int(kept.sum(axis=2).max()))
        if kept.shape[0] * kept.shape[1] * most * most > ROOM:
            return Space(operand, damped, np.linalg.inv(damped).astype(np.float32), mask=mask)
        places = np.argsort(~kept, axis=2, kind="stable")[:, :, :most]
        real = np.take_along_axis(kept, places, axis=2)
        inverse = np.empty((*places.shape, most), np.float32)
        for group, row in np.ndindex(*kept.shape[:2]):
            at = places[group, row]
            both = np.outer(real[group, row], real[group, row])
            part = np.where(both, damped[group][np.ix_(at, at)], np.eye(most))
            inverse[group, row] = np.linalg.inv(part)
        return Space(operand, damped, inverse, places, real, mask)

    def step(self, gradient: Array) -> Array:
        """The direction in which weights move under a derivative, zero where they are fixed."""
        matrix = self.operand.matrix(gradient)
        if self.places is None:
            found = self.operand.unmatrix(matrix @ self.inverse)
            return found if self.mask is None else found * self.mask
        taken = np.take_along_axis(matrix, self.places, axis=2) * self.real
        moved = np.matmul(self.inverse, taken[..., None])[..., 0] * self.real
        out = np.zeros_like(matrix)
        np.put_along_axis(out, self.places, moved, axis=2)
        return self.operand.unmatrix(out)

    def energy(self, weight: Array) -> float:
        """``w H w^T`` summed over rows: the square of the layer's output."""
        matrix = self.operand.matrix(weight).astype(np.float64)
        return float(np.einsum("gri,gij,grj->", matrix, self.moment, matrix, optimize=True))
