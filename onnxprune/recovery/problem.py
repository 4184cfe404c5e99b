"""The one internal problem form of every layer: ``min over B of ||T - B X||_F^2``.

``X`` [d, N] holds the layer's unfolded inputs, ``T`` [R, N] the outputs wanted. Neither is kept:
the solvers see only the Gram matrix ``H = X X^T`` [d, d] and the cross Gram ``G = T X^T`` [R, d].
When the target is the layer's own dense output, ``G = W H`` (the symmetric mode); when the inputs
come from an already pruned prefix and the targets from the dense network, ``G`` is accumulated on
its own.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy.linalg

from onnxprune.errors import DataError

F64 = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: Relative diagonal given to inputs that were never active, so that every system stays definite.
DEAD_DIAGONAL = 1e-8
#: Multiply-accumulates up to which errors are told of all rows.
ERROR_MACS = 5e9


@dataclass(frozen=True)
class Quadratic:
    """One layer's reconstruction problem, in fp64, regularised towards its dense weights.

    Attributes:
        weight: dense weights W [R, d].
        gram: H [d, d], symmetric, positive definite once it is damped.
        cross: G [R, d]. It carries the same damping as ``gram``, so that the ridge pulls towards
            ``weight`` and never towards zero (methods.md 1.0).
        dead: inputs whose Gram diagonal is zero [d]; their weights cost nothing on the calibration
            data, and those that are kept keep their dense value.
        symmetric: the target is the layer's own dense output, so the optimum is ``weight`` itself.
    """

    weight: F64
    gram: F64
    cross: F64
    dead: Mask
    symmetric: bool = False

    @staticmethod
    def build(
        weight: npt.ArrayLike,
        gram: npt.ArrayLike,
        cross: npt.ArrayLike | None = None,
        *,
        damping: float = 1e-4,
        even: bool = False,
    ) -> Quadratic:
        """Check, symmetrise and damp a problem.

        Args:
            weight: W [R, d], any float type.
            gram: H [d, d].
            cross: G [R, d], or None for the symmetric mode ``G = W H``.
            damping: see :meth:`damped`.
            even: see :meth:`damped`.

        Raises:
            DataError: shapes that do not match, values that are not finite, a negative diagonal.
        """
        return Quadratic.plain(weight, gram, cross).damped(damping, even=even)

    @staticmethod
    def plain(
        weight: npt.ArrayLike, gram: npt.ArrayLike, cross: npt.ArrayLike | None = None
    ) -> Quadratic:
        """Check and symmetrise a problem that is then damped in one way or several.

        Raises:
            DataError: see :meth:`build`.
        """
        w = np.array(weight, dtype=np.float64)
        h = np.array(gram, dtype=np.float64)
        if w.ndim != 2 or h.shape != (w.shape[1], w.shape[1]):
            raise DataError(
                f"Gram matrix {h.shape} does not fit weights {w.shape}: "
                "pass W as [R, d] and H as [d, d]"
            )
        g = w @ h if cross is None else np.array(cross, dtype=np.float64)
        if g.shape != w.shape:
            raise DataError(
                f"cross Gram {g.shape} does not fit weights {w.shape}: pass G = T X^T as [R, d]"
            )
        if not (np.isfinite(h).all() and np.isfinite(w).all() and np.isfinite(g).all()):
            raise DataError(
                "weights or calibration statistics hold NaN or infinity: check the samples"
            )
        diagonal = np.diagonal(h).copy()
        scale = float(np.abs(diagonal).mean()) if diagonal.size else 0.0
        if (diagonal < -1e-9 * scale).any():
            raise DataError(
                "the Gram matrix has a negative diagonal: it is not X X^T; collect it again in fp64"
            )
        # Centring leaves rounding noise of about 1e-16 of the raw moment on constant inputs.
        dead = diagonal <= 1e-13 * scale
        h = 0.5 * (h + h.T)
        h[dead, :] = 0.0
        h[:, dead] = 0.0
        g[:, dead] = 0.0
        return Quadratic(w, h, g, dead, cross is None)

    def damped(self, damping: float, *, even: bool = False) -> Quadratic:
        """Return a plain problem with a ridge that pulls towards the dense weights.

        Args:
            damping: ridge of every input relative to its own diag(H); of dead ones to the mean.
            even: relative to the mean for all.
        """
        diagonal, dead = np.diagonal(self.gram), self.dead
        mean = float(diagonal[~dead].mean()) if (~dead).any() else 1.0
        # In proportion to each input's own energy: scaling an input (and dividing its weights),
        # which changes nothing about the layer, then changes nothing about the ridge either.
        ridge = max(damping, 0.0) * diagonal
        ridge[dead | even] = max(damping, DEAD_DIAGONAL) * mean
        gram = self.gram.copy()
        gram[np.diag_indices_from(gram)] += ridge
        return replace(self, gram=gram, cross=self.cross + self.weight * ridge)

    @property
    def shape(self) -> tuple[int, int]:
        """(R, d)."""
        return self.weight.shape[0], self.weight.shape[1]

    @cached_property
    def factor(self) -> F64:
        """Lower Cholesky factor of ``gram`` [d, d].

        Raises:
            DataError: the Gram matrix is not positive definite.
        """
        return cholesky(self.gram)

    @cached_property
    def inverse(self) -> F64:
        """``gram^-1`` [d, d], symmetric."""
        return inverse_from_factor(self.factor)

    @cached_property
    def target(self) -> F64:
        """The unconstrained optimum ``G H^-1`` [R, d]; the dense weights in the symmetric mode.

        Every mask search runs on (target, H): with G replaced by target H the objective only loses
        a constant, so asymmetric problems need no code of their own.
        """
        if self.symmetric:
            return self.weight
        solved: F64 = scipy.linalg.cho_solve((self.factor, True), self.cross.T, check_finite=False)
        return np.ascontiguousarray(solved.T)

    def excess(self, candidate: F64) -> float:
        """Error above the unconstrained optimum, ``tr((B - B*) H (B - B*)^T)``, in output^2."""
        delta = candidate - self.target
        return float(np.einsum("rd,rd->", delta @ self.gram, delta))

    def relative_error(self, candidate: F64) -> float:
        """``excess`` over the energy ``tr(B* H B*^T)`` of the best output (0 = nothing lost).

        Of a large layer on every so many rows, see :func:`some_rows`.
        """
        rows = some_rows(*self.shape)
        target = self.target[rows]
        delta = candidate[rows] - target
        energy = float(np.einsum("rd,rd->", target @ self.gram, target))
        lost = float(np.einsum("rd,rd->", delta @ self.gram, delta))
        return lost / energy if energy > 0 else 0.0

    @cached_property
    def energy(self) -> float:
        """``tr(B* H B*^T)``, the energy of the best output."""
        return float(np.einsum("rd,rd->", self.target @ self.gram, self.target))

    def of_rows(self, rows: Ints) -> Quadratic:
        """Return the problem of some rows."""
        return replace(self, weight=self.weight[rows], cross=self.cross[rows])

    def scaled_rows(self, factors: F64) -> Quadratic:
        """Return the problem with row r of W and G multiplied by ``factors[r]``."""
        column = factors[:, None]
        return replace(self, weight=self.weight * column, cross=self.cross * column)


def cholesky(matrix: F64) -> F64:
    """Lower Cholesky factor of a symmetric matrix, with zeros above the diagonal.

    Raises:
        DataError: the matrix is not positive definite; the message says to raise the damping.
    """
    try:
        factor: F64 = scipy.linalg.cholesky(matrix, lower=True, check_finite=False)
    except np.linalg.LinAlgError as error:
        raise DataError(
            f"Gram matrix of size {matrix.shape[0]} is not positive definite: "
            "use more samples or a larger damping (1e-4 or more)"
        ) from error
    return factor


def inverse_from_factor(factor: F64) -> F64:
    """Inverse of ``factor factor^T``, exactly symmetric."""
    lower, info = scipy.linalg.lapack.dpotri(factor, lower=1)
    if info != 0:  # pragma: no cover - potri fails only on a zero pivot, which cholesky refuses
        raise DataError("a Cholesky factor has a zero pivot: use a larger damping")
    full = np.tril(lower)
    full += np.tril(lower, -1).T
    return np.ascontiguousarray(full)


def some_rows(rows: int, columns: int) -> slice:
    """Rows that stand for all where an error is told to be compared: :data:`ERROR_MACS` of them."""
    return slice(None, None, max(1, int(rows * columns**2 / ERROR_MACS)))


def validation_error(candidate: F64, weight: F64, gram: F64, cross: F64 | None = None) -> float:
    """Error of ``candidate`` on another Gram matrix, up to a constant that no candidate changes.

    ``tr(B H B^T) - 2 tr(B G^T)``; with ``cross`` None this is the symmetric-mode error
    ``tr((B - W) H (B - W)^T)`` itself. Of a large layer it is that of :func:`some_rows`, times
    what they are of all.

    Args:
        candidate: B [R, d].
        weight: dense W [R, d].
        gram: held-out H [d, d]; only ratios and order of the result matter, so no damping.
        cross: held-out G [R, d] or None.
    """
    rows = some_rows(*candidate.shape)
    part = candidate[rows]
    times = len(candidate) / len(part)
    if cross is None:
        part = part - weight[rows]
        return times * float(np.einsum("rd,rd->", part @ gram, part))
    quadratic = np.einsum("rd,rd->", part @ gram, part)
    return times * float(quadratic - 2.0 * np.einsum("rd,rd->", part, cross[rows]))
