"""What to select: the options that the command line, recipes and the API share."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from onnxprune.errors import UsageError

TARGETS = ("params", "macs", "bytes")
POLICIES = ("prune", "keep")
EXACT = ("heads", "head_dim", "ffn", "channels")
STRUCTURES = ("auto", *EXACT, "hidden")
PERMUTE = ("auto", "on", "none")


@dataclass(frozen=True)
class SelectOptions:
    """How much to take, from where, by which score.

    Attributes:
        pattern: spelling of a pattern, see ``onnxprune list patterns``.
        sparsity: fraction to remove, 0 <= s < 1: of weights, or of the units of a group for
            ``channel``; None where a pattern fixes it, a target is given or only layers are.
        target: {"params": f}, {"macs": f} or {"bytes": f}: fraction of the model's parameters,
            multiply-accumulates or bytes of weights that may remain; the sparsity is found from
            it.
        criterion: spelling of a criterion.
        allocation: name of an allocation strategy.
        align: kept counts of channels are multiples of this.
        only: regular expression; layers whose names do not match are left alone.
        keep: regular expression; layers whose names match are left alone (for ``channel``: their
            output channels all stay).
        layers: name or regular expression -> sparsity of those layers.
        first_layer: "prune" or "keep": what happens to the first layer with weights.
        last_layer: likewise for the last one.
        seed: for random scores.
        shrink_states: regular expression on names of inputs; those that are streaming state, given
            back by an output, may lose units at both ends. Changes the model's interface.
        structure: for ``channel``: which kinds of units, separated by commas. ``heads`` of
            attention, the width inside them (``head_dim``; the same coordinates of every head),
            the inner width of feed-forward layers (``ffn``), ``channels`` of
            convolutions and recurrent layers, or ``auto``: all that is exact. ``hidden`` goes
            through the normalisations that mix an axis, which is approximate.
        permute: for patterns that tie neighbouring channels (N:M, blocks, vectors): "auto": with
            samples, coupled channels are reordered where that loses less; "on": also without
            samples; "none".
    """

    pattern: str = "channel"
    sparsity: float | None = None
    target: Mapping[str, float] = field(default_factory=dict)
    criterion: str = "auto"
    allocation: str = "auto"
    align: int = 1
    only: str | None = None
    keep: str | None = None
    layers: Mapping[str, float] = field(default_factory=dict)
    first_layer: str = "prune"
    last_layer: str = "prune"
    seed: int = 0
    shrink_states: str | None = None
    structure: str = "auto"
    permute: str = "auto"

    def __post_init__(self) -> None:
        """Check what can be checked without a model.

        Raises:
            UsageError: a number or name that cannot be meant.
        """
        levels = {"sparsity": self.sparsity} | {f"layer {k!r}": v for k, v in self.layers.items()}
        for what, value in levels.items():
            if value is not None and not 0 <= value < 1:
                raise UsageError(
                    f"{what} is {value:g}: give the fraction to remove, at least 0 and below 1"
                )
        for what, value in self.target.items():
            if what not in TARGETS:
                raise UsageError(f"unknown target {what!r}; targets are: {', '.join(TARGETS)}")
            if not 0 < value <= 1:
                raise UsageError(f"target {what}={value:g}: give the fraction to keep, in (0, 1]")
        if len(self.target) > 1:
            raise UsageError("give one target: params, macs or bytes")
        if self.target and self.sparsity is not None:
            raise UsageError("give either a sparsity or a target, not both")
        if self.align < 1:
            raise UsageError(f"align is {self.align}: give a whole number from 1")
        for what, policy in (("first_layer", self.first_layer), ("last_layer", self.last_layer)):
            if policy not in POLICIES:
                raise UsageError(f"{what} is {policy!r}; choose from: {', '.join(POLICIES)}")
        for name in self.structures:
            if name not in STRUCTURES:
                raise UsageError(f"structure {name!r}; choose from: {', '.join(STRUCTURES)}")
        if self.structure != "auto" and self.pattern != "channel":
            raise UsageError(f"structure is for pattern 'channel', not for {self.pattern!r}")
        if self.permute not in PERMUTE:
            raise UsageError(f"permute is {self.permute!r}; choose from: {', '.join(PERMUTE)}")
        for what, text in (
            ("only", self.only),
            ("keep", self.keep),
            ("shrink_states", self.shrink_states),
        ):
            try:
                re.compile(text or "")
            except re.error as error:
                raise UsageError(f"{what} {text!r} is not a regular expression: {error}") from None

    @property
    def structures(self) -> frozenset[str]:
        """The kinds of units asked for; ``auto`` spelt out."""
        named = {x.strip() for x in self.structure.split(",")}
        return frozenset(named - {"auto"} | (set(EXACT) if "auto" in named else set()))

    def as_dict(self) -> dict[str, Any]:
        """Return the options as plain data."""
        return dataclasses.asdict(self)

    def wants(self, names: list[str]) -> bool:
        """Return whether ``only`` and ``keep`` leave a layer of these names to be pruned."""
        if self.only is not None and not any(re.search(self.only, n) for n in names):
            return False
        return self.keep is None or not any(re.search(self.keep, n) for n in names)
