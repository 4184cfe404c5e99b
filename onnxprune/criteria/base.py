"""The interface every criterion fills, and the registry that finds the criteria."""

from __future__ import annotations

import difflib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.errors import UsageError
from onnxprune.registry import Registry

Role = Literal["out", "in", "bn_scale", "bias", "other"]
"""What a parameter is to the unit: ``out`` produces it (a filter), ``in`` consumes it, ``bn_scale``
scales it, ``bias`` shifts it, ``other`` is bookkeeping (running statistics)."""

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Member:
    """The slices of one parameter tensor that belong to the units of one group.

    Attributes:
        role: what the tensor is to the units.
        name: the tensor, for messages.
        values: [n_units, m] of any float dtype (fp16 and bf16 included), row u holding the m
            numbers that would be deleted with unit u.
        measured: [n_units], what a criterion that looks at activations said about the units where
            this tensor reads them; None where nothing was measured.
    """

    role: Role
    name: str
    values: npt.NDArray[Any]
    measured: Float64 | None = None


@dataclass(frozen=True)
class Criterion(ABC):
    """A way to say how much a weight or a unit matters.

    Class attributes, read by the command line, the docs and the generated tests:

    * ``syntax``, ``summary``, ``examples``: as for a pattern,
    * ``needs``: what it reads beside the weights: ``bn``, ``activations``, ``gradients``,
    * ``degree``: how the saliency of a single weight grows, as ``|w| ** degree``; allocations that
      are defined on squared weights (LAMP) use it,
    * ``local``: whether a weight's score depends on that weight alone, so that any part of a
      tensor, in any shape, can be scored by itself.
    """

    syntax: ClassVar[str]
    summary: ClassVar[str]
    examples: ClassVar[tuple[str, ...]]
    needs: ClassVar[frozenset[str]] = frozenset()
    local: ClassVar[bool] = False

    @property
    @abstractmethod
    def name(self) -> str:
        """The canonical spelling; ``parse_criterion(c.name) == c``."""

    @property
    def degree(self) -> float:
        """The exponent d of ``saliency ~ |w| ** d``."""
        return 1.0

    @classmethod
    def parse(cls, text: str) -> Criterion | None:
        """Read lower-case ``text``; None when it is not this criterion's form.

        Raises:
            UsageError: it is this criterion's form but its number cannot be meant.
        """
        return cls() if text == cls.syntax else None

    @abstractmethod
    def elementwise(
        self, weight: npt.NDArray[Any], rng: np.random.Generator | None = None
    ) -> Float32:
        """Score every single weight of the canonical view ``[G, O, I, *K]``.

        Returns:
            float32 of the same shape, never NaN: a NaN weight scores +inf, so that it is kept and
            stays visible.
        """

    @abstractmethod
    def unit(self, members: Sequence[Member], rng: np.random.Generator | None = None) -> Float64:
        """Score the units of one group from all their members.

        Returns:
            float64 [n_units] of mean 1 (all 1 when no member tells the units apart), never NaN,
            so that one threshold can be laid over several groups.

        Raises:
            ValueError: no members, or members of different numbers of units.
        """

    def caveat(self, members: Sequence[Member] | None) -> str | None:
        """Say why, for these units, the scores are not what the criterion's name promises.

        Args:
            members: what :meth:`unit` would get; None asks about :meth:`elementwise`.

        Returns:
            One clause naming what is missing and what is used instead; None when all is well.
        """
        del members
        return None


CRITERIA: Registry[type[Criterion]] = Registry("criterion", "onnxprune.criteria")


def parse_criterion(text: str) -> Criterion:
    """Read a criterion from its spelling, e.g. ``l1``, ``lp:1.5``, ``bn``.

    Raises:
        UsageError: no criterion is spelt like this (near names are given), or its number cannot be
            meant.
    """
    spelt = text.strip().lower()
    for _, member in CRITERIA.items():
        found = member.parse(spelt)
        if found is not None:
            return found
    heads = dict(CRITERIA.items())
    near = difflib.get_close_matches(spelt.partition(":")[0], heads, n=1)
    hint = f" Did you mean {heads[near[0]].examples[0]!r}?" if near else ""
    choices = ", ".join(member.syntax for _, member in CRITERIA.items())
    raise UsageError(f"unknown criterion {text!r}.{hint} Choices: {choices}")
