"""Recipes: everything a prune depends on besides the model, as one piece of plain data.

A recipe is written in YAML. Command-line flags are sugar that builds one; ``--dump-recipe`` prints
it in full, and replaying what was printed gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, cast

import yaml

from onnxprune.errors import UsageError
from onnxprune.passes.apply_plan import ApplyPlan
from onnxprune.passes.base import PASSES, Pass
from onnxprune.passes.emit import Emit
from onnxprune.planning import PrunePlan, SelectOptions
from onnxprune.recovery.steps import parse_recover

VERSION = 1
APPLY = ApplyPlan.name


@dataclass(frozen=True)
class DataOptions:
    """Which samples are used where samples are needed.

    Attributes:
        path: ``.npz``, folder or ``file.py:function``; None for random inputs.
        samples: how many of them to use at most; None for 64 in the proof, up to 1024
            in recovery.
    """

    path: str | None = None
    samples: int | None = None

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            UsageError: no samples at all.
        """
        if self.samples is not None and self.samples < 1:
            raise UsageError(f"samples is {self.samples}: give a whole number from 1, or null")


@dataclass(frozen=True)
class ProofOptions:
    """How the result is proved.

    Attributes:
        run: whether to compare with the dense model at all.
    """

    run: bool = True


@dataclass(frozen=True)
class Recipe:
    """What to select, which passes rewrite the model, how the result is proved.

    Attributes:
        select: how much to take, from where, by which score.
        plan: path of a plan to replay instead of selecting.
        passes: in this order; exactly one is ``apply-plan``, those before it see the dense model.
        data: samples.
        recover: what is done with samples beside the proof: ``auto``, ``none`` or steps
            (:mod:`onnxprune.recovery.steps`).
        proof: the proof.
    """

    select: SelectOptions = field(default_factory=SelectOptions)
    plan: str | None = None
    passes: tuple[Pass, ...] = (ApplyPlan(),)
    data: DataOptions = field(default_factory=DataOptions)
    recover: str = "auto"
    proof: ProofOptions = field(default_factory=ProofOptions)

    def __post_init__(self) -> None:
        """Check that the passes hold ``apply-plan`` once, and that ``recover`` is known.

        Raises:
            UsageError: they do not, or it is not.
        """
        parse_recover(self.recover)
        count = sum(isinstance(p, ApplyPlan) for p in self.passes)
        if count != 1:
            raise UsageError(
                f"the passes of a recipe hold {APPLY!r} {count} times; list it once, after the "
                "passes that work on the dense model and before those that work on the pruned one"
            )

    @property
    def _place(self) -> int:
        return next(i for i, p in enumerate(self.passes) if isinstance(p, ApplyPlan))

    @property
    def before(self) -> tuple[Pass, ...]:
        """The passes that run on the dense model."""
        return self.passes[: self._place]

    @property
    def after(self) -> tuple[Pass, ...]:
        """The passes that run on the pruned model."""
        return self.passes[self._place + 1 :]

    @property
    def mask_only(self) -> bool:
        """Whether removed units become zeros instead of being deleted."""
        apply = self.passes[self._place]
        assert isinstance(apply, ApplyPlan)
        return apply.mask_only

    def with_mask_only(self, on: bool) -> Recipe:
        """Return the recipe with another :attr:`mask_only`."""
        passes = tuple(ApplyPlan(on) if isinstance(p, ApplyPlan) else p for p in self.passes)
        return dataclasses.replace(self, passes=passes)

    def with_format(self, name: str) -> Recipe:
        """Return the recipe with weights packed at the end, in place of any packing it has.

        Raises:
            UsageError: there is no such format.
        """
        kept = tuple(p for p in self.passes if not isinstance(p, Emit))
        return dataclasses.replace(self, passes=(*kept, Emit(name)))

    def with_recover(self, what: str | Sequence[str]) -> Recipe:
        """Return the recipe with another :attr:`recover`, a list of steps too.

        Raises:
            UsageError: there is no such choice.
        """
        text = what if isinstance(what, str) else ",".join(what) or "none"
        return dataclasses.replace(self, recover=text)

    def for_plan(self, plan: PrunePlan) -> Recipe:
        """Return the recipe with what ``plan`` says it was selected by, as far as that is known."""
        names = {f.name for f in dataclasses.fields(SelectOptions)}
        try:
            select = SelectOptions(**{k: v for k, v in plan.options.items() if k in names})
        except (UsageError, TypeError):  # options are a record for people; any plan can be replayed
            return self
        return dataclasses.replace(self, select=select)

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as plain data with every default spelt out."""
        return {
            "version": VERSION,
            "select": self.select.as_dict(),
            "plan": self.plan,
            "passes": [{p.name: p.options()} if p.options() else p.name for p in self.passes],
            "data": dataclasses.asdict(self.data),
            "recover": self.recover,
            "proof": dataclasses.asdict(self.proof),
        }

    def dumps(self) -> str:
        """Return the recipe as YAML."""
        text: str = yaml.dump(self.as_dict(), Dumper=_Dumper, sort_keys=False, width=100)
        return text

    @classmethod
    def from_dict(cls, data: Any, where: str = "the recipe") -> Recipe:
        """Read a recipe from plain data; what is not mentioned keeps its default.

        Raises:
            UsageError: an unknown key, pass or option (near names are given), a value of the wrong
                type or outside its range, or another version.
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"{where} is not a mapping; it starts with 'version: {VERSION}'")
        _known(data, ["version", *(f.name for f in dataclasses.fields(cls))], where)
        version = data.get("version", VERSION)
        if version != VERSION:
            raise UsageError(f"{where} has version {version!r}; this program reads {VERSION}")
        plan = data.get("plan")
        if plan is not None and not isinstance(plan, str):
            raise UsageError(f"{where}: plan is {plan!r}; give the path of a plan, or null")
        select = _read(SelectOptions, data.get("select"), f"{where}: select")
        samples = _read(DataOptions, data.get("data"), f"{where}: data")
        proof = _read(ProofOptions, data.get("proof"), f"{where}: proof")
        passes = (ApplyPlan(),) if data.get("passes") is None else _passes(data["passes"], where)
        recover = _typed(data.get("recover", "auto"), "str", f"{where}: recover")
        try:
            return cls(select, plan, passes, samples, recover, proof)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Recipe:
        """Read a recipe file.

        Raises:
            UsageError: unreadable, not YAML, or see :meth:`from_dict`.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except OSError as error:
            raise UsageError(f"cannot read the recipe {path}: {error.strerror}") from error
        except ValueError as error:
            raise UsageError(f"the recipe {path} is not text: {error}") from error
        try:
            data = yaml.load(text, Loader=_Loader)
        except (yaml.YAMLError, RecursionError) as error:
            told = " ".join(str(error).split())
            raise UsageError(f"the recipe {path} is not YAML: {told}") from error
        return cls.from_dict(data, str(path))


def _passes(entries: Any, where: str) -> tuple[Pass, ...]:
    """Read a list of passes, each a name or ``{name: {option: value}}``."""
    if isinstance(entries, str) or not isinstance(entries, Sequence):
        raise UsageError(f"{where}: passes is {entries!r}; give a list of names")
    found: list[Pass] = []
    for entry in entries:
        name: Any = entry
        options: Any = None
        if isinstance(entry, Mapping) and len(entry) == 1:
            ((name, options),) = entry.items()
        options = {} if options is None else options
        if not isinstance(name, str) or not isinstance(options, Mapping):
            raise UsageError(
                f"{where}: a pass is a name or 'name: {{option: value}}', not {entry!r}"
            )
        try:
            kind = PASSES.get(name)
        except UsageError as error:
            raise UsageError(f"{where}: {error}") from error
        found.append(_read(kind, options, f"{where}: pass {name}"))
    return tuple(found)


def override(options: SelectOptions, values: Mapping[str, Any]) -> SelectOptions:
    """Return ``options`` with some values replaced; a new level replaces the old kind of level.

    Raises:
        UsageError: values that cannot be meant together.
    """
    changed = dict(values)
    if changed.get("sparsity") is not None:
        changed.setdefault("target", {})
    if changed.get("target"):
        changed.setdefault("sparsity", None)
    return dataclasses.replace(options, **changed)


def _known(given: Iterable[Any], names: Sequence[str], where: str) -> None:
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            choices = ", ".join(names) or "none"
            raise UsageError(f"{where} has no key {key!r}.{hint} Keys: {choices}")


def _read(kind: type[Any], data: Any, where: str) -> Any:
    """Build a dataclass of simple fields from a mapping."""
    if data is None:
        data = {}
    if not isinstance(data, Mapping):
        raise UsageError(f"{where} is {data!r}; give a mapping of keys to values")
    fields = {f.name: f for f in dataclasses.fields(kind)}
    _known(data, list(fields), where)
    values = {
        key: _typed(value, str(fields[key].type), f"{where}.{key}") for key, value in data.items()
    }
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


_SIMPLE: dict[str, tuple[type, ...]] = {
    "bool": (bool,),
    "int": (int,),
    "float": (int, float),
    "str": (str,),
}


def _typed(value: Any, wanted: str, where: str) -> Any:
    """Return ``value`` if it is of the annotated type; whole numbers do for floats."""
    if wanted.startswith("Mapping[str, float]"):
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is {value!r}; give a mapping of names to numbers")
        return {str(k): _typed(v, "float", f"{where}.{k}") for k, v in value.items()}
    kinds = [part.strip() for part in wanted.split("|")]
    if value is None and "None" in kinds:
        return None
    simple = [k for k in kinds if k in _SIMPLE]
    for kind in simple:
        if isinstance(value, _SIMPLE[kind]) and (kind == "bool" or not isinstance(value, bool)):
            return float(str(value)) if kind == "float" else value
    if len(simple) == len([k for k in kinds if k != "None"]):
        raise UsageError(f"{where} is {value!r}; give {' or '.join(simple)}")
    return value  # an option of a type only the pass itself understands


class _Loader(yaml.SafeLoader):
    """YAML as people read it: 2:4 is text (not 124), 1e-3 is a number, a key may come once."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if not isinstance(key, (str, int, float, bool, type(None))):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key that is not text", node.start_mark
                )
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} twice", node.start_mark
                )
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 readers would take for something other than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("int", r"[-+]?[0-9]+", "-+0123456789"),
    (
        "float",
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan",
        "-+.0123456789",
    ),
):
    for _side in (_Loader, _Dumper):
        _side.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), list(_first)
        )
# SafeLoader reads 010 as eight.
_Loader.add_constructor(
    "tag:yaml.org,2002:int",
    lambda loader, node: int(loader.construct_scalar(cast(yaml.ScalarNode, node))),
)
