"""The plan: which coordinates or weights of which tensor stay. Plain data, replayable."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.errors import DataError, UsageError
from onnxprune.planning.bits import Masks

VERSION = 1
Kept = list[list[int] | None]


@dataclass
class PrunePlan:
    """What a prune keeps, by the names and shapes of the original tensors.

    Attributes:
        kind: ``structure`` (coordinates are deleted) or ``mask`` (weights become zero).
        shapes: original shape of every tensor the plan speaks of.
        kept: for ``structure``: tensor -> for every axis the kept indices, ascending, or None for
            an axis that stays whole.
        masks: for ``mask``: tensor -> bool array of the weight's shape, True is KEPT.
        options: what was asked for.
        groups: for people: what each group of units, or each layer, keeps.
        through_norms: coordinates leave axes that a normalisation mixes; its statistics are then
            those of what stays.
        orders: for ``mask``: groups whose units were reordered first, by name, with the old unit
            at each new place; the masks are those of the reordered tensors.
    """

    kind: str
    shapes: dict[str, list[int]] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)
    masks: Masks = field(default_factory=Masks)
    options: dict[str, Any] = field(default_factory=dict)
    groups: list[dict[str, Any]] = field(default_factory=list)
    through_norms: bool = False
    orders: dict[str, list[int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the plan as JSON-ready data; masks as base64 of zlib of packed bits."""
        tensors: dict[str, Any] = {}
        for name, kept in self.kept.items():
            tensors[name] = {"shape": self.shapes[name], "kept": kept}
        for name in self.masks:
            packed = zlib.compress(self.masks.bits(name).tobytes(), 1)
            tensors[name] = {
                "shape": self.shapes[name],
                "mask": base64.b64encode(packed).decode("ascii"),
            }
        return {
            "onnxprune_plan": VERSION,
            "kind": self.kind,
            "through_norms": self.through_norms,
            "options": self.options,
            **({"orders": self.orders} if self.orders else {}),
            "groups": self.groups,
            "tensors": tensors,
        }

    @classmethod
    def from_dict(cls, data: Any) -> PrunePlan:
        """Read a plan.

        Raises:
            DataError: not a plan, or of another version, or damaged.
        """
        if not isinstance(data, Mapping) or "onnxprune_plan" not in data:
            raise DataError("this is not a plan: it has no 'onnxprune_plan' field")
        if data["onnxprune_plan"] != VERSION:
            raise DataError(
                f"plan version {data['onnxprune_plan']!r}; this program reads {VERSION}"
            )
        plan = cls(str(data.get("kind", "")))
        if plan.kind not in ("structure", "mask"):
            raise DataError(f"plan kind {plan.kind!r}; it must be 'structure' or 'mask'")
        try:
            plan.through_norms = bool(data.get("through_norms", False))
            plan.options = dict(data.get("options", {}))
            plan.groups = list(data.get("groups", []))
            plan.orders = {
                str(name): [int(i) for i in order]
                for name, order in dict(data.get("orders", {})).items()
            }
            for name, entry in data["tensors"].items():
                shape = [int(n) for n in entry["shape"]]
                plan.shapes[name] = shape
                if plan.kind == "structure":
                    plan.kept[name] = _read_kept(name, shape, entry["kept"])
                else:
                    bits = np.frombuffer(zlib.decompress(base64.b64decode(entry["mask"])), np.uint8)
                    plan.masks.put(name, bits, tuple(shape))
        except (KeyError, TypeError, ValueError, AttributeError, zlib.error) as error:
            raise DataError(f"the plan is damaged: {error}") from error
        return plan

    @classmethod
    def load(cls, path: str | Path) -> PrunePlan:
        """Read a plan file.

        Raises:
            DataError: unreadable, or not a plan.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
        except OSError as error:
            raise DataError(f"cannot read the plan {path}: {error.strerror}") from error
        except ValueError as error:
            raise DataError(f"{path} is not a plan: {error}") from error
        return cls.from_dict(data)

    def dumps(self) -> str:
        """Return the plan as JSON text: a line a tensor and a group, so that plans diff well."""
        data = self.as_dict()
        lines = ["{"]
        for key in ("onnxprune_plan", "kind", "through_norms", "options", "orders"):
            if key not in data:
                continue
            lines.append(f" {json.dumps(key)}: {json.dumps(data[key])},")
        groups = ",\n  ".join(json.dumps(g) for g in data["groups"])
        tensors = ",\n  ".join(
            f"{json.dumps(k)}: {json.dumps(v)}" for k, v in data["tensors"].items()
        )
        lines.append(f' "groups": [\n  {groups}\n ],')
        lines.append(f' "tensors": {{\n  {tensors}\n }}')
        return "\n".join([*lines, "}"]) + "\n"

    def check_shape(self, name: str, shape: Sequence[int] | None) -> None:
        """Make sure the plan was made for a tensor of this shape.

        Raises:
            UsageError: the model has no such tensor, or of another shape.
        """
        if shape is None:
            raise UsageError(f"the plan speaks of tensor {name!r}, which this model does not have")
        if list(shape) != self.shapes[name]:
            raise UsageError(
                f"the plan was made for {name!r} of shape {self.shapes[name]}; "
                f"here it is {list(shape)}"
            )


def _read_kept(name: str, shape: list[int], kept: Any) -> Kept:
    if len(kept) != len(shape):
        raise ValueError(f"{name}: {len(kept)} axes of {len(shape)}")
    out: Kept = []
    for size, indices in zip(shape, kept, strict=True):
        if indices is None:
            out.append(None)
            continue
        numbers = [int(i) for i in indices]
        if numbers != sorted(set(numbers)) or (
            numbers and not 0 <= numbers[0] <= numbers[-1] < size
        ):
            raise ValueError(f"{name}: kept indices must ascend within 0..{size - 1}")
        out.append(numbers)
    return out
